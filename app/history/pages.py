"""Pages of a table, forwards and backwards, that stay where they are while rows come and go (keyset pagination).

Arrives: what to keep, in which order, and a cursor. Leaves: rows, each with its cursor. Fails: InvalidInput for a
cursor that isn't ours or belongs to another order, and for a page that is too large.

An order always ends with the table's key, so that every row has one place in it. Ordered columns are never null.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any

import asyncpg
import msgspec
from msgspec import Meta

from app.database import Connection
from app.errors import InvalidInput

MAX_PAGE = 10_000  # rows
DEFAULT_PAGE = 100  # rows


class ColumnKind(Enum):
    """How a column's values travel: the PostgreSQL type that a parameter is cast to."""

    TEXT = "text"
    BOOLEAN = "boolean"
    TIMESTAMPTZ = "timestamptz"

    def restore(self, value: object) -> Any:
        """The value of a cursor. Raises ValidationError or OverflowError when it can't be one of this column's."""
        types: dict[ColumnKind, Any] = {
            ColumnKind.TEXT: Annotated[str, Meta(pattern=r"\A[^\x00]*\Z")],  # PostgreSQL's texts hold no NUL
            ColumnKind.BOOLEAN: bool,
            ColumnKind.TIMESTAMPTZ: Annotated[datetime, Meta(tz=True)],
        }
        restored = msgspec.convert(value, types[self])
        return restored.astimezone(UTC) if isinstance(restored, datetime) else restored


@dataclass(frozen=True, eq=False)
class TableShape:
    """A table as its pages see it: the columns that are read, those that can be ordered by, and the key."""

    name: str
    selected: tuple[str, ...]
    kinds: Mapping[str, ColumnKind]
    key: tuple[str, ...]


MACHINES = TableShape(
    name="machines",
    selected=("machine_id", "machine_type", "location", "operational", "created_at", "updated_at"),
    kinds={
        "machine_id": ColumnKind.TEXT,
        "machine_type": ColumnKind.TEXT,
        "location": ColumnKind.TEXT,
        "operational": ColumnKind.BOOLEAN,
        "created_at": ColumnKind.TIMESTAMPTZ,
        "updated_at": ColumnKind.TIMESTAMPTZ,
    },
    key=("machine_id",),
)

MEASUREMENTS = TableShape(
    name="raw_measurements",
    selected=("machine_id", "timestamp", "metrics", "created_at"),
    kinds={
        "machine_id": ColumnKind.TEXT,
        "timestamp": ColumnKind.TIMESTAMPTZ,
        "created_at": ColumnKind.TIMESTAMPTZ,
    },
    key=("timestamp", "machine_id"),
)


@dataclass(frozen=True)
class Clause:
    """A condition in SQL, with `$$` where each of its arguments goes, in order. Names in it come from our code alone."""

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

    def negate(self) -> Clause:
        return Clause(f"(NOT {self.sql})", self.arguments)


@dataclass(frozen=True)
class Ordering:
    column: str
    descending: bool = False


@dataclass(frozen=True)
class PageRequest:
    """Relay's arguments. Without `first` and `last` a page has DEFAULT_PAGE rows."""

    where: Clause = field(default_factory=lambda: Clause.all_of([]))
    order: tuple[Ordering, ...] = ()
    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None


@dataclass(frozen=True)
class Page:
    """Rows in order, and one cursor per row."""

    rows: list[asyncpg.Record]
    cursors: list[str]
    has_next: bool
    has_previous: bool


async def find_page(connection: Connection, shape: TableShape, request: PageRequest) -> Page:
    """The page asked for, in one statement."""
    return (await find_pages(connection, shape, request, [None]))[0]


async def find_pages(
    connection: Connection, shape: TableShape, request: PageRequest, machine_ids: Sequence[str | None]
) -> list[Page]:
    """The same page of each of these machines' rows (None: of all rows), in one statement."""
    size = _check_size(request)
    order = _complete(shape, request.order)
    conditions = [request.where]
    if request.after is not None:
        conditions.append(_beyond(shape, order, _read_cursor(shape, order, request.after, "after")))
    if request.before is not None:
        reverse = _reverse(order)
        conditions.append(_beyond(shape, reverse, _read_cursor(shape, order, request.before, "before")))
    walked = order if request.last is None else _reverse(order)
    direction = ", ".join(f"{term.column} {'DESC' if term.descending else 'ASC'}" for term in walked)
    owned = [] if machine_ids == [None] else [Clause(f"{shape.name}.machine_id = owner")]
    statement, arguments = _number(Clause.all_of([*owned, *conditions]))
    page = (
        f"SELECT {', '.join(shape.selected)} FROM {shape.name} WHERE {statement} ORDER BY {direction} LIMIT {size + 1}"
    )
    if not owned:
        return [_cut(request, order, await connection.fetch(page, *arguments), size)]
    columns = ", ".join(f"page.{name}" for name in shape.selected)
    rows = await connection.fetch(
        f"SELECT owner, {columns} FROM unnest(${len(arguments) + 1}::text[]) AS owners (owner) "
        f"CROSS JOIN LATERAL ({page}) AS page ORDER BY owner, {direction}",
        *arguments,
        list(dict.fromkeys(machine_ids)),
    )
    found: dict[str | None, list[asyncpg.Record]] = {machine_id: [] for machine_id in machine_ids}
    for row in rows:
        found[row["owner"]].append(row)
    return [_cut(request, order, found[machine_id], size) for machine_id in machine_ids]


def _cut(request: PageRequest, order: Sequence[Ordering], rows: list[asyncpg.Record], size: int) -> Page:
    more = len(rows) > size
    rows = rows[:size]
    backwards = request.last is not None
    if backwards:
        rows.reverse()
    return Page(
        rows=rows,
        cursors=[_write_cursor(order, row) for row in rows],
        has_next=request.before is not None if backwards else more,
        has_previous=more if backwards else request.after is not None,
    )


async def count_rows(connection: Connection, shape: TableShape, where: Clause) -> int:
    """How many rows there are on all pages together."""
    statement, arguments = _number(where)
    return int(await connection.fetchval(f"SELECT count(*) FROM {shape.name} WHERE {statement}", *arguments))


async def count_rows_by_machine(
    connection: Connection, shape: TableShape, where: Clause, machine_ids: Sequence[str]
) -> list[int]:
    """The same for the rows of each of these machines, in one statement."""
    statement, arguments = _number(where)
    rows = await connection.fetch(
        f"SELECT machine_id, count(*) AS rows FROM {shape.name} "
        f"WHERE {statement} AND machine_id = ANY(${len(arguments) + 1}::text[]) GROUP BY machine_id",
        *arguments,
        list(machine_ids),
    )
    counts = {row["machine_id"]: int(row["rows"]) for row in rows}
    return [counts.get(machine_id, 0) for machine_id in machine_ids]


def _number(clause: Clause) -> tuple[str, tuple[Any, ...]]:
    first, *others = clause.sql.split("$$")
    return first + "".join(f"${place}{part}" for place, part in enumerate(others, 1)), clause.arguments


def _check_size(request: PageRequest) -> int:
    if request.first is not None and request.last is not None:
        raise InvalidInput("Ask for first or for last, not for both.", field="last")
    for name, size in (("first", request.first), ("last", request.last)):
        if size is not None and not 0 <= size <= MAX_PAGE:
            raise InvalidInput(f"{name} must be from 0 to {MAX_PAGE:,}.", field=name)
    if request.first is not None:
        return request.first
    return DEFAULT_PAGE if request.last is None else request.last


def _complete(shape: TableShape, order: Sequence[Ordering]) -> tuple[Ordering, ...]:
    # The key goes on in the direction of the last term, so that one index can serve the whole order.
    unique = {term.column: term for term in reversed(order)}
    named = tuple(dict.fromkeys(unique[term.column] for term in order))
    descending = named[-1].descending if named else False
    return named + tuple(Ordering(column, descending) for column in shape.key if column not in unique)


def _reverse(order: Sequence[Ordering]) -> tuple[Ordering, ...]:
    return tuple(Ordering(term.column, not term.descending) for term in order)


def _beyond(shape: TableShape, order: Sequence[Ordering], values: Sequence[Any]) -> Clause:
    """The rows that follow the one with these values."""
    casts = [f"$$::{shape.kinds[term.column].value}" for term in order]
    if len({term.descending for term in order}) == 1:
        # A row comparison, which an index on these columns answers.
        sign = "<" if order[0].descending else ">"
        columns = ", ".join(term.column for term in order)
        return Clause(f"(({columns}) {sign} ({', '.join(casts)}))", tuple(values))
    choices: list[Clause] = []
    for place, term in enumerate(order):
        equal = [
            Clause(f"{earlier.column} = {cast}", (value,))
            for earlier, cast, value in zip(order[:place], casts, values, strict=False)
        ]
        sign = "<" if term.descending else ">"
        choices.append(Clause.all_of([*equal, Clause(f"{term.column} {sign} {casts[place]}", (values[place],))]))
    return Clause.any_of(choices)


def _sign(order: Sequence[Ordering]) -> list[str]:
    return [("-" if term.descending else "+") + term.column for term in order]


def _write_cursor(order: Sequence[Ordering], row: asyncpg.Record) -> str:
    content = msgspec.json.encode([_sign(order), [row[term.column] for term in order]])
    return base64.urlsafe_b64encode(content).decode()


def _read_cursor(shape: TableShape, order: Sequence[Ordering], cursor: str, field: str) -> list[Any]:
    try:
        content = base64.b64decode(cursor, altchars=b"-_", validate=True)
        signature, values = msgspec.json.decode(content, type=tuple[list[str], list[Any]])
        if signature != _sign(order):
            raise InvalidInput(f"{field} is a cursor of another orderBy: start again without it.", field=field)
        return [shape.kinds[term.column].restore(value) for term, value in zip(order, values, strict=True)]
    except (binascii.Error, msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"{field} is not a cursor of this connection: take it from pageInfo or an edge.", field=field
        ) from error
