"""Groups of rows beside every connection: one implementation for every table, its types made from what its shape says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from typing import Any

import strawberry
from strawberry.types.field import StrawberryField
from strawberry.types.nodes import SelectedField, Selection
from strawberry.utils.str_converters import to_camel_case

from app.graphql.context import Info
from app.graphql.filters import read_where
from app.graphql.inputs import WHERES
from app.history.aggregates import (
    BUCKET,
    AggregateRequest,
    Figure,
    Group,
    find_groups,
    list_figures,
    list_groupable,
    list_instants,
)
from app.history.buckets import Bucket
from app.history.fields import Field, Kind
from app.history.pages import ROW
from app.history.shapes import TableShape

_TYPES: dict[Kind, Any] = {
    Kind.TEXT_ID: strawberry.ID,
    Kind.TEXT: str,
    Kind.BOOLEAN: bool,
    Kind.INSTANT: datetime,
    Kind.FLOAT: float,
}


@strawberry.type(description="One metric over a group's readings that have it; null where none has.")
class MetricFigures:
    name: str
    count: float
    min: float | None
    max: float | None
    avg: float | None
    sum: float | None


class _Shown:
    """The types that a table's groups are shown and asked by."""

    def __init__(self, shape: TableShape) -> None:
        self._shape = shape
        self.key = self._make_type(
            "GroupKey",
            "What a group has in common; null where it isn't grouped by that, or where the rows have no value.",
            {**{name: self._find_type(name) for name in list_groupable(shape)}, BUCKET: datetime},
        )
        self.extremes = self._make_type(
            "Extremes",
            "The least or the greatest value of each field; null where no row has one.",
            {name: self._find_type(name) for name in list_figures(shape, Figure.MIN)},
        )
        numbers = list_figures(shape, Figure.SUM)
        self.numbers = numbers and self._make_type(
            "Numbers", "A figure of each number; null where no row has one.", dict.fromkeys(numbers, float)
        )
        self.group = self._make_group()
        self.group_by = self._make_group_by()

    def _find_type(self, name: str) -> Any:
        field: Field = self._shape.fields[name]
        return field.choices or _TYPES[field.kind]

    def _make_type(self, suffix: str, description: str, types: Mapping[str, Any]) -> Any:
        body = {"__annotations__": {name: kind | None for name, kind in types.items()}}
        return strawberry.type(type(f"{self._shape.entity}{suffix}", (), body), description=description)

    def _make_group(self) -> Any:
        types: dict[str, Any] = {"key": self.key, "count": float, "min": self.extremes, "max": self.extremes}
        if self.numbers:
            types |= {"avg": self.numbers, "sum": self.numbers}
        body: dict[str, Any] = {"__annotations__": types}
        if _has_metrics(self._shape):
            body["metrics"] = strawberry.field(_show_metrics, description="One for each name, in their order.")
            types["found"] = strawberry.Private[Any]  # type: ignore[misc]  # a marker, where mypy sees a type
        return strawberry.type(
            type(f"{self._shape.entity}Group", (), body),
            description="Rows that belong together, and their figures.",
        )

    def _make_group_by(self) -> Any:
        entity = self._shape.entity
        columns = _make_enum(f"{entity}GroupColumn", list_groupable(self._shape))
        instants = _make_enum(f"{entity}BucketField", list_instants(self._shape))
        bucket = strawberry.input(
            type(
                f"{entity}Bucket",
                (),
                {
                    "__annotations__": {"field": instants, "width": timedelta, "time_zone": str},
                    "time_zone": StrawberryField(
                        default="UTC",
                        description="An IANA name. Whole days are the zone's own, of 23 or 25 hours where its clocks change.",
                    ),
                },
            ),
            description="Stretches of time, each with where it begins as its key. Weeks begin on Mondays.",
        )
        return strawberry.input(
            type(
                f"{entity}GroupBy",
                (),
                {
                    "__annotations__": {"columns": list[columns] | None, "bucket": bucket | None},  # type: ignore[valid-type]  # made above
                    "columns": None,
                    "bucket": None,
                },
            ),
            description="What rows of one group have in common.",
        )

    def show(self, group: Group) -> Any:
        """A group as a client sees it; what wasn't asked for is null, and is not seen."""
        rows: dict[str, Any] = {
            "key": self.key(**{name: group.key.get(name) for name in (*list_groupable(self._shape), BUCKET)}),
            "count": float(group.count),
        }
        for figure in Figure:
            kind = self.extremes if figure in {Figure.MIN, Figure.MAX} else self.numbers
            if kind:
                names = list_figures(self._shape, figure)
                rows[figure.value] = kind(**{name: group.figures.get((figure, name)) for name in names})
        if _has_metrics(self._shape):
            rows["found"] = group.metrics
        return self.group(**rows)


@cache
def _show(shape: TableShape) -> _Shown:
    return _Shown(shape)


def _has_metrics(shape: TableShape) -> bool:
    return any(field.kind is Kind.METRICS for field in shape.fields.values())


def _make_enum(name: str, columns: Sequence[str]) -> Any:
    choices: type[Enum] = Enum(name, {column.upper(): column for column in columns})  # type: ignore[misc]  # of names known at run time
    return strawberry.enum(choices)


def _show_metrics(self: Any, names: list[str]) -> list[MetricFigures]:
    return [MetricFigures(name=name, **self.found[name]) for name in names]


def aggregate(shape: TableShape, *, owned: bool = False) -> Any:
    """A field that groups a table: all of it, or the rows of the machine that it's a field of."""
    shown = _show(shape)

    async def resolve(
        self: Any, info: Info, where: Any = None, group_by: Any = None, first: int | None = None
    ) -> list[Any]:
        figures, metrics = _find_wanted(shape, info.selected_fields)
        request = AggregateRequest(
            where=read_where(shape, where, row=ROW),
            columns=tuple(dict.fromkeys(column.value for column in (group_by and group_by.columns) or ())),
            bucket=_read_bucket(group_by and group_by.bucket),
            figures=figures,
            metrics=metrics,
            first=first,
            most=info.context.rooms.max_page_rows,
        )
        if owned:
            groups = await info.context.loaders.groups.load((self.machine_id, (shape, request)))
        else:
            async with info.context.rooms.database.reading() as connection:
                groups = await find_groups(connection, shape, request)
        return [shown.show(group) for group in groups]

    resolve.__annotations__ |= {
        "where": WHERES[shape.entity] | None,
        "group_by": shown.group_by | None,
        "return": list[shown.group],  # type: ignore[name-defined]  # made above
    }
    return strawberry.field(
        resolve,
        description="In the order of their keys, null last; without groupBy one group of all rows, of none too.",
    )


def _read_bucket(bucket: Any) -> Bucket | None:
    return None if bucket is None else Bucket(bucket.field.value, bucket.width, bucket.time_zone)


def _find_wanted(
    shape: TableShape, selected: Sequence[Selection]
) -> tuple[tuple[tuple[Figure, str], ...], tuple[str, ...]]:
    """The figures and the names of metrics that the operation selects: no others are computed."""
    figures: dict[tuple[Figure, str], None] = {}
    metrics: dict[str, None] = {}
    for field in (inner for outer in _walk(selected) for inner in _walk(outer.selections)):
        if field.name == "metrics":
            names = field.arguments["names"]
            # One name may stand for a list of one.
            metrics |= dict.fromkeys([names] if isinstance(names, str) else names)
        for figure in Figure:
            if field.name == figure.value:
                chosen = {each.name for each in _walk(field.selections)}
                figures |= {
                    (figure, name): None for name in list_figures(shape, figure) if to_camel_case(name) in chosen
                }
    return tuple(figures), tuple(metrics)


def _walk(selections: Sequence[Selection]) -> Iterator[SelectedField]:
    """The fields that are selected, whatever fragments they stand in."""
    for selection in selections:
        if isinstance(selection, SelectedField):
            yield selection
        else:
            yield from _walk(selection.selections)
