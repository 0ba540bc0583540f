"""SQL, cut into tokens and statements as PostgreSQL cuts it. What a DO block holds is statements too. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

_TOKEN = re.compile(
    r"""
      (?P<skipped>\s+ | --[^\n]* | /\*.*?\*/)
    | (?P<string>[eE]'(?:\\.|''|[^'\\])*' | [uU]&'(?:''|[^'])*' | [bBxX]?'(?:''|[^'])*')
    | (?P<body>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    | (?P<quoted>"(?:""|[^"])*")
    | (?P<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)
    | (?P<number>\d[\w.]*)
    | (?P<symbol>::|=>|:=|.)
    """,
    re.VERBOSE | re.DOTALL,
)

# Where a statement begins in PL/pgSQL, other than after a semicolon.
_OPENERS = {"begin", "then", "else", "loop", "declare"}


class Kind(Enum):
    """What a token is: a `body` is a dollar-quoted string."""

    STRING = "string"
    BODY = "body"
    QUOTED = "quoted"
    WORD = "word"
    NUMBER = "number"
    SYMBOL = "symbol"


@dataclass(frozen=True)
class Token:
    """`value` is what it stands for: a word in lower case, a string or a quoted name without its quotes."""

    kind: Kind
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Statement:
    """Its tokens without the semicolon; `guarded` says that it stands in a DO block, which may ask before it runs it."""

    tokens: tuple[Token, ...]
    guarded: bool


def read_tokens(sql: str) -> list[Token]:
    """The tokens without space and comments."""
    return [
        Token(Kind(match.lastgroup), _unquote(match), *match.span())
        for match in _TOKEN.finditer(sql)
        if match.lastgroup != "skipped"
    ]


def _unquote(match: re.Match[str]) -> str:
    text = match[0]
    match match.lastgroup:
        case "word":
            return text.lower()
        case "quoted":
            return text[1:-1].replace('""', '"')
        case "string":
            return text[text.index("'") + 1 : -1].replace("''", "'")
        case "body":
            width = len(match["tag"]) + 2
            return text[width:-width]
    return text


def read_statements(sql: str, *, guarded: bool = False) -> Iterator[Statement]:
    """The statements of a text, each DO block followed by those inside it."""
    for tokens in _split(read_tokens(sql), guarded=guarded):
        yield Statement(tuple(tokens), guarded)
        first = tokens[0].value if tokens[0].kind is Kind.WORD else ""
        if first == "do" or (guarded and first == "execute"):
            for token in tokens:
                if token.kind in {Kind.BODY, Kind.STRING}:
                    yield from read_statements(token.value, guarded=True)


def _split(tokens: Sequence[Token], *, guarded: bool) -> Iterator[list[Token]]:
    current: list[Token] = []
    for token in tokens:
        ends = token.value == ";" and token.kind is Kind.SYMBOL
        if ends or (guarded and token.kind is Kind.WORD and token.value in _OPENERS):
            if current:
                yield current
            current = []
        else:
            current.append(token)
    if current:
        yield current


class Reader:
    """Goes through tokens from left to right."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.rest = list(tokens)

    def peek(self, *words: str) -> bool:
        """Whether these keywords or symbols come next."""
        return len(self.rest) >= len(words) and all(
            token.value == word and token.kind in {Kind.WORD, Kind.SYMBOL}
            for token, word in zip(self.rest, words, strict=False)
        )

    def take(self, *words: str) -> bool:
        """Steps over these keywords or symbols, where they come next."""
        found = self.peek(*words)
        if found:
            del self.rest[: len(words)]
        return found

    def skip_to(self, *words: str) -> bool:
        """Goes to behind the first of these, outside of brackets."""
        for place, token in enumerate(self.rest):
            if token.kind is Kind.WORD and token.value in words and is_balanced(self.rest[:place]):
                del self.rest[: place + 1]
                return True
        return False

    def take_name(self) -> str | None:
        """A name without its schema, where one comes next."""
        name = None
        while self.rest and self.rest[0].kind in {Kind.WORD, Kind.QUOTED}:
            name = self.rest.pop(0).value
            if not self.take("."):
                break
        return name

    def take_names(self) -> list[str]:
        """Names with commas between them."""
        names = []
        while (name := self.take_name()) is not None:
            names.append(name)
            if not self.take(","):
                break
        return names

    def take_bracketed(self) -> list[Token]:
        """What is in the brackets that come next."""
        if not self.take("("):
            return []
        taken: list[Token] = []
        while self.rest:
            token = self.rest.pop(0)
            if token.value == ")" and token.kind is Kind.SYMBOL and is_balanced(taken):
                break
            taken.append(token)
        return taken


def split_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    """The parts between commas that are outside of brackets."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind is Kind.SYMBOL:
            depth += (token.value in "([") - (token.value in ")]")
            if token.value == "," and depth == 0:
                parts.append([])
                continue
        parts[-1].append(token)
    return [part for part in parts if part]


def is_balanced(tokens: Sequence[Token]) -> bool:
    """Whether every bracket among them is closed."""
    return not sum((token.value == "(") - (token.value == ")") for token in tokens if token.kind is Kind.SYMBOL)
