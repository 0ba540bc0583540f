"""What TimescaleDB's live catalogue says of the hypertables and of what is done to them by itself. Reads only."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from app.database import Connection, Edition, EditionName


class HypertableState(msgspec.Struct, frozen=True):
    """A hypertable as it is: cut by `time_column` into `chunks` of `chunk_interval`, `size_bytes` with its indexes.

    `compressed_chunks` is None where it isn't compressed at all; those took `before_bytes` and take `after_bytes` now.
    """

    table: str
    time_column: str
    chunk_interval: timedelta
    chunks: int
    size_bytes: int
    compressed_chunks: int | None = None
    before_bytes: int = 0
    after_bytes: int = 0


class PolicyState(msgspec.Struct, frozen=True):
    """A job of TimescaleDB on a hypertable or an aggregate, and how its last run went; None for what has not been yet.

    `last_status` is TimescaleDB's own word, Success or Failed.
    """

    job: str
    table: str
    every: timedelta
    scheduled: bool
    last_started_at: datetime | None
    last_succeeded_at: datetime | None
    last_status: str | None
    next_start_at: datetime | None
    runs: int
    failures: int


_COMPRESSION = """
    LEFT JOIN LATERAL (
      SELECT number_compressed_chunks, before_compression_total_bytes, after_compression_total_bytes
      FROM hypertable_compression_stats(format('%I.%I', hypertable_schema, hypertable_name)::regclass)
    ) AS stats ON compression_enabled
"""
# TimescaleDB Apache has the function, and refuses to run it.
_NO_COMPRESSION = """
    CROSS JOIN (SELECT NULL::int8, NULL::int8, NULL::int8) AS stats
      (number_compressed_chunks, before_compression_total_bytes, after_compression_total_bytes)
"""


async def read_hypertables(connection: Connection, edition: Edition) -> list[HypertableState]:
    """The hypertables of the current schema by name; none where there is no TimescaleDB."""
    if not edition.has_hypertables:
        return []
    is_community = edition.name is EditionName.COMMUNITY
    rows = await connection.fetch(
        f"""
        SELECT hypertable_name AS table, column_name AS time_column, time_interval AS chunk_interval,
               num_chunks AS chunks,
               hypertable_size(format('%I.%I', hypertable_schema, hypertable_name)::regclass) AS size_bytes,
               CASE WHEN compression_enabled THEN coalesce(number_compressed_chunks, 0) END AS compressed_chunks,
               coalesce(before_compression_total_bytes, 0) AS before_bytes,
               coalesce(after_compression_total_bytes, 0) AS after_bytes
        FROM timescaledb_information.hypertables
        JOIN timescaledb_information.dimensions USING (hypertable_schema, hypertable_name)
        {_COMPRESSION if is_community else _NO_COMPRESSION}
        WHERE hypertable_schema = current_schema() AND dimension_number = 1
        ORDER BY hypertable_name
        """
    )
    return [HypertableState(**row) for row in rows]


async def read_policies(connection: Connection, edition: Edition) -> list[PolicyState]:
    """The jobs on the hypertables and aggregates of the current schema, by table and job; none without Community."""
    if edition.name is not EditionName.COMMUNITY:
        return []
    rows = await connection.fetch(
        """
        SELECT proc_name AS job, coalesce(view_name, jobs.hypertable_name) AS table, schedule_interval AS every, scheduled,
               nullif(last_run_started_at, '-infinity') AS last_started_at,
               nullif(last_successful_finish, '-infinity') AS last_succeeded_at, last_run_status AS last_status,
               nullif(stats.next_start, '-infinity') AS next_start_at,
               coalesce(total_runs, 0) AS runs, coalesce(total_failures, 0) AS failures
        FROM timescaledb_information.jobs
        LEFT JOIN timescaledb_information.job_stats AS stats USING (job_id)
        -- Some versions name an aggregate here, others the table that holds it.
        LEFT JOIN timescaledb_information.continuous_aggregates ON (jobs.hypertable_schema, jobs.hypertable_name)
          IN ((materialization_hypertable_schema, materialization_hypertable_name), (view_schema, view_name))
        WHERE coalesce(view_schema, jobs.hypertable_schema) = current_schema()
        ORDER BY 2, 1
        """
    )
    return [PolicyState(**row) for row in rows]
