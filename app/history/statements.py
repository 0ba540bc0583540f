"""The SQL that answers for series: raw readings, or buckets of time.

Each statement gives a row per machine and metric: `source_rows`, and two columns of `found` elements, in no order:
`instants` (timestamptz) as an array that PostgreSQL sends to clients, and `values`. Those of buckets are such an array too
(float8, NaN for null), those of readings the JSON in which they are stored, with commas between: to make doubles of decimals
takes PostgreSQL a fifth of the statement's time. They are decoded by `unpack_instants`, `unpack_values` and `read_values`:
making Python's own objects of them first would take longer than to find them.
"""

from __future__ import annotations

from enum import Enum

import msgspec
import numpy as np

from app.history.columns import Instants, Values

# A Monday, as TimescaleDB has it, so that weeks begin alike with and without it.
BUCKET_ORIGIN = "TIMESTAMPTZ '2000-01-03 00:00:00+00'"


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
    # As avg gives it, which also adds up squares, and fails where those are beyond double precision.
    Aggregate.AVG: "sum(value) / count(value)",
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

# $1 machine ids, $2 and $3 the range
_ALL_METRICS = """
  SELECT machine_id, timestamp, metric, {value} AS value
  FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
  WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $3 AND $4::text[] IS NULL"""
# $4 metric names
_NAMED_METRICS = """
  SELECT machine_id, timestamp, metric, {value} AS value
  FROM raw_measurements JOIN unnest($4::text[]) AS metric ON metrics ? metric
  WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $3"""


def write_raw(*, named: bool) -> str:
    """The readings of the range; $5 is how many values of all series are read at most."""
    return f"""
SELECT machine_id, metric, count(*) AS source_rows, count(*) AS found,
       array_send(array_agg(timestamp)) AS instants, string_agg(value, ',') AS values
FROM ({_write_source(named, "text")}
  LIMIT $5
) AS values
GROUP BY machine_id, metric
"""


def write_buckets(aggregate: Aggregate, *, named: bool, hypertables: bool) -> str:
    """The buckets that hold a value; $5 is how many of all series are read at most, $6 how wide they are."""
    bin_function = "time_bucket" if hypertables else "date_bin"
    return f"""
SELECT machine_id, metric, sum(source_rows)::int8 AS source_rows, count(*) AS found,
       array_send(array_agg(bucket)) AS instants, array_send(array_agg(coalesce(value, 'NaN'))) AS values
FROM (
  SELECT machine_id, metric, {bin_function}($6::interval, timestamp, {BUCKET_ORIGIN}) AS bucket,
         {_AGGREGATES[aggregate]} AS value, count(*) AS source_rows
  FROM ({_write_source(named).replace(chr(10), chr(10) + "  ")}
  ) AS values
  GROUP BY machine_id, metric, bucket
  LIMIT $5
) AS buckets
GROUP BY machine_id, metric
"""


# Of each hour: what the readings give, what rollups keep, and what several hours come to.
_PARTS = {
    Aggregate.AVG: ("sum(value)", "total", "sum(part) / sum(readings)"),
    Aggregate.SUM: ("sum(value)", "total", "sum(part)"),
    Aggregate.COUNT: ("count(value)::float8", "readings::float8", "sum(part)"),
    Aggregate.MIN: ("min(value)", "lowest", "min(part)"),
    Aggregate.MAX: ("max(value)", "highest", "max(part)"),
    Aggregate.FIRST: (_AGGREGATES[Aggregate.FIRST], "earliest", "(array_agg(part ORDER BY hour))[1]"),
    Aggregate.LAST: (_AGGREGATES[Aggregate.LAST], "latest", "(array_agg(part ORDER BY hour DESC))[1]"),
}
ROLLED_AGGREGATES = frozenset(_PARTS)

_MACHINES, _RANGE = "machine_id = ANY($1::text[])", "timestamp >= $2 AND timestamp < $3"
# $9 and $10 are machines and hours, $11 and $12 lie around these hours: a hypertable then opens no other chunks.
_CHANGED = (
    "(machine_id, date_bin('1 hour', timestamp, " + BUCKET_ORIGIN + ")) IN "
    "(SELECT * FROM unnest($9::text[], $10::timestamptz[]))"
)


def write_rolled_buckets(aggregate: Aggregate, *, named: bool, before: bool, after: bool, changed: bool) -> str:
    """Buckets of whole hours, of rollups from $7 to $8, and with `before` and `after` of readings there.

    With `changed`, of readings as well for each machine of $9 in the hour of $10 beside it, all of them from $11 to
    before $12. A total that isn't known makes its bucket NaN. Else as `write_buckets`.
    """
    raw, rolled, together = _PARTS[aggregate]
    # What nobody needs is not even planned: that would look at every chunk.
    ranges = ["timestamp >= $2 AND timestamp < $7"] * before + ["timestamp >= $8 AND timestamp < $3"] * after
    kept = (
        f"{_MACHINES} AND ($4::text[] IS NULL OR metric = ANY($4))\n"
        "      AND bucket >= greatest($2::timestamptz, $7) AND bucket < least($3::timestamptz, $8)"
    )
    if changed:
        ranges.append(f"timestamp >= $11 AND timestamp < $12\n      AND {_CHANGED}")
        kept += "\n      AND (machine_id, bucket) NOT IN (SELECT * FROM unnest($9::text[], $10::timestamptz[]))"
    parts = [
        f"""
    SELECT machine_id, metric, date_bin('1 hour', timestamp, {BUCKET_ORIGIN}) AS hour, {raw} AS part, count(*) AS readings
    FROM ({_write_source(named).replace(_RANGE, each)}
    ) AS values
    GROUP BY machine_id, metric, hour"""
        for each in ranges
    ]
    parts.append(f"""
    SELECT machine_id, metric, bucket AS hour, {rolled} AS part, readings
    FROM rollups WHERE {kept}""")
    every = "\n    UNION ALL".join(parts)
    return f"""
SELECT machine_id, metric, sum(source_rows)::int8 AS source_rows, count(*) AS found,
       array_send(array_agg(bucket)) AS instants, array_send(array_agg(coalesce(value, 'NaN'))) AS values
FROM (
  SELECT machine_id, metric, date_bin($6::interval, hour, {BUCKET_ORIGIN}) AS bucket,
         CASE WHEN count(part) = count(*) THEN {together} END AS value, sum(readings) AS source_rows
  FROM ({every}
  ) AS hours
  GROUP BY machine_id, metric, bucket
  LIMIT $5
) AS buckets
GROUP BY machine_id, metric
"""


def _write_source(named: bool, kind: str = "float8") -> str:
    source, value = (_NAMED_METRICS, "(metrics -> metric)") if named else (_ALL_METRICS, "value")
    return source.format(value=f"{value}::{kind}")


# Dimensions, flags, type, length and lower bound come before the elements, each of which has its length before it.
_HEADER = 20
_INSTANTS = np.dtype([("length", ">i4"), ("value", ">i8")])
_VALUES = np.dtype([("length", ">i4"), ("value", ">f8")])
_POSTGRES_EPOCH = 946_684_800_000_000  # 2000-01-01 in microseconds since 1970


def unpack_instants(sent: bytes) -> Instants:
    """Microseconds since 1970 of what array_send gives for timestamptz[]; none may be null."""
    return np.frombuffer(sent, _INSTANTS, offset=_HEADER)["value"].astype(np.int64) + _POSTGRES_EPOCH


def unpack_values(sent: bytes) -> Values:
    """What array_send gives for float8[]; none may be null."""
    return np.frombuffer(sent, _VALUES, offset=_HEADER)["value"].astype(np.float64)


def read_values(written: str) -> Values:
    """The doubles that are closest to these numbers in JSON. Raises ValueError for what is none."""
    return np.array(msgspec.json.decode(f"[{written}]", type=list[float]))
