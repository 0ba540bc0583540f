"""Columns of instants and values per machine and metric over a range, raw or by buckets of time.

Arrives: machines, metrics, a half-open range [start, end), perhaps a bucket. Leaves: one Series per machine and metric,
in the order asked for, of at most `max_points` points. Fails: InvalidInput for what can't be answered, NotFound for a
machine that isn't registered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any

import asyncpg
import msgspec
import numpy as np

from app.database import Connection, Database
from app.errors import InvalidInput
from app.history.columns import Fill, Instants, Values, fill_buckets, find_gaps, mark_gaps
from app.history.machines import require_machines
from app.history.rollups import HOUR, Bounds, find_bounds
from app.history.statements import (
    ROLLED_AGGREGATES,
    Aggregate,
    read_values,
    unpack_instants,
    unpack_values,
    write_buckets,
    write_raw,
    write_rolled_buckets,
)
from app.history.thinning import LEAST_POINTS, thin_out
from app.instants import to_microseconds

MAX_POINTS = 100_000  # points of one Series
LONGEST_BUCKET = timedelta(days=36_500)

LEAST_ROLLED = timedelta(days=1)  # a shorter range is read sooner than asked where it may come from
MOST_CHANGED = 500  # hours of machines; with more of them the readings are read at once

_ORIGIN_MICROSECONDS = to_microseconds(datetime(2000, 1, 3, tzinfo=UTC))
_FIRST_MICROSECONDS = to_microseconds(datetime(1, 1, 1, tzinfo=UTC))
# Values that are laid out beside the event loop: from here on it would be kept from other requests for milliseconds.
MANY = 50_000
_NO_INSTANTS: Instants = np.empty(0, dtype=np.int64)
_NO_VALUES: Values = np.empty(0)


class Resolution(Enum):
    """RAW readings, BUCKETED by time, or either DOWNSAMPLED to fit maxPoints."""

    RAW = "RAW"
    BUCKETED = "BUCKETED"
    DOWNSAMPLED = "DOWNSAMPLED"


class SeriesLimits(msgspec.Struct, frozen=True):
    """What one question may take: the longest range, and how many values (raw, or buckets with those filled) of all
    its series together."""

    range: timedelta
    values: int


class SeriesQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. `metrics` None means all that the range holds; `bucket` None means raw readings."""

    machine_ids: tuple[str, ...]
    metrics: tuple[str, ...] | None
    start: datetime
    end: datetime
    bucket: timedelta | None
    aggregate: Aggregate
    fill: Fill
    max_points: int


class SeriesColumns(msgspec.Struct, frozen=True):
    """One metric of one machine. `instants` are microseconds since 1970. `stored` are its values with NaN for null (an empty
    bucket, or a gap between raw readings), or, of readings that are shown as they are, the JSON in which they are stored."""

    machine_id: str
    metric: str
    instants: Instants
    stored: Values | str
    resolution: Resolution
    source_rows: int

    @property
    def values(self) -> Values:
        """As doubles."""
        return read_values(self.stored) if isinstance(self.stored, str) else self.stored


async def find_series(database: Database, question: SeriesQuestion, limits: SeriesLimits) -> list[SeriesColumns]:
    """Answers the question, from rollups where they hold it and from readings where they don't."""
    _check(question, limits)
    machine_ids = list(dict.fromkeys(question.machine_ids))
    async with database.reading() as connection:
        try:
            rows = await _fetch_rolled(connection, question, limits)
            if rows is None:
                statement, arguments = write_statement(question, limits, hypertables=database.edition.has_hypertables)
                rows = await connection.fetch(statement, *arguments)
            # Whoever has readings is registered.
            if without := set(machine_ids) - {row["machine_id"] for row in rows}:
                await require_machines(
                    connection, [each for each in machine_ids if each in without], field="machineIds"
                )
        except asyncpg.NumericValueOutOfRangeError as error:
            raise InvalidInput(
                f"{question.aggregate.value} of these values is beyond double precision: choose another aggregate.",
                field="aggregate",
            ) from error
    laid_out = 0.0
    if question.bucket is not None and question.fill is not Fill.NONE:
        laid_out = (question.end - question.start) / question.bucket * max(len(rows), len(machine_ids))
    if laid_out + sum(row["found"] for row in rows) <= MANY:
        return _arrange(question, limits, machine_ids, rows)
    return await asyncio.to_thread(_arrange, question, limits, machine_ids, rows)


async def _fetch_rolled(
    connection: Connection, question: SeriesQuestion, limits: SeriesLimits
) -> list[asyncpg.Record] | None:
    """None where readings have to be read: rollups don't hold the question, or not well enough."""
    if (
        question.bucket is None
        or question.bucket % HOUR
        or question.aggregate not in ROLLED_AGGREGATES
        or question.end - question.start < LEAST_ROLLED
    ):
        return None
    # One snapshot: what is rolled up and what has changed since are true together.
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        bounds = await find_bounds(connection, list(question.machine_ids), question.start, question.end, MOST_CHANGED)
        if bounds is None:
            return None
        rows = await connection.fetch(*write_rolled_statement(question, limits, bounds))
    if any(np.isnan(unpack_values(row["values"])).any() for row in rows):
        return None
    return rows


def write_rolled_statement(question: SeriesQuestion, limits: SeriesLimits, bounds: Bounds) -> list[Any]:
    """The SQL that answers with rollups, and its arguments behind it."""
    _, arguments = write_statement(question, limits, hypertables=False)
    arguments += [bounds.lower, bounds.upper]
    if bounds.changed:
        machine_ids, hours = zip(*bounds.changed, strict=True)
        arguments += [machine_ids, hours, min(hours), max(hours) + HOUR]
    text = write_rolled_buckets(
        question.aggregate,
        named=question.metrics is not None,
        before=question.start < bounds.lower,
        after=bounds.upper < question.end,
        changed=bool(bounds.changed),
    )
    return [text, *arguments]


def write_statement(question: SeriesQuestion, limits: SeriesLimits, *, hypertables: bool) -> tuple[str, list[object]]:
    """The SQL that answers the question, and its arguments; `hypertables`, whether the server has TimescaleDB."""
    named = question.metrics is not None
    metrics = list(dict.fromkeys(question.metrics)) if question.metrics is not None else None
    # One more than may be: that there are more is told by it.
    arguments: list[object] = [
        list(dict.fromkeys(question.machine_ids)),
        question.start,
        question.end,
        metrics,
        limits.values + 1,
    ]
    if question.bucket is None:
        return write_raw(named=named), arguments
    return write_buckets(question.aggregate, named=named, hypertables=hypertables), [*arguments, question.bucket]


def _check(question: SeriesQuestion, limits: SeriesLimits) -> None:
    if not question.machine_ids:
        raise InvalidInput("Name at least one machine.", field="machineIds")
    if question.metrics is not None and not question.metrics:
        raise InvalidInput("Name at least one metric, or leave it out for all of them.", field="metrics")
    if question.end <= question.start:
        raise InvalidInput("The range must end after it begins.", field="to")
    if question.end - question.start > limits.range:
        raise InvalidInput(
            f"The range is longer than {_describe(limits.range)} (AURUM_MAX_SERIES_RANGE): begin it later.",
            field="from",
        )
    if not LEAST_POINTS <= question.max_points <= MAX_POINTS:
        raise InvalidInput(f"maxPoints must be from {LEAST_POINTS} to {MAX_POINTS:,}.", field="maxPoints")
    if question.bucket is None:
        if question.fill is not Fill.NONE:
            raise InvalidInput("Only buckets can be filled: give a bucket, or fill NONE.", field="fill")
        return
    if not timedelta(milliseconds=1) <= question.bucket <= LONGEST_BUCKET:
        raise InvalidInput(
            f"A bucket must be from a millisecond to {LONGEST_BUCKET.days:,} days long, such as PT1M.", field="bucket"
        )
    if (question.end - question.start) / question.bucket > limits.values:
        raise _explain_excess(question, limits)
    if question.fill is not Fill.NONE and _find_first(question) < _FIRST_MICROSECONDS:
        raise InvalidInput("The first bucket would begin before the year 1: begin the range later.", field="from")


def _describe(span: timedelta) -> str:
    return str(msgspec.to_builtins(span))


def _explain_excess(question: SeriesQuestion, limits: SeriesLimits) -> InvalidInput:
    if question.bucket is None:
        what, remedy = "values", "give a bucket, or a shorter range"
    else:
        what, remedy = "such buckets", "choose a longer one, or a shorter range"
    return InvalidInput(
        f"The range holds more than {limits.values:,} {what} (AURUM_MAX_SERIES_VALUES): {remedy}.", field="bucket"
    )


def _arrange(
    question: SeriesQuestion, limits: SeriesLimits, machine_ids: Sequence[str], rows: Sequence[asyncpg.Record]
) -> list[SeriesColumns]:
    found = {(row["machine_id"], row["metric"]): row for row in rows}
    if question.metrics is None:
        places = {machine_id: place for place, machine_id in enumerate(machine_ids)}
        order = sorted(found, key=lambda key: (places[key[0]], key[1]))
    else:
        order = [(machine_id, metric) for machine_id in machine_ids for metric in dict.fromkeys(question.metrics)]
    grid = _lay_grid(question)
    if max(sum(row["found"] for row in rows), len(grid) * len(order)) > limits.values:
        raise _explain_excess(question, limits)
    shape = _show_readings if question.bucket is None else partial(_show_buckets, grid=grid)
    return [shape(question, key, found.get(key)) for key in order]


def _lay_grid(question: SeriesQuestion) -> Instants:
    if question.bucket is None or question.fill is Fill.NONE:
        return np.empty(0, dtype=np.int64)
    width = question.bucket // timedelta(microseconds=1)
    return np.arange(_find_first(question), to_microseconds(question.end), width, dtype=np.int64)


def _find_first(question: SeriesQuestion) -> int:
    """When the first bucket begins, which may be before the range does."""
    assert question.bucket is not None  # noqa: S101 - only buckets are laid out
    start = to_microseconds(question.start)
    return start - (start - _ORIGIN_MICROSECONDS) % (question.bucket // timedelta(microseconds=1))


def _show_readings(question: SeriesQuestion, key: tuple[str, str], row: asyncpg.Record | None) -> SeriesColumns:
    if row is None:
        return SeriesColumns(*key, _NO_INSTANTS, _NO_VALUES, Resolution.RAW, 0)
    instants, source_rows = unpack_instants(row["instants"]), row["source_rows"]
    if len(instants) <= question.max_points and _is_sorted(instants) and not len(find_gaps(instants)[0]):
        return SeriesColumns(*key, instants, row["values"], Resolution.RAW, source_rows)
    instants, values = mark_gaps(*_sort(instants, read_values(row["values"])))
    return _fit(question, key, instants, values, Resolution.RAW, source_rows)


def _show_buckets(
    question: SeriesQuestion, key: tuple[str, str], row: asyncpg.Record | None, grid: Instants
) -> SeriesColumns:
    instants, values = _NO_INSTANTS, _NO_VALUES
    if row is not None:
        instants, values = _sort(unpack_instants(row["instants"]), unpack_values(row["values"]))
    instants, values = fill_buckets(instants, values, grid, question.fill)
    return _fit(question, key, instants, values, Resolution.BUCKETED, 0 if row is None else row["source_rows"])


def _sort(instants: Instants, values: Values) -> tuple[Instants, Values]:
    if _is_sorted(instants):
        return instants, values
    order = np.argsort(instants)
    return instants[order], values[order]


def _is_sorted(instants: Instants) -> bool:
    return bool((instants[1:] >= instants[:-1]).all())


def _fit(
    question: SeriesQuestion,
    key: tuple[str, str],
    instants: Instants,
    values: Values,
    resolution: Resolution,
    source_rows: int,
) -> SeriesColumns:
    if len(instants) > question.max_points:
        instants, values = thin_out(instants, values, question.max_points)
        resolution = Resolution.DOWNSAMPLED
    return SeriesColumns(*key, instants, values, resolution, source_rows)
