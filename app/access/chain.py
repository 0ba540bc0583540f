"""How rows of audit hang together: each has the hash of the one before, and a hash over that and all of its own. Pure.

What is hashed, by SHA-256, is in UTF-8 and joined by commas: the hash before in hexadecimal digits, the number, the
instant in microseconds since 1970, actor, its kind, the id of its API key, action, the subject's kind, the subject, before,
after, the correlation id; each as its length in bytes, a colon and itself, or as a dash where it is null. The trigger of the
table does the same in SQL.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final

import msgspec

from app.errors import InvalidInput
from app.instants import to_microseconds

NOTHING: Final = bytes(32)  # stands for the hash before the first row
_ANCHOR: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


class Link(msgspec.Struct, frozen=True):
    """A row of audit; `before` and `after` as PostgreSQL writes them."""

    id: int
    at: datetime
    actor: str
    actor_kind: str
    actor_key: int | None
    action: str
    subject_kind: str
    subject: str
    before: str | None
    after: str | None
    correlation_id: str
    previous_hash: bytes
    hash: bytes


class Anchor(msgspec.Struct, frozen=True):
    """A place in the chain that somebody has noted elsewhere: the number of a row and its hash."""

    id: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.id}:{self.hash.hex()}"


BEGINNING: Final = Anchor(0, NOTHING)


def read_anchor(text: str, option: str) -> Anchor:
    """An anchor as it was printed. Raises InvalidInput, which names the option."""
    formed = _ANCHOR.fullmatch(text)
    if formed is None:
        raise InvalidInput(f"--{option} is {text[:100]!r}: it must be NUMBER:HASH, as audit-verify prints it.")
    return Anchor(int(formed[1]), bytes.fromhex(formed[2]))


def hash_link(link: Link) -> bytes:
    """The hash that the row should have."""
    fields = (
        link.previous_hash.hex(),
        str(link.id),
        str(to_microseconds(link.at)),
        link.actor,
        link.actor_kind,
        None if link.actor_key is None else str(link.actor_key),
        link.action,
        link.subject_kind,
        link.subject,
        link.before,
        link.after,
        link.correlation_id,
    )
    return hashlib.sha256(b",".join(map(_measure, fields))).digest()


def _measure(field: str | None) -> bytes:
    if field is None:
        return b"-"
    encoded = field.encode()
    return b"%d:%s" % (len(encoded), encoded)


def find_break(before: Anchor, link: Link) -> str | None:
    """Why a row is not the one that was written behind `before`, in a sentence; None where it is."""
    expected = before.id + 1
    if link.id != expected:
        if link.id < expected:
            return f"Row {link.id} was put in: no row has a number below 1."
        missing = f"Row {expected} is" if link.id == expected + 1 else f"Rows {expected} to {link.id - 1} are"
        return f"{missing} missing."
    if link.hash != hash_link(link):
        return f"Row {link.id} is not as it was written."
    if link.previous_hash != before.hash:
        return f"Row {link.id} does not follow on row {before.id}: one of them took another's place."
    return None
