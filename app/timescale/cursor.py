"""Reads a statement word by word. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from app.timescale.tokens import Kind, Token, read_tokens

_END = Token(Kind.SPACE, "")


class Cursor:
    """Stands before a piece of a statement, white space and comments left out."""

    def __init__(self, source: str | Sequence[Token]) -> None:
        tokens = read_tokens(source) if isinstance(source, str) else source
        self._tokens = [token for token in tokens if not token.is_blank]
        self._at = 0

    @property
    def rest(self) -> list[Token]:
        """What is still to come."""
        return self._tokens[self._at :]

    def pop(self) -> Token:
        """The next piece, which it goes past; an empty one at the end."""
        token = self._tokens[self._at] if self._at < len(self._tokens) else _END
        self._at += 1
        return token

    def peek(self, *words: str) -> bool:
        """Whether these come next."""
        return [token.word for token in self._tokens[self._at : self._at + len(words)]] == list(words)

    def take(self, *words: str) -> bool:
        """Goes past these where they come next; says whether they did."""
        if not self.peek(*words):
            return False
        self._at += len(words)
        return True

    def take_any(self, *choices: str) -> str | None:
        """Goes past one of several phrases; says which it was."""
        return next((phrase for phrase in choices if self.take(*phrase.split())), None)

    def seek(self, *words: str) -> bool:
        """Goes past the next of these outside parentheses, whatever comes before; stays where there is none."""
        at, depth = self._at, 0
        while self._at < len(self._tokens):
            if depth == 0 and self.take(*words):
                return True
            depth += {"(": 1, ")": -1}.get(self.pop().text, 0)
        self._at = at
        return False

    def find_all(self, *words: str) -> list[Cursor]:
        """What is behind each of these that is still to come, in parentheses or out of them."""
        rest = self.rest
        found = [at + len(words) for at in range(len(rest)) if Cursor(rest[at:]).peek(*words)]
        return [Cursor(rest[at:]) for at in found]

    def contains(self, *words: str) -> bool:
        """Whether these are still to come, in parentheses or out of them."""
        return bool(self.find_all(*words))

    def pop_name(self) -> str:
        """A name, with its schema where that is said, as the catalogue has it."""
        name = self.pop().name
        while self.take("."):
            name = f"{name}.{self.pop().name}"
        return name

    def pop_table(self) -> str:
        """The name of a table that may have ONLY before it and * after it."""
        self.take("ONLY")
        name = self.pop_name()
        self.take("*")
        return name

    def pop_tables(self) -> list[str]:
        """The names of tables with commas between them."""
        names = [self.pop_table()]
        while self.take(","):
            names.append(self.pop_table())
        return names

    def split(self) -> list[Cursor]:
        """What is still to come, cut at the commas outside parentheses and brackets."""
        parts: list[list[Token]] = [[]]
        depth = 0
        for token in self.rest:
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
            if token.text == "," and depth == 0:
                parts.append([])
            else:
                parts[-1].append(token)
        return [Cursor(part) for part in parts]
