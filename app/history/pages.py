"""Pages of a table, forwards and backwards, that stay where they are while rows come and go.

Arrives: what to keep, in which order, and a cursor. Leaves: rows, each with its cursor. Fails: InvalidInput for a
cursor that isn't ours or belongs to another order, and for a page that is too large.

What writes SQL is apart from what runs it, so that a larger statement can hold a page as a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from app.database import Connection
from app.errors import InvalidInput
from app.history.clauses import Clause
from app.history.keyset import complete_order, read_cursor, reverse_order, write_beyond, write_cursors, write_order
from app.history.shapes import Ordering, TableShape

MOST_ROWS = 10_000  # of a page, where nobody says otherwise
DEFAULT_PAGE = 100  # rows
ROW = "r"  # the alias of the row that a condition is about, in the statements that are run here


@dataclass(frozen=True)
class PageRequest:
    """Relay's arguments; `where` is about one row. Without `first` and `last` a page has DEFAULT_PAGE rows, or `most`
    where that is less."""

    where: Clause = field(default_factory=lambda: Clause.all_of([]))
    order: tuple[Ordering, ...] = ()
    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None
    most: int = MOST_ROWS


@dataclass(frozen=True)
class Page:
    """Rows in order, and one cursor per row."""

    rows: list[asyncpg.Record]
    cursors: list[str]
    has_next: bool
    has_previous: bool


def write_page(shape: TableShape, request: PageRequest, *, row: str, owned: Clause | None = None) -> Clause:
    """Selects all fields of a page's rows, in the order of `write_page_source`."""
    source = write_page_source(shape, request, row=row, owned=owned)
    return Clause(f"SELECT {shape.select(row)} {source.sql}", source.arguments)


def write_page_source(
    shape: TableShape, request: PageRequest, *, row: str, owned: Clause | None = None, spare: int = 1
) -> Clause:
    """What stands behind a page's SELECT: its rows, and `spare` more where there are any, in the order in which they are
    walked, so that `last` rows come last to first. `row` is their alias, which `where` and `owned`, one more condition, are
    about."""
    size = check_size(request)
    order = complete_order(shape, request.order)
    conditions = [request.where] if owned is None else [owned, request.where]
    if request.after is not None:
        conditions.append(write_beyond(shape, order, read_cursor(shape, order, request.after, "after"), row))
    if request.before is not None:
        values = read_cursor(shape, order, request.before, "before")
        conditions.append(write_beyond(shape, reverse_order(order), values, row))
    where = Clause.all_of(conditions)
    walked = write_order(shape, _walk(shape, request), partial(shape.express, row=row))
    return Clause(
        f"FROM {shape.name} AS {row} WHERE {where.sql} ORDER BY {walked} LIMIT {size + spare}",
        where.arguments,
    )


def write_count(shape: TableShape, where: Clause, *, row: str) -> Clause:
    """Counts the rows of all pages together; `where` is about the row that has this alias."""
    return Clause(f"SELECT count(*) FROM {shape.name} AS {row} WHERE {where.sql}", where.arguments)


async def find_page(connection: Connection, shape: TableShape, request: PageRequest) -> Page:
    """The page asked for, in one statement."""
    statement, arguments = write_page(shape, request, row=ROW).number()
    return _cut(shape, request, await connection.fetch(statement, *arguments))


async def find_pages(
    connection: Connection, shape: TableShape, request: PageRequest, machine_ids: Sequence[str]
) -> list[Page]:
    """The same page of each of these machines' rows, in one statement."""
    page = write_page(shape, request, row=ROW, owned=Clause(f"{ROW}.machine_id = owner"))
    columns = ", ".join(f"page.{name}" for name in shape.fields)
    order = write_order(shape, _walk(shape, request), lambda name: f"page.{name}")
    statement, arguments = Clause(
        f"SELECT owner, {columns} FROM unnest($$::text[]) AS owners (owner) "
        f"CROSS JOIN LATERAL ({page.sql}) AS page ORDER BY owner, {order}",
        (list(dict.fromkeys(machine_ids)), *page.arguments),
    ).number()
    rows = await connection.fetch(statement, *arguments)
    found: dict[str, list[asyncpg.Record]] = {machine_id: [] for machine_id in machine_ids}
    for row in rows:
        found[row["owner"]].append(row)
    return [_cut(shape, request, found[machine_id]) for machine_id in machine_ids]


def _walk(shape: TableShape, request: PageRequest) -> tuple[Ordering, ...]:
    order = complete_order(shape, request.order)
    return order if request.last is None else reverse_order(order)


def _cut(shape: TableShape, request: PageRequest, rows: Sequence[asyncpg.Record]) -> Page:
    size = check_size(request)
    more = len(rows) > size
    kept = list(rows[:size])
    backwards = request.last is not None
    if backwards:
        kept.reverse()
    order = complete_order(shape, request.order)
    return Page(
        rows=kept,
        cursors=write_cursors(shape, order, kept),
        has_next=request.before is not None if backwards else more,
        has_previous=more if backwards else request.after is not None,
    )


async def count_rows(connection: Connection, shape: TableShape, where: Clause) -> int:
    """How many rows there are on all pages together."""
    statement, arguments = write_count(shape, where, row=ROW).number()
    return int(await connection.fetchval(statement, *arguments))


async def count_rows_by_machine(
    connection: Connection, shape: TableShape, where: Clause, machine_ids: Sequence[str]
) -> list[int]:
    """The same for the rows of each of these machines, in one statement."""
    statement, arguments = Clause(
        f"SELECT {ROW}.machine_id, count(*) AS rows FROM {shape.name} AS {ROW} "
        f"WHERE {where.sql} AND {ROW}.machine_id = ANY($$::text[]) GROUP BY {ROW}.machine_id",
        (*where.arguments, list(machine_ids)),
    ).number()
    counts: Mapping[str, int] = {
        row["machine_id"]: row["rows"] for row in await connection.fetch(statement, *arguments)
    }
    return [counts.get(machine_id, 0) for machine_id in machine_ids]


def check_size(request: PageRequest) -> int:
    """How many rows the page has at most. Raises InvalidInput."""
    if request.first is not None and request.last is not None:
        raise InvalidInput("Ask for first or for last, not for both.", field="last")
    for name, size in (("first", request.first), ("last", request.last)):
        if size is not None and not 0 <= size <= request.most:
            raise InvalidInput(f"{name} must be from 0 to {request.most:,} (AURUM_MAX_PAGE_ROWS).", field=name)
    if request.first is not None:
        return request.first
    return min(DEFAULT_PAGE, request.most) if request.last is None else request.last
