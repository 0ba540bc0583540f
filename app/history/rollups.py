"""Keeps what readings come to by the hour, so that long ranges need not read all of them again.

    rollups         per machine, metric and hour: how many values, their total, least, greatest, earliest and latest
    rollup_cover    the hours that are rolled up, [since, until) of all machines: `until` goes on with the clock, `since` back
                    to the oldest reading
    rollup_changes  hours whose readings were changed after they ended, written by triggers on raw_measurements in the
                    transaction that changes them

An hour of the cover without a change is right at every moment, whoever wrote the readings; every other hour is read from
the readings themselves (`statements`). Any number of services may do this at once: one does it, under a lock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

import msgspec

from app.database import Connection, Database

INTERVAL = 10.0  # seconds between two passes
HOUR = timedelta(hours=1)
# Before an hour that has ended is rolled up: a database's clock may be set back by as much.
SETTLING = timedelta(minutes=5)
PAGE = 100  # changed hours of one transaction
# A total of values beyond may not fit a double; such an hour keeps none and is always read anew.
GREATEST_VALUE = "1e290"

TRIGGERS = ("note_inserted", "note_updated", "note_moved", "note_deleted", "note_truncated")

# Any number will do, as long as every process of one database asks for the same lock.
_LOCK = 4_727_201_006
_ORIGIN = "TIMESTAMPTZ '2000-01-03 00:00:00+00'"


class Cover(msgspec.Struct, frozen=True):
    """The hours that are rolled up; `since` and `until` are whole hours."""

    since: datetime
    until: datetime


class Mark(msgspec.Struct, frozen=True):
    """A transaction's id, and the end of the newest hour that ended `SETTLING` before it."""

    transaction: int
    hour: datetime


async def keep_rollups(database: Database) -> None:
    """One pass: what has changed, what has ended since, and then what came before; nothing where another is at it.

    Rests between two steps for as long as they took. Raises DatabaseUnavailable, QueryTimeout.
    """
    mark = await _take_mark(database)
    for step in (_redo_changed, _go_on, _go_back):
        while True:
            began = time.monotonic()
            async with database.transaction() as connection:
                if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({_LOCK})"):
                    return
                cover = await _find_cover(connection, mark)
                if cover is None or not await step(connection, cover, mark):
                    break
            await asyncio.sleep(time.monotonic() - began)


async def _take_mark(database: Database) -> Mark:
    """In a transaction of its own, which has to have ended with all that began before it."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            f"""
            SELECT pg_current_xact_id()::text AS transaction,
                   date_bin($1::interval, clock_timestamp() - $2::interval, {_ORIGIN}) AS hour
            """,
            HOUR,
            SETTLING,
        )
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return Mark(int(row["transaction"]), row["hour"])


async def _find_cover(connection: Connection, mark: Mark) -> Cover | None:
    """Begins one where there is none. None while nothing can be rolled up."""
    noted = await connection.fetchval(
        """
        SELECT count(*) FROM pg_trigger
        WHERE tgrelid = 'raw_measurements'::regclass AND tgname = ANY($1::text[]) AND tgenabled IN ('O', 'A')
        """,
        list(TRIGGERS),
    )
    if noted < len(TRIGGERS):
        # Somebody has switched them off: nobody knows what changes.
        await connection.execute("DELETE FROM rollup_cover")
        return None
    row = await connection.fetchrow("SELECT since, until FROM rollup_cover")
    if row is not None:
        return await _leave_out_dropped(connection, Cover(row["since"], row["until"]))
    if not await _is_settled(connection, mark):
        return None
    await connection.execute("DELETE FROM rollups")
    await connection.execute("INSERT INTO rollup_cover (id, since, until) VALUES (1, $1, $1)", mark.hour)
    return Cover(mark.hour, mark.hour)


async def _leave_out_dropped(connection: Connection, cover: Cover) -> Cover | None:
    """Chunks that a retention drops are not noted: of what was before the oldest reading nothing may stay."""
    if cover.since == cover.until or await _has_readings(connection, cover.since):
        return cover
    oldest = await connection.fetchval("SELECT min(timestamp) FROM raw_measurements")
    since = cover.until if oldest is None else min(_find_hour(oldest), cover.until)
    if since < cover.since:
        # One that came late, and from here to it nobody knows what was dropped: begin anew.
        await connection.execute("DELETE FROM rollup_cover")
        return None
    await connection.execute("DELETE FROM rollups WHERE bucket < $1", since)
    await connection.execute("UPDATE rollup_cover SET since = $1", since)
    return Cover(since, cover.until)


async def _has_readings(connection: Connection, hour: datetime) -> bool:
    """Whether there is one of any machine. Unlike the oldest of all, it's found without a plan for every chunk."""
    found = "SELECT EXISTS (SELECT FROM raw_measurements WHERE timestamp >= $1 AND timestamp < $2)"
    return bool(await connection.fetchval(found, hour, hour + HOUR))


async def _is_settled(connection: Connection, mark: Mark) -> bool:
    """Whether every transaction has ended that could have changed an hour before `mark.hour` without noting it.

    The triggers note what changes in an hour that has ended. Who changed it before that began before the mark.
    """
    return bool(
        await connection.fetchval(
            "SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8", str(mark.transaction)
        )
    )


async def _redo_changed(connection: Connection, cover: Cover, _: Mark) -> bool:
    rows = await connection.fetch(
        """
        WITH chosen AS MATERIALIZED (SELECT DISTINCT machine_id, bucket FROM rollup_changes LIMIT $1),
        taken AS (DELETE FROM rollup_changes USING chosen
          WHERE (rollup_changes.machine_id, rollup_changes.bucket) = (chosen.machine_id, chosen.bucket))
        SELECT machine_id, bucket FROM chosen
        """,
        PAGE,
    )
    covered = [row for row in rows if cover.since <= row["bucket"] < cover.until]
    if covered:
        machine_ids, hours = [row["machine_id"] for row in covered], [row["bucket"] for row in covered]
        await connection.execute(
            "DELETE FROM rollups USING unnest($1::text[], $2::timestamptz[]) AS hours (machine_id, hour) "
            "WHERE rollups.machine_id = hours.machine_id AND bucket = hour",
            machine_ids,
            hours,
        )
        # The bounds are there for the planner: a hypertable then opens the chunks of these hours alone.
        await connection.execute(_CHANGED_HOURS, machine_ids, hours, min(hours), max(hours) + HOUR)
    return bool(rows)


async def _go_on(connection: Connection, cover: Cover, mark: Mark) -> bool:
    if cover.until >= mark.hour or not await _is_settled(connection, mark):
        return False
    oldest = await connection.fetchval(
        "SELECT min(timestamp) FROM raw_measurements WHERE timestamp >= $1 AND timestamp < $2", cover.until, mark.hour
    )
    if oldest is None:
        until = mark.hour
    else:
        start = _find_hour(oldest)
        until = start + HOUR
        await _roll_up_hour(connection, start)
    await connection.execute("UPDATE rollup_cover SET until = $1", until)
    return until < mark.hour


async def _go_back(connection: Connection, cover: Cover, _: Mark) -> bool:
    since = cover.since - HOUR
    if not await _has_readings(connection, since):
        newest = await connection.fetchval(
            "SELECT max(timestamp) FROM raw_measurements WHERE timestamp < $1", cover.since
        )
        if newest is None:
            return False
        since = _find_hour(newest)
    await _roll_up_hour(connection, since)
    await connection.execute("UPDATE rollup_cover SET since = $1", since)
    return True


async def _roll_up_hour(connection: Connection, hour: datetime) -> None:
    await connection.execute(_WHOLE_HOUR, hour, hour + HOUR)


def _find_hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _write(source: str, hour: str) -> str:
    return f"""
    INSERT INTO rollups (machine_id, metric, bucket, readings, total, lowest, highest, earliest, latest)
    SELECT machine_id, metric, hour, count(*),
           CASE WHEN max(abs(value)) < {GREATEST_VALUE} THEN sum(value) FILTER (WHERE abs(value) < {GREATEST_VALUE}) END,
           min(value), max(value),
           (array_agg(value ORDER BY timestamp))[1], (array_agg(value ORDER BY timestamp DESC))[1]
    FROM (
      SELECT raw.machine_id, {hour} AS hour, raw.timestamp, metric, each.value::float8 AS value
      FROM {source} CROSS JOIN LATERAL jsonb_each(raw.metrics) AS each (metric, value)
    ) AS values
    GROUP BY machine_id, metric, hour
    """


_WHOLE_HOUR = _write(
    "(SELECT * FROM raw_measurements WHERE timestamp >= $1 AND timestamp < $2) AS raw", "$1::timestamptz"
)
_CHANGED_HOURS = _write(
    "unnest($1::text[], $2::timestamptz[]) AS hours (machine_id, hour) JOIN raw_measurements AS raw "
    "ON raw.machine_id = hours.machine_id AND raw.timestamp >= hour AND raw.timestamp < hour + INTERVAL '1 hour' "
    "AND raw.timestamp >= $3 AND raw.timestamp < $4",
    "hour",
)


class Bounds(msgspec.Struct, frozen=True):
    """Which hours of a range can be had from rollups: [lower, upper), less those that changed since."""

    lower: datetime
    upper: datetime
    changed: list[tuple[str, datetime]]


async def find_bounds(
    connection: Connection, machine_ids: list[str], start: datetime, end: datetime, limit: int
) -> Bounds | None:
    """The bounds of the range of these machines, to be asked in the snapshot in which they are used.

    None where no hour of it is rolled up, or more than `limit` changed; `changed` are machines and their hours.
    """
    row = await connection.fetchrow(
        """
        SELECT since, lower, upper, ARRAY(
          SELECT DISTINCT ROW(machine_id, bucket) FROM rollup_changes
          WHERE machine_id = ANY($1::text[]) AND bucket >= lower AND bucket < upper LIMIT $4
        ) AS changed
        FROM (
          SELECT since, greatest(since, $2::timestamptz) AS lower, least(until, $3::timestamptz) AS upper FROM rollup_cover
        ) AS cover
        WHERE lower < upper
        """,
        machine_ids,
        _find_hour(start + HOUR - timedelta(microseconds=1)),
        _find_hour(end),
        limit + 1,
    )
    # The first hour of the cover has readings. Where they are gone, and be it with their chunk, which isn't noted, others
    # may be too.
    if row is None or len(row["changed"]) > limit or not await _has_readings(connection, row["since"]):
        return None
    return Bounds(row["lower"], row["upper"], [(machine_id, hour) for machine_id, hour in row["changed"]])
