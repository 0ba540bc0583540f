"""Commits readings, and in the same transaction the outbox row that tells of them.

Arrives: readings that `message` found right. Leaves: an IngestResult, once its rows are durable; every reading is
counted in it exactly once. Fails: DatabaseUnavailable or QueryTimeout, and then nothing of the batch is stored; sending
it again is harmless.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import datetime
from operator import itemgetter
from typing import TypeAlias

import msgspec

from app.database import Connection, Database
from app.errors import DatabaseBusy
from app.events.outbox import Topic, publish_event
from app.ingest.merge import OnConflict, Outcome, merge_metrics
from app.ingest.message import CheckedReading, Rejection, Submission, refuse_machine
from app.instants import to_microseconds

Key: TypeAlias = tuple[str, datetime]
Groups: TypeAlias = dict[Key, list[CheckedReading]]

CHUNK = 2_000  # keys of one statement; between two of them the process sees to its other clients
ATTEMPTS = 6  # at a batch that others are in the way of


class IngestResult(msgspec.Struct, frozen=True):
    """How many readings added something, said what was known, disagreed with it; and which were refused, and why."""

    accepted: int
    duplicates: int
    conflicts: int
    rejected: list[Rejection]


class Writer:
    """The one way into raw_measurements."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def commit(self, submission: Submission, on_conflict: OnConflict) -> IngestResult:
        """Stores what can be stored, all in one transaction, and says what became of each reading."""
        if not submission.readings:
            return IngestResult(0, 0, 0, submission.rejected)
        for attempt in range(ATTEMPTS):
            try:
                return await self._commit_once(submission, on_conflict)
            except DatabaseBusy:
                if attempt == ATTEMPTS - 1:
                    raise
                # Apart from each other, or the same two would meet again.
                await asyncio.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - no secret
        raise AssertionError("the last attempt returns or raises")

    async def _commit_once(self, submission: Submission, on_conflict: OnConflict) -> IngestResult:
        outcomes: Counter[Outcome] = Counter()
        written: dict[str, list[int]] = {}
        async with self._database.transaction() as connection:
            readings, unknown = await _split_unknown(connection, submission.readings)
            groups = await asyncio.to_thread(_group, readings) if len(readings) > CHUNK else _group(readings)
            for start in range(0, len(groups), CHUNK):
                chunk = dict(groups[start : start + CHUNK])
                for machine_id, timestamp in await _write(connection, chunk, on_conflict, outcomes):
                    written.setdefault(machine_id, []).append(to_microseconds(timestamp))
            if written:
                await publish_event(connection, Topic.MEASUREMENTS, written)
        return IngestResult(
            accepted=outcomes[Outcome.ACCEPTED],
            duplicates=outcomes[Outcome.DUPLICATE],
            conflicts=outcomes[Outcome.CONFLICT],
            rejected=sorted([*submission.rejected, *unknown], key=lambda rejection: rejection.index),
        )


async def _split_unknown(
    connection: Connection, readings: list[CheckedReading]
) -> tuple[list[CheckedReading], list[Rejection]]:
    named = {reading.machine_id for reading in readings}
    rows = await connection.fetch("SELECT machine_id FROM machines WHERE machine_id = ANY($1::text[])", list(named))
    unknown = named - {row["machine_id"] for row in rows}
    if not unknown:
        return readings, []
    return (
        [reading for reading in readings if reading.machine_id not in unknown],
        [refuse_machine(reading.index, reading.machine_id) for reading in readings if reading.machine_id in unknown],
    )


def _group(readings: list[CheckedReading]) -> list[tuple[Key, list[CheckedReading]]]:
    groups: Groups = {}
    for reading in readings:
        groups.setdefault((reading.machine_id, reading.timestamp), []).append(reading)
    # In the order of the keys, so that two batches with the same rows lock them alike. They may still wait for each
    # other where one holds a row and the other makes a chunk: that is what the attempts are for.
    return sorted(groups.items(), key=itemgetter(0))


async def _write(
    connection: Connection, groups: Groups, on_conflict: OnConflict, outcomes: Counter[Outcome]
) -> list[Key]:
    """Inserts what is new and merges the rest; returns the keys of the rows that it wrote."""
    fresh = {
        key: merge_metrics(None, (reading.metrics for reading in group), on_conflict) for key, group in groups.items()
    }
    inserted = await _insert(connection, {key: merged.metrics for key, merged in fresh.items()})
    for key in inserted:
        outcomes.update(fresh[key].outcomes)
    written = list(inserted)
    known = [key for key in groups if key not in inserted]
    if known:
        changed: dict[Key, dict[str, float]] = {}
        for key, stored in (await _lock_stored(connection, known)).items():
            merged = merge_metrics(stored, (reading.metrics for reading in groups[key]), on_conflict)
            outcomes.update(merged.outcomes)
            if merged.metrics != stored:
                changed[key] = merged.metrics
        await _update(connection, changed)
        written.extend(changed)
    return written


def _columns(keys: list[Key]) -> tuple[list[str], list[datetime]]:
    return [machine_id for machine_id, _ in keys], [timestamp for _, timestamp in keys]


def _encode(rows: dict[Key, dict[str, float]]) -> list[str]:
    return [msgspec.json.encode(metrics).decode() for metrics in rows.values()]


async def _insert(connection: Connection, rows: dict[Key, dict[str, float]]) -> set[Key]:
    found = await connection.fetch(
        """
        INSERT INTO raw_measurements (machine_id, timestamp, metrics)
        SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::jsonb[])
        ON CONFLICT (machine_id, timestamp) DO NOTHING
        RETURNING machine_id, timestamp
        """,
        *_columns(list(rows)),
        _encode(rows),
    )
    return {(row["machine_id"], row["timestamp"]) for row in found}


async def _lock_stored(connection: Connection, keys: list[Key]) -> dict[Key, dict[str, float]]:
    # The bounds are there for the planner: a hypertable then opens the chunks of the batch's range alone.
    machines, times = _columns(keys)
    found = await connection.fetch(
        """
        SELECT stored.machine_id, stored.timestamp, stored.metrics
        FROM unnest($1::text[], $2::timestamptz[]) AS wanted (machine_id, timestamp)
        JOIN raw_measurements AS stored USING (machine_id, timestamp)
        WHERE stored.timestamp BETWEEN $3 AND $4
        ORDER BY stored.machine_id, stored.timestamp
        FOR UPDATE OF stored
        """,
        machines,
        times,
        min(times),
        max(times),
    )
    return {
        (row["machine_id"], row["timestamp"]): msgspec.json.decode(row["metrics"], type=dict[str, float])
        for row in found
    }


async def _update(connection: Connection, rows: dict[Key, dict[str, float]]) -> None:
    if not rows:
        return
    machines, times = _columns(list(rows))
    await connection.execute(
        """
        UPDATE raw_measurements AS stored SET metrics = wanted.metrics
        FROM unnest($1::text[], $2::timestamptz[], $3::jsonb[]) AS wanted (machine_id, timestamp, metrics)
        WHERE stored.machine_id = wanted.machine_id AND stored.timestamp = wanted.timestamp
          AND stored.timestamp BETWEEN $4 AND $5
        """,
        machines,
        times,
        _encode(rows),
        min(times),
        max(times),
    )
