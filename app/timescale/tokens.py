"""SQL, cut into tokens and statements as PostgreSQL cuts it. What a DO block holds is statements too. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

_TOKEN = re.compile(
    r"""
      (?P<skipped>\s+ | --[^\n]*)
    | (?P<comment>/\*)
    | (?P<string>[eE]'(?:\\.|''|[^'\\])*' | [uU]&'(?:''|[^'])*' | [bBxXnN]?'(?:''|[^'])*')
    | (?P<body>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    | (?P<quoted>"(?:""|[^"])*")
    | (?P<parameter>\$\d+)
    | (?P<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)
    | (?P<number>\d[\w.]*)
    | (?P<symbol>::|=>|:=|.)
    """,
    re.VERBOSE | re.DOTALL,
)

_COMMENT_EDGE = re.compile(r"/\*|\*/")

# Where a statement begins in PL/pgSQL, other than after a semicolon.
_OPENERS = {"begin", "then", "else", "loop", "declare"}


class Kind(Enum):
    """What a token is: a `body` is a dollar-quoted string, a `parameter` is $1."""

    STRING = "string"
    BODY = "body"
    QUOTED = "quoted"
    PARAMETER = "parameter"
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
    tokens, at = [], 0
    while (match := _TOKEN.match(sql, at)) is not None:
        at = _find_comment_end(sql, match.end()) if match.lastgroup == "comment" else match.end()
        if match.lastgroup not in {"skipped", "comment"}:
            tokens.append(Token(Kind(match.lastgroup), _unquote(match), *match.span()))
    return tokens


def _find_comment_end(sql: str, at: int) -> int:
    """Comments may have comments in them."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(sql, at)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return len(sql) if depth else at


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


def split_statements(sql: str) -> list[str]:
    """The texts of the statements, without the semicolons between them; one that is blank is left out."""
    texts, begin, open_blocks = [], 0, 0
    tokens = read_tokens(sql)
    for place, token in enumerate(tokens):
        word = token.value if token.kind in {Kind.WORD, Kind.SYMBOL} else ""
        # CREATE RULE has statements in brackets; a function has them between BEGIN ATOMIC and its END.
        if word == "(" or (word == "atomic" and tokens[place - 1].value == "begin") or (word == "case" and open_blocks):
            open_blocks += 1
        elif word == ")" or (word == "end" and open_blocks):
            open_blocks -= 1
        elif word == ";" and open_blocks <= 0:
            texts.append(sql[begin : token.start])
            begin = token.end
    return [text.strip() for text in (*texts, sql[begin:]) if read_tokens(text)]


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


def replace_places(sql: str, places: Sequence[tuple[int, int, str]]) -> str:
    """The text with others in these places of it: where each begins and ends, and what comes there, in order."""
    ends = [0, *(end for _, end, _ in places)]
    kept = [sql[end:begin] for end, (begin, _, _) in zip(ends, places, strict=False)]
    return (
        "".join(text for before, (_, _, new) in zip(kept, places, strict=True) for text in (before, new))
        + sql[ends[-1] :]
    )


def quote_name(name: str) -> str:
    """A name as in SQL, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str, tag: str) -> str:
    """A string between dollars that means this text whatever is in it; `tag` says to a reader what it is."""
    while f"${tag}" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


class Reader:
    """Goes through tokens, of `sql` where it is given, from left to right."""

    def __init__(self, tokens: Sequence[Token], sql: str = "") -> None:
        self.rest = list(tokens)
        self.sql = sql

    @property
    def text(self) -> str:
        """What is still to come, as it is written."""
        return self.sql[self.rest[0].start : self.rest[-1].end] if self.rest else ""

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

    def take_any(self, *phrases: str) -> str | None:
        """Steps over one of several phrases; which one it was."""
        return next((phrase for phrase in phrases if self.take(*phrase.split())), None)

    def find_all(self, *words: str) -> list[Reader]:
        """What is behind each place where these come, inside brackets too."""
        places = [
            place for place in range(len(self.rest)) if Reader(self.rest[place : place + len(words)]).peek(*words)
        ]
        return [Reader(self.rest[place + len(words) :]) for place in places]

    def contains(self, *words: str) -> bool:
        """Whether these come anywhere, inside brackets too."""
        return bool(self.find_all(*words))

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

    def take_path(self) -> str:
        """A name with its schema, where it has one; empty where no name comes next."""
        names = []
        while self.rest and self.rest[0].kind in {Kind.WORD, Kind.QUOTED}:
            names.append(self.rest.pop(0).value)
            if not self.take("."):
                break
        return ".".join(names)

    def take_table(self) -> str:
        """A path that may have ONLY before it or * after it."""
        self.take("only")
        path = self.take_path()
        self.take("*")
        return path

    def take_tables(self) -> list[str]:
        """Those with commas between them."""
        paths = [self.take_table()]
        while self.take(","):
            paths.append(self.take_table())
        return paths

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
