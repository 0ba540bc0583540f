"""The words of an SQL statement, as PostgreSQL and psql read them: what is a string, a name, a comment, and what isn't. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a piece of a statement is. A PARAMETER is $1; a QUOTED name keeps its case, a WORD doesn't."""

    SPACE = r"\s+"
    LINE_COMMENT = r"--[^\n]*"
    BLOCK_COMMENT = r"/\*"
    STRING = r"[eE]'(?:[^'\\]|''|\\.)*'|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'|(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag)"
    QUOTED = r'(?:[uU]&)?"(?:[^"]|"")*"'
    PARAMETER = r"\$\d+"
    WORD = r"[^\W\d][\w$]*"
    NUMBER = r"(?:\d|\.\d)[\w.]*"
    SYMBOL = r"::|:=|."


_PIECE = re.compile("|".join(f"(?P<{kind.name}>{kind.value})" for kind in Kind), re.DOTALL)
_BLOCK_EDGE = re.compile(r"/\*|\*/")
_BLANK = {Kind.SPACE, Kind.LINE_COMMENT, Kind.BLOCK_COMMENT}


@dataclass(frozen=True)
class Token:
    """A piece as it is written."""

    kind: Kind
    text: str

    @property
    def is_blank(self) -> bool:
        """Whether PostgreSQL takes it for white space."""
        return self.kind in _BLANK

    @property
    def word(self) -> str:
        """A keyword or symbol in capitals; nothing for strings and quoted names, which are never keywords."""
        return "" if self.kind in {Kind.STRING, Kind.QUOTED} else self.text.upper()

    @property
    def name(self) -> str:
        """What a name means: quotes off, or in small letters."""
        return self.text[1:-1].replace('""', '"') if self.text.startswith('"') else self.text.lower()


def read_tokens(sql: str) -> Iterator[Token]:
    """All of a text, piece by piece: put together again they are the text."""
    at = 0
    while at < len(sql):
        match = _PIECE.match(sql, at)
        if match is None or match.lastgroup is None:  # every character is a symbol at least
            raise AssertionError(f"no piece at {at}")
        # The tag of a dollar quote is a group within one.
        kind = next(each for each in Kind if match[each.name] is not None)
        end = _find_block_end(sql, match.end()) if kind is Kind.BLOCK_COMMENT else match.end()
        yield Token(kind, sql[at:end])
        at = end


def _find_block_end(sql: str, at: int) -> int:
    depth = 1
    while depth and (edge := _BLOCK_EDGE.search(sql, at)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return len(sql) if depth else at


def write_tokens(tokens: Iterable[Token]) -> str:
    """The text of these pieces."""
    return "".join(token.text for token in tokens)


def split_statements(sql: str) -> list[str]:
    """The statements of a text, without the semicolons between them; one that is blank is left out."""
    found: list[list[Token]] = [[]]
    depth = 0  # of parentheses (CREATE RULE has statements inside) and of a function's BEGIN ATOMIC ... END
    for token in read_tokens(sql):
        statement = found[-1]
        if token.text in {"(", ")"}:
            depth += 1 if token.text == "(" else -1
        elif token.word == "ATOMIC" and _last_word(statement) == "BEGIN":
            depth += 1
        elif token.word in {"CASE", "END"} and depth and _has_atomic(statement):
            depth += 1 if token.word == "CASE" else -1
        if token.text == ";" and depth <= 0:
            found.append([])
        else:
            statement.append(token)
    return [write_tokens(each).strip() for each in found if not all(token.is_blank for token in each)]


def _last_word(tokens: Sequence[Token]) -> str:
    return next((token.word for token in reversed(tokens) if not token.is_blank), "")


def _has_atomic(tokens: Sequence[Token]) -> bool:
    return any(token.word == "ATOMIC" for token in tokens)
