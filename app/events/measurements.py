"""Turns measurement events into the readings that they tell of.

An event holds keys, not readings: the outbox stays small, and a process reads a batch once for all its subscribers.
What leaves is what is stored now, which is newer than the event where a reading was corrected since.
"""

from __future__ import annotations

import msgspec

from app.database import Connection
from app.events.outbox import Event
from app.instants import from_microseconds
from app.reading import StoredReading, decode_reading


class ReadingBatch(msgspec.Struct, frozen=True):
    """The readings of one commit, by machine and time. `id` is the event's, from which one can resume."""

    id: int
    readings: list[StoredReading]


async def load_batch(connection: Connection, event: Event) -> ReadingBatch:
    """The readings of one event of Topic.MEASUREMENTS."""
    keys: dict[str, list[int]] = event.payload
    machines = [machine_id for machine_id, times in keys.items() for _ in times]
    times = [from_microseconds(microseconds) for times in keys.values() for microseconds in times]
    # The bounds are there for the planner: a hypertable then opens the chunks of the batch's range alone.
    rows = await connection.fetch(
        """
        SELECT stored.machine_id, stored.timestamp, stored.metrics, stored.created_at
        FROM unnest($1::text[], $2::timestamptz[]) AS wanted (machine_id, timestamp)
        JOIN raw_measurements AS stored USING (machine_id, timestamp)
        WHERE stored.timestamp BETWEEN $3 AND $4
        ORDER BY stored.machine_id, stored.timestamp
        """,
        machines,
        times,
        min(times),
        max(times),
    )
    return ReadingBatch(event.id, [decode_reading(row) for row in rows])
