"""What a table says to become a hypertable. Plain data, so that a migration file can hold what a table was and becomes.

Each class refuses by itself what can't be whatever the table; `declared` refuses what can't be on a given table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


class DeclarationError(Exception):
    """A declaration that can't work, and why."""


@dataclass(frozen=True)
class Compression:
    """Chunks older than `after` are kept as columns. Community only.

    Rows of one `segment_by` lie together, in the order of `order_by`, whose terms are like "timestamp DESC"; empty means
    the time column, newest first.
    """

    after: timedelta
    segment_by: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refresh:
    """Every `every`, an aggregate is brought up to date from `start_offset` to `end_offset` before now.

    A `start_offset` of None reaches back to the beginning.
    """

    every: timedelta
    start_offset: timedelta | None
    end_offset: timedelta


@dataclass(frozen=True)
class ContinuousAggregate:
    """A view named `name` with a row per `bucket` and `group_by`, kept up to date by TimescaleDB. Community only.

    Its columns are `bucket`, those of `group_by`, and `columns`: pairs of a name and an SQL expression.
    """

    name: str
    bucket: timedelta
    group_by: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    refresh: Refresh


@dataclass(frozen=True)
class Hypertable:
    """A table cut into chunks by time.

    `time_column` is a timestamptz column in every unique key of the table; `chunk_interval` is the span of one chunk:
    long enough that a chunk isn't trivially small, short enough that the newest one fits in memory. `default_indexes`
    adds the index on time that TimescaleDB makes by default. Rows older than `retention` are dropped: with their chunk when all of
    it is, or one by one without TimescaleDB; the time column then wants an index, or each pass reads the whole table.
    """

    time_column: str
    chunk_interval: timedelta
    default_indexes: bool = False
    compression: Compression | None = None
    retention: timedelta | None = None
    aggregates: tuple[ContinuousAggregate, ...] = ()
