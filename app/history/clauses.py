"""Pieces of SQL that carry their arguments with them, put together before any of it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any


@dataclass(frozen=True)
class Clause:
    """A piece of SQL with `$$` where each of its arguments goes, in order. Names in it come from our code alone."""

    sql: str
    arguments: tuple[Any, ...] = ()

    @staticmethod
    def join(word: str, clauses: Sequence[Clause], otherwise: str) -> Clause:
        """`a AND b AND c`; `otherwise` where there is nothing to join."""
        if not clauses:
            return Clause(otherwise)
        arguments = tuple(argument for clause in clauses for argument in clause.arguments)
        return Clause("(" + f" {word} ".join(clause.sql for clause in clauses) + ")", arguments)

    @staticmethod
    def all_of(clauses: Sequence[Clause]) -> Clause:
        return Clause.join("AND", clauses, "true")

    @staticmethod
    def any_of(clauses: Sequence[Clause]) -> Clause:
        return Clause.join("OR", clauses, "false")

    @staticmethod
    def concat(*pieces: Clause | str) -> Clause:
        """One behind the other."""
        text = "".join(piece if isinstance(piece, str) else piece.sql for piece in pieces)
        arguments = [piece.arguments for piece in pieces if not isinstance(piece, str)]
        return Clause(text, tuple(chain.from_iterable(arguments)))

    def negate(self) -> Clause:
        return Clause(f"(NOT {self.sql})", self.arguments)

    def number(self) -> tuple[str, tuple[Any, ...]]:
        """A statement's text with `$1`, `$2` and so on, and its arguments."""
        first, *others = self.sql.split("$$")
        return first + "".join(f"${place}{part}" for place, part in enumerate(others, 1)), self.arguments
