"""What a migration would run, written down instead of run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from app.errors import MigrationRefused
from app.timescale.locks import describe_statement
from app.timescale.steps import Step
from app.timescale.tokens import Kind, read_tokens, replace_places, split_statements


class Tape:
    """Stands in for a connection: keeps every statement, with its arguments in it, and answers with no rows."""

    def __init__(self) -> None:
        self._statements: list[str] = []

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        self._statements += split_statements(bind_arguments(query, arguments))
        return []

    async def execute(self, query: str, *arguments: Any) -> str:
        await self.fetch(query, *arguments)
        return ""

    async def executemany(self, query: str, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            await self.fetch(query, *row)

    async def fetchrow(self, query: str, *arguments: Any) -> None:
        await self.fetch(query, *arguments)

    async def fetchval(self, query: str, *arguments: Any) -> None:
        await self.fetch(query, *arguments)

    def transaction(self) -> _NoTransaction:
        return _NoTransaction()

    @property
    def steps(self) -> list[Step]:
        """What was written down."""
        return [describe_statement(sql) for sql in self._statements]


class _NoTransaction:
    """What is written down is not run, so there is nothing to begin or to end."""

    async def start(self) -> None:
        pass

    async def commit(self) -> None:
        pass

    async def rollback(self) -> None:
        pass


def bind_arguments(query: str, arguments: tuple[Any, ...]) -> str:
    """A query with its arguments in the places of $1, $2 and so on."""
    if not arguments:
        return query
    literals = [write_literal(argument) for argument in arguments]
    places = [
        (token.start, token.end, literals[int(token.value[1:]) - 1])
        for token in read_tokens(query)
        if token.kind is Kind.PARAMETER
    ]
    return replace_places(query, places)


def write_literal(value: Any) -> str:
    """A value as SQL, as PostgreSQL would have taken it for an argument. Raises MigrationRefused."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return _write_number(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return f"ARRAY[{', '.join(map(write_literal, value))}]" if value else "'{}'"
    for kind, (sql_type, text) in _TYPED.items():
        if isinstance(value, kind):
            return f"'{text(value)}'::{sql_type(value)}"
    raise MigrationRefused(
        f"A raw step gives a {type(value).__name__} as an argument, which can't be written as SQL: give it as a text."
    )


def _write_number(value: float | Decimal) -> str:
    if not math.isfinite(value):
        return f"'{value}'::{'numeric' if isinstance(value, Decimal) else 'float8'}"
    # Without parentheses, 2-$1 would become a comment.
    return f"({value!s})" if value < 0 else str(value)


_TYPED: dict[type, tuple[Any, Any]] = {
    datetime: (lambda value: "timestamp" if value.tzinfo is None else "timestamptz", datetime.isoformat),
    date: (lambda _: "date", date.isoformat),
    time: (lambda value: "time" if value.tzinfo is None else "timetz", time.isoformat),
    timedelta: (lambda _: "interval", lambda value: f"{value // timedelta(microseconds=1)} microseconds"),
    UUID: (lambda _: "uuid", str),
    bytes: (lambda _: "bytea", lambda value: f"\\x{value.hex()}"),
}
