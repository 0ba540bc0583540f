"""What a migration would run, written down instead of run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_PARAMETER = re.compile(r"\$(\d+)")


class Tape:
    """Stands in for a connection: keeps every statement, with its arguments in it, and answers with no rows."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        self.statements.append(_bind(query, arguments).strip().rstrip(";"))
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


class _NoTransaction:
    """What is written down is not run, so there is nothing to begin or to end."""

    async def start(self) -> None:
        pass

    async def commit(self) -> None:
        pass

    async def rollback(self) -> None:
        pass


def _bind(query: str, arguments: tuple[Any, ...]) -> str:
    if not arguments:
        return query
    # Only raw steps with arguments need it, and importing it takes a third of a second.
    from sqlglot import exp  # noqa: PLC0415 - as said

    literals = [exp.convert(argument).sql("postgres") for argument in arguments]
    return _PARAMETER.sub(lambda match: literals[int(match[1]) - 1], query)
