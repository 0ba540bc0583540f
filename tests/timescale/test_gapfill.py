"""Filled buckets are what TimescaleDB's own time_bucket_gapfill, locf and interpolate give, to the last bit."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.database import Database, EditionName
from app.history.columns import Fill
from app.history.series import SeriesLimits, SeriesQuestion, find_series
from app.history.statements import Aggregate
from tests.conftest import run_command
from tests.timescale.community import CommunityServer

START = datetime(2026, 1, 5, tzinfo=UTC)
HOURS = 30

NATIVE = """
    SELECT machine_id, extract(epoch FROM bucket)::int8 * 1000000 AS instant, value FROM (
      SELECT machine_id, time_bucket_gapfill($1::interval, timestamp) AS bucket, {filled} AS value
      FROM raw_measurements WHERE timestamp >= $2 AND timestamp < $3 AND metrics ? 'a'
      GROUP BY machine_id, bucket
    ) AS buckets ORDER BY machine_id, instant
"""
FILLED = {
    Fill.NULL: "{aggregate}",
    Fill.LOCF: "locf({aggregate}, treat_null_as_missing => true)",
    Fill.LINEAR: "interpolate({aggregate})",
}
AGGREGATES = {
    Aggregate.AVG: "avg((metrics -> 'a')::float8)",
    # null for one value
    Aggregate.STDDEV: "stddev_samp((metrics -> 'a')::float8)",
    Aggregate.LAST: "last((metrics -> 'a')::float8, timestamp)",
}


@pytest.fixture
async def database(community: CommunityServer) -> AsyncIterator[Database]:
    community.reset()
    done = await asyncio.to_thread(run_command, "piccolo", "migrations", "forwards", "app", database_url=community.dsn)
    assert done.returncode == 0, done.stdout + done.stderr
    opened = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=60))
    await opened.open(community.dsn)
    try:
        yield opened
    finally:
        await opened.close()


async def load(database: Database) -> list[str]:
    """Machines that sent all the time, in bursts, once in a while, once and never; sums of the values are exact in any order."""
    chance = random.Random(7)
    readings: dict[str, list[int]] = {
        "ALL": list(range(0, HOURS * 3600, 97)),
        "BURSTS": [hour * 3600 + n for hour in (0, 1, 7, 19) for n in range(50)],
        "RARE": sorted(chance.sample(range(HOURS * 3600), 12)),
        "ONCE": [5 * 3600 + 7],
        "NEVER": [],
    }
    async with database.connection() as connection:
        for machine_id, seconds in readings.items():
            await connection.execute("INSERT INTO machines VALUES ($1, 'press', 'Hall', true)", machine_id)
            rows = [
                (
                    machine_id,
                    START + timedelta(seconds=second),
                    f'{{"a": {chance.randint(-(2**30), 2**30) / 1024}}}',
                )
                for second in seconds
            ]
            await connection.copy_records_to_table(
                "raw_measurements", records=rows, columns=("machine_id", "timestamp", "metrics")
            )
    return list(readings)


async def test_filled_buckets_are_those_of_time_bucket_gapfill(database: Database) -> None:
    assert database.edition.name is EditionName.COMMUNITY
    machine_ids = await load(database)
    start, end = START - timedelta(minutes=35), START + timedelta(hours=HOURS, minutes=11)
    for bucket in (timedelta(minutes=1), timedelta(minutes=17), timedelta(hours=1), timedelta(days=1)):
        for aggregate, expression in AGGREGATES.items():
            for fill, filled in FILLED.items():
                question = SeriesQuestion(
                    machine_ids=tuple(machine_ids),
                    metrics=("a",),
                    start=start,
                    end=end,
                    bucket=bucket,
                    aggregate=aggregate,
                    fill=fill,
                    max_points=100_000,
                )
                found = await find_series(database, question, SeriesLimits(timedelta(days=3), 100_000))
                async with database.connection() as connection:
                    native = await connection.fetch(
                        NATIVE.format(filled=filled.format(aggregate=expression)), bucket, start, end
                    )
                expected: dict[str, list[tuple[int, float | None]]] = {}
                for row in native:
                    expected.setdefault(row["machine_id"], []).append((row["instant"], row["value"]))
                grid = found[0].instants.tolist()
                for series in found:
                    values = [None if math.isnan(value) else value for value in series.values.tolist()]
                    ours = list(zip(series.instants.tolist(), values, strict=True))
                    # gapfill has no group for a machine without readings; a series is asked for all the same.
                    none: list[tuple[int, float | None]] = [(instant, None) for instant in grid]
                    theirs: list[tuple[int, Any]] = list(expected.get(series.machine_id, none))
                    if aggregate is Aggregate.STDDEV:
                        # In its last digits it depends on the order of the readings, which the two plans have apart.
                        theirs = [(instant, value and pytest.approx(value, rel=1e-12)) for instant, value in theirs]
                    assert ours == theirs, (bucket, aggregate, fill, series.machine_id)
