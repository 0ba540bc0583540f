"""What a client's text or object must be to be stored: bounded, of characters that can be stored, of finite numbers. Pure.

Arrives: what the client gave. Leaves: what to store. Fails: InvalidInput, which names the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from app.errors import InvalidInput

LONGEST_LINE = 200  # characters
LONGEST_PROSE = 4_000  # characters
LARGEST_OBJECT = 65_536  # bytes of JSON
DEEPEST_OBJECT = 16  # levels

_LONGEST_QUOTE = 80  # characters

_INTEGERS = 1 << 63
_BREAKS = str.maketrans("", "", "\n\r\t")


def quote_text(text: str) -> str:
    """A client's text as a sentence quotes it, cut where it's long."""
    return repr(text) if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]!r}..."


def check_line(text: str, field: str, longest: int = LONGEST_LINE) -> str:
    """A text of one line, without the spaces around it."""
    stripped = text.strip()
    if not 1 <= len(stripped) <= longest or not stripped.isprintable():
        raise InvalidInput(f"{field} must be 1 to {longest} printable characters.", field=field)
    return stripped


def check_prose(text: str | None, field: str) -> str | None:
    """A text of any number of lines, or none; one that is blank is none."""
    stripped = "" if text is None else text.strip()
    if len(stripped) > LONGEST_PROSE or not stripped.translate(_BREAKS).isprintable():
        raise InvalidInput(
            f"{field} must be at most {LONGEST_PROSE:,} printable characters, in lines or not.", field=field
        )
    return stripped or None


def check_object(value: object, field: str) -> dict[str, Any]:
    """A JSON object that PostgreSQL can keep as it is."""
    if not isinstance(value, dict):
        raise InvalidInput(f'{field} must be a JSON object, such as {{"temperature": 91.5}}.', field=field)
    for part, level in _walk(value):
        if level > DEEPEST_OBJECT:
            raise InvalidInput(f"{field} must be nested at most {DEEPEST_OBJECT} levels deep.", field=field)
        if isinstance(part, float) and not math.isfinite(part):
            raise InvalidInput(f"{field} must hold finite numbers alone.", field=field)
        if isinstance(part, int) and not -_INTEGERS <= part < _INTEGERS:
            raise InvalidInput(f"{field} must hold integers of 64 bits at most.", field=field)
        if isinstance(part, str) and not _can_be_stored(part):
            raise InvalidInput(f"{field} has a character that can't be stored, such as NUL.", field=field)
    if (size := len(msgspec.json.encode(value))) > LARGEST_OBJECT:
        raise InvalidInput(f"{field} has {size:,} bytes of JSON: at most {LARGEST_OBJECT:,} are kept.", field=field)
    return value


def _walk(value: object) -> Iterator[tuple[object, int]]:
    """Every value and name in it, with its level, down to the first that is too deep."""
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        yield part, level
        if isinstance(part, dict):
            yield from ((name, level) for name in part)
            waiting += [(each, level + 1) for each in part.values()]
        elif isinstance(part, list):
            waiting += [(each, level + 1) for each in part]


def _can_be_stored(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
