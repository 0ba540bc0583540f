"""The SQL of `series`: what it is, which chunks it opens, and that it's planned for the range it's asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from app.database import Database
from app.history.columns import Fill
from app.history.series import SeriesLimits, SeriesQuestion, write_statement
from app.history.statements import (
    ROLLED_AGGREGATES,
    Aggregate,
    unpack_instants,
    unpack_values,
    write_rolled_buckets,
)
from app.instants import to_microseconds
from tests.conftest import run_command
from tests.golden_files import check_golden

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 10
LIMITS = SeriesLimits(timedelta(days=3660), 2_000_000)
RAW = SeriesQuestion(
    machine_ids=("PRESS-1",),
    metrics=("a",),
    start=START + 4 * DAY + timedelta(hours=1),
    end=START + 5 * DAY + timedelta(hours=1),
    bucket=None,
    aggregate=Aggregate.AVG,
    fill=Fill.NONE,
    max_points=1000,
)
BUCKETS = msgspec.structs.replace(RAW, bucket=timedelta(hours=1))
ALL_METRICS = msgspec.structs.replace(RAW, metrics=None)
SHAPES = {
    "series_raw": (RAW, True),
    "series_raw_all_metrics": (ALL_METRICS, True),
    "series_buckets_all_metrics": (msgspec.structs.replace(BUCKETS, metrics=None), True),
    "series_buckets_plain": (BUCKETS, False),
    **{
        f"series_buckets_{aggregate.value.lower()}": (msgspec.structs.replace(BUCKETS, aggregate=aggregate), True)
        for aggregate in Aggregate
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_statement_is_the_one_that_was_reviewed(shape: str) -> None:
    question, hypertables = SHAPES[shape]
    check_golden(shape, write_statement(question, LIMITS, hypertables=hypertables)[0])


@pytest.mark.parametrize("aggregate", [each for each in Aggregate if each in ROLLED_AGGREGATES])
def test_charts_from_rollups_are_asked_for_as_written(aggregate: Aggregate) -> None:
    shape = f"series_rolled_{aggregate.value.lower()}"
    check_golden(shape, write_rolled_buckets(aggregate, named=True, before=False, after=False, changed=False))


def test_a_chart_whose_edges_and_changed_hours_are_read_is_asked_for_as_written() -> None:
    asked = write_rolled_buckets(Aggregate.AVG, named=False, before=True, after=True, changed=True)
    check_golden("series_rolled_mended", asked)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Ten days of PRESS-1 and PRESS-2, a reading each minute, on either server."""
    done = await asyncio.to_thread(run_command, "piccolo", "migrations", "forwards", "app", database_url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    opened = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=60))
    await opened.open(url)
    try:
        async with opened.connection() as connection:
            await connection.execute(
                f"""
                INSERT INTO machines SELECT 'PRESS-' || n, 'press', 'Hall 2', true FROM generate_series(1, 2) AS n;
                INSERT INTO raw_measurements (machine_id, timestamp, metrics)
                SELECT machine_id, at, '{{"a": 1, "b": 2}}'
                FROM machines, generate_series('{START}'::timestamptz, '{START + DAYS * DAY}', '1 minute') AS at;
                ANALYZE raw_measurements;
                """
            )
        yield opened
    finally:
        await opened.close()


async def test_only_the_chunks_of_the_range_are_opened(database: Database) -> None:
    if not database.edition.has_hypertables:
        pytest.skip("the server has no TimescaleDB")
    async with database.connection() as connection:
        chunks = await connection.fetchval(
            "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'raw_measurements'"
        )
        assert chunks > DAYS
        for question, hypertables in SHAPES.values():
            statement, arguments = write_statement(question, LIMITS, hypertables=hypertables)
            plan = await connection.fetch(f"EXPLAIN (COSTS OFF) {statement}", *arguments)
            text = "\n".join(row[0] for row in plan)
            # The range lies in two days, each a chunk.
            assert len(set(re.findall(r" on (_hyper_\d+_\d+_chunk)", text))) == 2, text


async def test_a_statement_that_is_asked_often_is_planned_for_its_range_each_time(database: Database) -> None:
    statement, arguments = write_statement(RAW, LIMITS, hypertables=database.edition.has_hypertables)
    async with database.connection() as connection:
        for _ in range(10):
            await connection.fetch(statement, *arguments)
        plans = await connection.fetch(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement = $1", statement
        )
    assert [tuple(row) for row in plans] == [(10, 0)]


async def test_columns_are_read_as_postgresql_sends_them(database: Database) -> None:
    instants = [
        START,
        START + timedelta(microseconds=1),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
    ]
    values = [0.1, -1.7e308, 5e-324, float("nan")]
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT array_send($1::timestamptz[]) AS instants, array_send($2::float8[]) AS values", instants, values
        )
    assert row is not None
    assert unpack_instants(row["instants"]).tolist() == [to_microseconds(instant) for instant in instants]
    np.testing.assert_array_equal(unpack_values(row["values"]), values)
