"""The database as somebody sees it who is bound to locations: the machines there, and what is about these machines.

It is one condition for each table, put around the tables themselves and not into what asks them: a statement gets CTEs of
the tables' own names before it, which stand in for the tables wherever it names them, in a condition, an order, a count or
a relation as in what it selects. So nothing that is asked can depend on a row that isn't there for whoever asks, and no
statement, plan or cache has to know of it.

Arrives: statements as everybody's. Leaves: what they find among these rows. Fails: as they do.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, Final, NoReturn, cast

from app.database import Connection, Database, Edition
from app.engine import Engine

_MACHINE: Final = "machine_id IN (SELECT machine_id FROM machines)"

# In the order in which they rest on each other; `{locations}` is an argument. A table that is neither here nor among
# UNBOUND is not to be read at all by somebody who is bound.
CONDITIONS: Final[Mapping[str, str]] = {
    "machines": "location = ANY({locations}::text[])",
    "raw_measurements": _MACHINE,
    "features": _MACHINE,
    "predictions": _MACHINE,
    "esg_records": _MACHINE,
    "alerts": _MACHINE,
    "alert_transitions": "alert_id IN (SELECT id FROM alerts)",
    "machine_pulses": _MACHINE,
    "rollups": _MACHINE,
    "rollup_changes": _MACHINE,
    "outbox": "false",
    "outbox_readers": "false",
    "file_loads": "false",
    "api_keys": "false",
    "audit": "false",
    "allowances": "false",
}
UNBOUND: Final = frozenset({"rollup_cover"})  # about no machine: from when until when hours are rolled up

_NAMES = re.compile(r"[a-z_]+")


@lru_cache(maxsize=1_000)
def narrow_statement(statement: str, arguments: int) -> str:
    """A SELECT of so many arguments among the rows that are there; the locations are one argument more, the last."""
    if statement.lstrip()[:6].upper() != "SELECT":
        raise ValueError("only a SELECT can be narrowed to what somebody sees")
    named = set(_NAMES.findall(statement))
    for table, condition in reversed(list(CONDITIONS.items())):
        if table in named:
            named.update(_NAMES.findall(condition))
    # Not materialized, so that indexes are used as ever. Within its own CTE a name is still the table's.
    parts = [
        f"{table} AS NOT MATERIALIZED (SELECT * FROM {table} WHERE {condition.format(locations=f'${arguments + 1}')})"
        for table, condition in CONDITIONS.items()
        if table in named
    ]
    # An argument that nothing refers to would have no type.
    parts.append(f"bound AS (SELECT ${arguments + 1}::text[])")
    return f"WITH {', '.join(parts)} {statement}"


class _NarrowedConnection:
    """As much of a connection as questions need."""

    def __init__(self, connection: Connection, locations: list[str]) -> None:
        self._connection = connection
        self._locations = locations

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        narrowed = narrow_statement(statement, len(arguments))
        return await self._connection.fetch(narrowed, *arguments, self._locations)

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        narrowed = narrow_statement(statement, len(arguments))
        return await self._connection.fetchrow(narrowed, *arguments, self._locations)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        narrowed = narrow_statement(statement, len(arguments))
        return await self._connection.fetchval(narrowed, *arguments, self._locations)

    def transaction(self, **options: Any) -> Any:
        return self._connection.transaction(**options)


class VisibleDatabase(Database):
    """Another database, to be read alone, as it is seen from these locations."""

    def __init__(self, whole: Database, locations: frozenset[str]) -> None:
        self._whole = whole
        self._locations = sorted(locations)

    @property
    def edition(self) -> Edition:
        return self._whole.edition

    @property
    def engine(self) -> Engine:
        self._refuse()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        async with self._whole.reading() as connection:
            yield cast("Connection", _NarrowedConnection(connection, self._locations))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with self.reading() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        self._refuse()
        yield  # so that it is a generator, as the one that it stands for

    def _refuse(self) -> NoReturn:
        raise RuntimeError("what somebody sees of the database can't be written to")
