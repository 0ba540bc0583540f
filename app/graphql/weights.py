"""What a field weighs: how many objects a list has before anyone has looked, and how many chunks a range of time opens.

Arrives: a field's arguments, as plain values with defaults and variables put in; what isn't of the type that the schema says
is passed over, since execution refuses it anyway. Leaves: counts. Nothing fails.

A unit is about what one row costs, from the database to the answer. Fields that page (`first`, `last`) weigh by their page,
whatever their type; every other list of objects is in LISTS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from strawberry.utils.str_converters import to_camel_case

from app.history.pages import DEFAULT_PAGE
from app.history.series import MAX_POINTS
from app.history.shapes import SHAPES, TableShape
from app.instants import EPOCH

POINT = 0.05  # of a series: a number in a column, not an object
CHUNK = 1.0  # to plan for and to look into
SCAN = 100.0  # totalCount, aggregates and conditions across relations read rows that no page bounds
INTROSPECTED = 2.0  # an object of the schema itself, which graphql-core makes by itself, while nothing else goes on
UNNAMED_METRICS = 10  # of a machine, where a series names none
LARGEST = 2**31  # rows of a page: beyond it no page is an Int
MOST_LOOKED_AT = 1_000  # names of a list
MOST_RELATED = 500  # objects of a `where` that are looked through for relations: more conditions than one may have
MOST_CONDITIONS = 20  # of a list within `and`, two lists deep, that are looked through for a range of time
LONGEST = timedelta(days=3_650)  # behind now, that a range without a beginning is taken to reach


def _count_series(arguments: Mapping[str, Any]) -> int:
    machines = arguments.get("machineIds", [None])  # a machine's own field is of that machine
    metrics = arguments.get("metrics")
    return _length(machines) * (UNNAMED_METRICS if metrics is None else _length(metrics))


def _length(values: object) -> int:
    if not isinstance(values, list):
        return 1
    # Names count once; a list that is looked through under a hundred aliases must not be long.
    return len(values) if len(values) > MOST_LOOKED_AT else len(dict.fromkeys(map(str, values)))


def _count_given(name: str) -> Callable[[Mapping[str, Any]], int]:
    """As many as an argument lists."""

    def count(arguments: Mapping[str, Any]) -> int:
        given = arguments.get(name)
        return len(given) if isinstance(given, list) else 1

    return count


# How many objects a list holds, by type and field.
LISTS: Final[Mapping[str, Callable[[Mapping[str, Any]], int]]] = {
    "Query.series": _count_series,
    "Machine.series": _count_series,
    "Mutation.registerMachines": _count_given("machines"),
    "Mutation.recordPredictions": _count_given("predictions"),
    "Mutation.acknowledgeAlerts": _count_given("alertIds"),
    "Mutation.resolveAlerts": _count_given("alertIds"),
    "Alert.transitions": lambda _: 5,
    "MeasurementBatch.measurements": lambda _: 100,
    "PredictionEvent.predictions": lambda _: 100,
    "IngestResult.rejected": lambda _: 10,
    "MeasurementGroup.metrics": _count_given("names"),
    "Storage.hypertables": lambda _: 10,
    "Storage.policies": lambda _: 10,
    "__Schema.types": lambda _: 200,
    "__Schema.directives": lambda _: 5,
    "__Type.fields": lambda _: 6,
    "__Type.inputFields": lambda _: 4,
    "__Type.enumValues": lambda _: 3,
    "__Type.interfaces": lambda _: 1,
    "__Type.possibleTypes": lambda _: 1,
    "__Field.args": lambda _: 1,
    "__Directive.args": lambda _: 1,
}


def count_unlisted(_: Mapping[str, Any]) -> int:
    """Objects of a list that nobody has weighed."""
    return DEFAULT_PAGE


def count_page(arguments: Mapping[str, Any]) -> int:
    """Rows of a page."""
    for name in ("first", "last"):
        size: object = arguments.get(name)
        if isinstance(size, int):
            return min(max(size, 0), LARGEST)
    return DEFAULT_PAGE


def count_points(arguments: Mapping[str, Any], now: datetime) -> int:
    """Points of one series: its buckets, and never more than maxPoints."""
    most = arguments.get("maxPoints")
    # What is beyond MAX_POINTS is refused by its own name, before anything is read.
    points = most if isinstance(most, int) and most <= MAX_POINTS else 0
    start, end = _read_instant(arguments.get("from")), _read_instant(arguments.get("to")) or now
    bucket: timedelta | None = _read(arguments.get("bucket"), timedelta)
    if start is None or bucket is None or bucket <= timedelta(0):
        return points
    return max(min(points, math.ceil((end - start) / bucket)), 0)


def count_range_chunks(arguments: Mapping[str, Any], interval: timedelta, now: datetime) -> int:
    """Chunks that a series' range from `from` to `to` lies in."""
    return _count_chunks(_read_instant(arguments.get("from")), _read_instant(arguments.get("to")), interval, now)


def count_page_chunks(arguments: Mapping[str, Any], interval: timedelta, now: datetime, *, whole: bool) -> int:
    """Chunks that a page of a hypertable is looked for in; with `whole`, all that its rows are in.

    The newest rows are in the newest chunk; another order has to look everywhere that `where` allows.
    """
    start, end = _read_bounds(arguments.get("where"))
    order = arguments.get("orderBy") or [{}]
    leading = order[0] if isinstance(order, list) else order
    by_time = isinstance(leading, dict) and leading.get("field", "TIMESTAMP") == "TIMESTAMP"
    if by_time and not whole and start is None:
        return 1
    return _count_chunks(start, end, interval, now)


def count_related(
    where: object, shape: TableShape, intervals: Mapping[str, timedelta], now: datetime
) -> tuple[int, int]:
    """Conditions across relations of a table's `where`, each as many as it is deep within others, and chunks of the tables that
    they look into. `intervals` are those of hypertables, by table."""
    count = chunks = looked_at = 0
    pending: list[tuple[object, TableShape, int]] = [(where, shape, 1)]
    while pending and looked_at < MOST_RELATED:
        given, shape, level = pending.pop()
        looked_at += 1
        if isinstance(given, list):
            pending.extend((each, shape, level) for each in given[:MOST_RELATED])
        elif isinstance(given, dict):
            pending.extend((given[word], shape, level) for word in ("and", "or", "not") if word in given)
            for target, conditions in _list_related(given, shape):
                count += level
                if target.name in intervals:
                    chunks += _count_chunks(*_read_bounds(conditions), intervals[target.name], now)
                pending.append((conditions, target, level + 1))
    return count, chunks


def _list_related(given: Mapping[str, Any], shape: TableShape) -> Iterator[tuple[TableShape, object]]:
    for name, relation in shape.relations.items():
        asked = given.get(to_camel_case(name))
        if isinstance(asked, dict):
            words = [word for word in ("some", "none") if word in asked]
            for conditions in [asked[word] for word in words] if relation.many else [asked]:
                yield SHAPES[relation.target], conditions


def _count_chunks(start: datetime | None, end: datetime | None, interval: timedelta, now: datetime) -> int:
    earliest = max(now - LONGEST, EPOCH)  # no reading is older than that
    start = earliest if start is None else min(max(start, earliest), now)
    end = now if end is None else min(max(end, start), now)
    return math.ceil((end - start) / interval) + 1


def _read_bounds(where: object, levels: int = 2) -> tuple[datetime | None, datetime | None]:
    """The range that the conditions on `timestamp` leave open; those within `or` and `not` bound nothing for sure."""
    if not isinstance(where, dict):
        return None, None
    asked = where.get("timestamp")
    conditions = asked if isinstance(asked, dict) else {}
    starts = [_read_instant(conditions.get(name)) for name in ("eq", "gt", "gte")]
    ends = [_read_instant(conditions.get(name)) for name in ("eq", "lt", "lte")]
    both = where.get("and") if levels else None
    for inner in both[:MOST_CONDITIONS] if isinstance(both, list) else [both]:
        start, end = _read_bounds(inner, levels - 1)
        starts.append(start)
        ends.append(end)
    return (
        max((start for start in starts if start is not None), default=None),
        min((end for end in ends if end is not None), default=None),
    )


def _read_instant(value: object) -> datetime | None:
    instant: datetime | None = _read(value, datetime)
    return None if instant is None or instant.tzinfo is None else instant.astimezone(UTC)


def _read(value: object, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind) if isinstance(value, str) else None
    except (msgspec.ValidationError, OverflowError):
        return None
