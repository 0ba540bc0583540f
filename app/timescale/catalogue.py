"""What TimescaleDB's live catalogue says of the hypertables. Reads only."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from app.database import Connection, Edition


class HypertableState(msgspec.Struct, frozen=True):
    """A hypertable as it is: cut by `time_column` into `chunks` of `chunk_interval`, `size_bytes` with its indexes."""

    table: str
    time_column: str
    chunk_interval: timedelta
    chunks: int
    size_bytes: int


async def read_hypertables(connection: Connection, edition: Edition) -> list[HypertableState]:
    """The hypertables of the current schema by name; none where there is no TimescaleDB."""
    if not edition.has_hypertables:
        return []
    rows = await connection.fetch(
        """
        SELECT hypertable_name AS table, column_name AS time_column, time_interval AS chunk_interval,
               num_chunks AS chunks,
               hypertable_size(format('%I.%I', hypertable_schema, hypertable_name)::regclass) AS size_bytes
        FROM timescaledb_information.hypertables
        JOIN timescaledb_information.dimensions USING (hypertable_schema, hypertable_name)
        WHERE hypertable_schema = current_schema() AND dimension_number = 1
        ORDER BY hypertable_name
        """
    )
    return [HypertableState(**row) for row in rows]
