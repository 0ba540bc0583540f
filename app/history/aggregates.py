"""Groups of a table's rows: how many there are, and the least, the greatest, the average and the sum of their fields.

Arrives: what to keep, what to group by, and which figures are wanted. Leaves: the groups in the order of their keys, null
last. Fails: InvalidInput for more groups than may be, for a bucket that can't be, and for figures beyond double precision.

What writes SQL is apart from what runs it, so that a larger statement can hold an aggregate as a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import asyncpg

from app.database import Connection
from app.errors import InvalidInput
from app.history.buckets import Bucket
from app.history.clauses import Clause
from app.history.fields import Kind
from app.history.pages import MOST_ROWS, ROW
from app.history.shapes import TableShape

MOST_METRICS = 100  # names of metrics that are summed up at once
BUCKET = "bucket"  # the column of a group's key that holds where its bucket begins


class Figure(Enum):
    """What is told of a field of a group's rows. Nulls don't count; where there is nothing else, the figure is null."""

    MIN = "min"
    MAX = "max"
    AVG = "avg"
    SUM = "sum"


_GROUPABLE = {Kind.TEXT_ID, Kind.TEXT, Kind.BOOLEAN, Kind.CHOICE, Kind.RANK}
_COMPARABLE = {Kind.INSTANT, Kind.FLOAT, Kind.RANK}
_METRIC = ("count", *(figure.value for figure in Figure))


def list_groupable(shape: TableShape) -> tuple[str, ...]:
    """The fields that rows can be grouped by as they are."""
    return tuple(name for name, each in shape.fields.items() if each.kind in _GROUPABLE)


def list_instants(shape: TableShape) -> tuple[str, ...]:
    """The fields that rows can be grouped by in buckets."""
    return tuple(name for name, each in shape.fields.items() if each.kind is Kind.INSTANT)


def list_figures(shape: TableShape, figure: Figure) -> tuple[str, ...]:
    """The fields that have such a figure."""
    kinds = _COMPARABLE if figure in {Figure.MIN, Figure.MAX} else {Kind.FLOAT}
    return tuple(name for name, each in shape.fields.items() if each.kind in kinds)


@dataclass(frozen=True)
class AggregateRequest:
    """What is asked; `where` is about one row. `metrics` are names in a field of the kind METRICS."""

    where: Clause = field(default_factory=lambda: Clause.all_of([]))
    columns: tuple[str, ...] = ()
    bucket: Bucket | None = None
    figures: tuple[tuple[Figure, str], ...] = ()
    metrics: tuple[str, ...] = ()
    first: int | None = None
    most: int = MOST_ROWS


@dataclass(frozen=True)
class Group:
    """A group by its key: its columns, and where its bucket begins. `metrics` has count, min, max, avg and sum of each."""

    key: Mapping[str, Any]
    count: int
    figures: Mapping[tuple[Figure, str], Any]
    metrics: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class _Output:
    """A column of the answer: what it is within the grouping, and what it becomes outside, by its name."""

    name: str
    inner: Clause
    outer: Clause


def write_aggregate(shape: TableShape, request: AggregateRequest, *, row: str, owned: Clause | None = None) -> Clause:
    """Selects the groups, and one more than there may be where there is one. `row` is the alias that `where` and `owned`, one more
    condition, are about.

    The columns are `key_NAME` for each column, `bucket`, `count`, FIGURE_NAME, and `mN_FIGURE` for the Nth metric.
    """
    _check(request)
    where = Clause.all_of([request.where] if owned is None else [owned, request.where])
    keys = _write_keys(shape, request, row)
    outputs = [
        *keys,
        _Output("count", Clause("count(*)"), Clause("groups.count")),
        *(_write_figure(shape, figure, name, row) for figure, name in request.figures),
        *_write_metrics(shape, request.metrics, row),
    ]
    inner = ", ".join(f"{each.inner.sql} AS {each.name}" for each in outputs)
    outer = ", ".join(f"{each.outer.sql} AS {each.name}" for each in outputs)
    places = ", ".join(str(place) for place, _ in enumerate(keys, 1))
    limit = request.most + 1 if request.first is None else request.first
    return Clause(
        f"SELECT {outer} FROM (SELECT {inner} FROM {shape.name} AS {row} WHERE {where.sql}"
        + (
            f" GROUP BY {places}) AS groups ORDER BY {_write_order(shape, request, 'groups')}"
            if keys
            else ") AS groups"
        )
        + f" LIMIT {limit}",
        tuple(
            argument
            for clause in (*(each.outer for each in outputs), *(each.inner for each in outputs), where)
            for argument in clause.arguments
        ),
    )


def _write_keys(shape: TableShape, request: AggregateRequest, row: str) -> list[_Output]:
    keys = [
        _Output(f"key_{name}", Clause(shape.express(name, row)), Clause(f"groups.key_{name}"))
        for name in request.columns
    ]
    if request.bucket is not None:
        group = request.bucket.write_group(shape.express(request.bucket.column, row))
        keys.append(_Output(BUCKET, group, request.bucket.write_start(f"groups.{BUCKET}")))
    return keys


def _write_order(shape: TableShape, request: AggregateRequest, row: str) -> str:
    terms = [shape.rank(name, f"{row}.key_{name}") for name in request.columns]
    return ", ".join([*terms, f"{row}.{BUCKET}"] if request.bucket is not None else terms)


def _write_figure(shape: TableShape, figure: Figure, name: str, row: str) -> _Output:
    output = f"{figure.value}_{name}"
    expression = shape.rank(name, shape.express(name, row))
    return _Output(output, Clause(f"{figure.value}({expression})"), Clause(shape.unrank(name, f"groups.{output}")))


def _write_metrics(shape: TableShape, names: Sequence[str], row: str) -> list[_Output]:
    column = next((name for name, each in shape.fields.items() if each.kind is Kind.METRICS), None)
    if column is None or not names:
        return []
    value = f"({shape.express(column, row)} -> $$::text)::float8"
    return [
        _Output(f"m{place}_{word}", Clause(f"{word}({value})", (name,)), Clause(f"groups.m{place}_{word}"))
        for place, name in enumerate(names)
        for word in _METRIC
    ]


async def find_groups(connection: Connection, shape: TableShape, request: AggregateRequest) -> list[Group]:
    """The groups asked for, in one statement. Without anything to group by it's one, of no rows too."""
    return _read_groups(shape, request, await _fetch(connection, write_aggregate(shape, request, row=ROW)))


async def find_groups_by_machine(
    connection: Connection, shape: TableShape, request: AggregateRequest, machine_ids: Sequence[str]
) -> list[list[Group]]:
    """The same of each of these machines' rows, in one statement."""
    groups = write_aggregate(shape, request, row=ROW, owned=Clause(f"{ROW}.machine_id = owner"))
    order = _write_order(shape, request, "page")
    rows = await _fetch(
        connection,
        Clause(
            f"SELECT owner, page.* FROM unnest($$::text[]) AS owners (owner) "
            f"CROSS JOIN LATERAL ({groups.sql}) AS page ORDER BY owner{', ' if order else ''}{order}",
            (list(dict.fromkeys(machine_ids)), *groups.arguments),
        ),
    )
    found: dict[str, list[asyncpg.Record]] = {machine_id: [] for machine_id in machine_ids}
    for row in rows:
        found[row["owner"]].append(row)
    return [_read_groups(shape, request, found[machine_id]) for machine_id in machine_ids]


async def _fetch(connection: Connection, clause: Clause) -> list[asyncpg.Record]:
    statement, arguments = clause.number()
    try:
        return await connection.fetch(statement, *arguments)
    except asyncpg.NumericValueOutOfRangeError as error:
        raise InvalidInput(
            "The sum or the average of these values is beyond double precision: leave avg and sum out.", field="groupBy"
        ) from error
    except asyncpg.InvalidParameterValueError as error:
        if "time zone" not in str(error):
            raise
        raise InvalidInput(
            "groupBy.bucket.timeZone is not known to the database: choose another.", field="groupBy.bucket.timeZone"
        ) from error


def _read_groups(shape: TableShape, request: AggregateRequest, rows: Sequence[asyncpg.Record]) -> list[Group]:
    if request.first is None and len(rows) > request.most:
        raise InvalidInput(
            f"groupBy makes more than {request.most:,} groups (AURUM_MAX_PAGE_ROWS): choose fewer columns or a longer "
            "bucket, or ask for the first of them.",
            field="groupBy",
        )
    return [
        Group(
            key={
                **{name: shape.fields[name].decode(row[f"key_{name}"]) for name in request.columns},
                BUCKET: None if request.bucket is None else row[BUCKET],
            },
            count=row["count"],
            figures={
                (figure, name): shape.fields[name].decode(row[f"{figure.value}_{name}"])
                for figure, name in request.figures
            },
            metrics={
                name: {word: row[f"m{place}_{word}"] for word in _METRIC} for place, name in enumerate(request.metrics)
            },
        )
        for row in rows
    ]


def _check(request: AggregateRequest) -> None:
    if request.first is not None and not 0 <= request.first <= request.most:
        raise InvalidInput(f"first must be from 0 to {request.most:,} (AURUM_MAX_PAGE_ROWS).", field="first")
    if len(request.metrics) > MOST_METRICS:
        raise InvalidInput(f"names must be at most {MOST_METRICS} metrics.", field="names")
    if request.bucket is not None:
        request.bucket.check("groupBy.bucket")
