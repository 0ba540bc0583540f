"""Columns of instants and values per machine and metric over a range, raw or by buckets of time.

Arrives: machines, metrics, a half-open range [start, end), perhaps a bucket. Leaves: one Series per machine and metric,
in the order asked for, of at most `max_points` points. Fails: InvalidInput for what can't be answered, NotFound for a
machine that isn't registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum

import asyncpg
import msgspec
import numpy as np

from app.database import Database
from app.errors import InvalidInput
from app.history.columns import Fill, Instants, Values, fill_buckets, mark_gaps
from app.history.machines import require_machines
from app.history.thinning import LEAST_POINTS, thin_out
from app.instants import to_microseconds

MAX_POINTS = 100_000  # points of one Series
MAX_SOURCE_ROWS = 2_000_000  # raw values read for one question without a bucket
LONGEST_BUCKET = timedelta(days=36_500)
MAX_BUCKETS = 1_000_000  # buckets laid onto a grid for one question

# A Monday, as TimescaleDB has it, so that weeks begin alike with and without it.
BUCKET_ORIGIN = "TIMESTAMPTZ '2000-01-03 00:00:00+00'"
_ORIGIN_MICROSECONDS = to_microseconds(datetime(2000, 1, 3, tzinfo=UTC))


class Aggregate(Enum):
    """What a bucket shows of its values. STDDEV is the sample's; percentiles interpolate, as percentile_cont does."""

    AVG = "AVG"
    MIN = "MIN"
    MAX = "MAX"
    SUM = "SUM"
    COUNT = "COUNT"
    FIRST = "FIRST"
    LAST = "LAST"
    STDDEV = "STDDEV"
    P50 = "P50"
    P95 = "P95"
    P99 = "P99"


_AGGREGATES = {
    Aggregate.AVG: "avg(value)",
    Aggregate.MIN: "min(value)",
    Aggregate.MAX: "max(value)",
    Aggregate.SUM: "sum(value)",
    Aggregate.COUNT: "count(value)::float8",
    Aggregate.FIRST: "(array_agg(value ORDER BY timestamp))[1]",
    Aggregate.LAST: "(array_agg(value ORDER BY timestamp DESC))[1]",
    Aggregate.STDDEV: "stddev_samp(value)",
    Aggregate.P50: "percentile_cont(0.5) WITHIN GROUP (ORDER BY value)",
    Aggregate.P95: "percentile_cont(0.95) WITHIN GROUP (ORDER BY value)",
    Aggregate.P99: "percentile_cont(0.99) WITHIN GROUP (ORDER BY value)",
}


class Resolution(Enum):
    """RAW readings, BUCKETED by time, or either DOWNSAMPLED to fit maxPoints."""

    RAW = "RAW"
    BUCKETED = "BUCKETED"
    DOWNSAMPLED = "DOWNSAMPLED"


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
    """One metric of one machine. `instants` are microseconds since 1970, `values` has NaN for null: an empty bucket, or
    a gap between raw readings."""

    machine_id: str
    metric: str
    instants: Instants
    values: Values
    resolution: Resolution
    source_rows: int


async def find_series(database: Database, question: SeriesQuestion) -> list[SeriesColumns]:
    """Answers the question with one statement."""
    _check(question)
    machine_ids = list(dict.fromkeys(question.machine_ids))
    async with database.connection() as connection:
        await require_machines(connection, machine_ids, field="machineIds")
        arguments: list[object] = [machine_ids, question.start, question.end, question.metrics]
        if question.bucket is None:
            statement = RAW.format(values=_source(question))
            arguments.append(MAX_SOURCE_ROWS + 1)
        else:
            bin_function = "time_bucket" if database.edition.has_hypertables else "date_bin"
            statement = BUCKETED.format(
                values=_source(question),
                bucket=f"{bin_function}($5::interval, timestamp, {BUCKET_ORIGIN})",
                aggregate=_AGGREGATES[question.aggregate],
            )
            arguments.append(question.bucket)
        try:
            rows = await connection.fetch(statement, *arguments)
        except asyncpg.NumericValueOutOfRangeError as error:
            raise InvalidInput(
                f"{question.aggregate.value} of these values is beyond double precision: choose another aggregate.",
                field="aggregate",
            ) from error
    if question.bucket is None and sum(row["source_rows"] for row in rows) > MAX_SOURCE_ROWS:
        raise InvalidInput(
            f"The range holds more than {MAX_SOURCE_ROWS:,} values: give a bucket, or a shorter range.", field="bucket"
        )
    return _arrange(question, machine_ids, rows)


# $1 machine ids, $2 and $3 the range, $4 metric names
_ALL_METRICS = """
    SELECT machine_id, timestamp, metric, value::float8 AS value
    FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
    WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $3 AND $4::text[] IS NULL
"""
_NAMED_METRICS = """
    SELECT machine_id, timestamp, metric, (metrics -> metric)::float8 AS value
    FROM raw_measurements JOIN unnest($4::text[]) AS metric ON metrics ? metric
    WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $3
"""

_MICROSECONDS = "(extract(epoch FROM {0}) * 1000000)::int8"

# $5 the most values to read
RAW = f"""
SELECT machine_id, metric, count(*) AS source_rows,
       array_agg({_MICROSECONDS.format("timestamp")} ORDER BY timestamp) AS instants,
       array_agg(value ORDER BY timestamp) AS values
FROM (SELECT * FROM ({{values}}) AS every_value LIMIT $5) AS values
GROUP BY machine_id, metric
ORDER BY machine_id, metric
"""

# $5 the bucket
BUCKETED = f"""
SELECT machine_id, metric, sum(source_rows)::int8 AS source_rows,
       array_agg({_MICROSECONDS.format("bucket")} ORDER BY bucket) AS instants,
       array_agg(value ORDER BY bucket) AS values
FROM (
  SELECT machine_id, metric, {{bucket}} AS bucket, {{aggregate}} AS value, count(*) AS source_rows
  FROM ({{values}}) AS every_value
  GROUP BY machine_id, metric, bucket
) AS buckets
GROUP BY machine_id, metric
ORDER BY machine_id, metric
"""


def _source(question: SeriesQuestion) -> str:
    return _ALL_METRICS if question.metrics is None else _NAMED_METRICS


def _check(question: SeriesQuestion) -> None:
    if not question.machine_ids:
        raise InvalidInput("Name at least one machine.", field="machineIds")
    if question.metrics is not None and not question.metrics:
        raise InvalidInput("Name at least one metric, or leave it out for all of them.", field="metrics")
    if question.end <= question.start:
        raise InvalidInput("The range must end after it begins.", field="to")
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
    if (question.end - question.start) / question.bucket > MAX_BUCKETS:
        raise InvalidInput(
            f"The range holds more than {MAX_BUCKETS:,} such buckets: choose a longer one, or a shorter range.",
            field="bucket",
        )


def _arrange(
    question: SeriesQuestion, machine_ids: Sequence[str], rows: Sequence[asyncpg.Record]
) -> list[SeriesColumns]:
    found = {(row["machine_id"], row["metric"]): row for row in rows}
    if question.metrics is None:
        order = [(machine_id, metric) for machine_id in machine_ids for owner, metric in found if owner == machine_id]
    else:
        names = dict.fromkeys(question.metrics)
        order = [(machine_id, metric) for machine_id in machine_ids for metric in names]
    grid = _lay_grid(question)
    return [_shape(question, grid, machine_id, metric, found.get((machine_id, metric))) for machine_id, metric in order]


def _lay_grid(question: SeriesQuestion) -> Instants:
    if question.bucket is None or question.fill is Fill.NONE:
        return np.empty(0, dtype=np.int64)
    width = question.bucket // timedelta(microseconds=1)
    start, end = to_microseconds(question.start), to_microseconds(question.end)
    first = start - (start - _ORIGIN_MICROSECONDS) % width
    return np.arange(first, end, width, dtype=np.int64)


def _shape(
    question: SeriesQuestion, grid: Instants, machine_id: str, metric: str, row: asyncpg.Record | None
) -> SeriesColumns:
    instants: Instants = np.array(row["instants"] if row else [], dtype=np.int64)
    values: Values = np.array(row["values"] if row else [], dtype=np.float64)
    if question.bucket is None:
        instants, values = mark_gaps(instants, values)
        resolution = Resolution.RAW
    else:
        instants, values = fill_buckets(instants, values, grid, question.fill)
        resolution = Resolution.BUCKETED
    if len(instants) > question.max_points:
        instants, values = thin_out(instants, values, question.max_points)
        resolution = Resolution.DOWNSAMPLED
    return SeriesColumns(machine_id, metric, instants, values, resolution, row["source_rows"] if row else 0)
