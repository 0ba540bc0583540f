"""Long ranges from rollups: the same answers as from the readings, at every moment, whoever changed them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import numpy as np
import pytest

from app.database import Database, EditionName
from app.history.columns import Fill
from app.history.rollups import TRIGGERS, find_bounds, keep_rollups
from app.history.series import SeriesColumns, SeriesLimits, SeriesQuestion, find_series
from app.history.statements import Aggregate
from tests.client import ServiceClient
from tests.conftest import run_command

START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LIMITS = SeriesLimits(timedelta(days=3660), 2_000_000)
MACHINES = ("PRESS-1", "PRESS-2", "PRESS-3")
EXACT = (Aggregate.COUNT, Aggregate.MIN, Aggregate.MAX, Aggregate.FIRST, Aggregate.LAST)
QUESTION = SeriesQuestion(
    machine_ids=MACHINES,
    metrics=None,
    start=START - HOUR,
    end=START + 5 * DAY,
    bucket=HOUR,
    aggregate=Aggregate.COUNT,
    fill=Fill.NONE,
    max_points=1000,
)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    opened = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=60))
    await opened.open(url)
    try:
        yield opened
    finally:
        await opened.close()


async def fill(database: Database) -> None:
    """Four days of three machines at uneven instants, with hours without readings, and values of all sizes."""
    chance = random.Random(3)
    async with database.connection() as connection:
        await connection.execute("INSERT INTO machines SELECT unnest($1::text[]), 'press', 'Hall 2', true", MACHINES)
        rows = []
        for machine_id in MACHINES:
            for minute in sorted(chance.sample(range(4 * 24 * 60), 900)):
                at = START + timedelta(minutes=minute, microseconds=chance.randrange(60_000_000))
                metrics = {"a": chance.uniform(-1, 1) * 10.0 ** chance.randint(-6, 6), "b": float(chance.randrange(5))}
                if chance.random() < 0.3:
                    del metrics["b"]
                rows.append((machine_id, at, msgspec.json.encode(metrics).decode()))
        await connection.copy_records_to_table(
            "raw_measurements", records=rows, columns=("machine_id", "timestamp", "metrics")
        )


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """Filled, on either server, with nothing rolled up yet."""
    done = await asyncio.to_thread(run_command, "piccolo", "migrations", "forwards", "app", database_url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    async with open_database(url) as opened:
        await fill(opened)
        yield opened


async def execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        await connection.execute(statement)


async def roll_up(database: Database) -> None:
    """Passes until one gets to work: elsewhere on the server others may have transactions that it waits for."""
    async with asyncio.timeout(120):
        while True:
            await keep_rollups(database)
            async with database.connection() as connection:
                if await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM rollup_cover) AND NOT EXISTS (SELECT FROM rollup_changes)"
                ):
                    return
            await asyncio.sleep(0.05)


async def is_rolled_up(database: Database, question: SeriesQuestion) -> bool:
    async with database.transaction() as connection:
        return await find_bounds(connection, list(question.machine_ids), question.start, question.end, 500) is not None


async def read_raw(database: Database, question: SeriesQuestion) -> list[SeriesColumns]:
    """The answer from the readings alone: what covers the rollups is put away meanwhile."""
    async with database.connection() as connection:
        cover = await connection.fetch("SELECT id, since, until FROM rollup_cover")
        await connection.execute("DELETE FROM rollup_cover")
    try:
        return await find_series(database, question, LIMITS)
    finally:
        async with database.connection() as connection:
            await connection.executemany(
                "INSERT INTO rollup_cover (id, since, until) VALUES ($1, $2, $3)", [tuple(row) for row in cover]
            )


def require_same(found: list[SeriesColumns], raw: list[SeriesColumns]) -> None:
    assert [(each.machine_id, each.metric) for each in found] == [(each.machine_id, each.metric) for each in raw]
    for ours, theirs in zip(found, raw, strict=True):
        np.testing.assert_array_equal(ours.instants, theirs.instants)
        np.testing.assert_array_equal(ours.values, theirs.values)
        assert ours.source_rows == theirs.source_rows


async def require_right(database: Database, question: SeriesQuestion) -> None:
    """What isn't added up is the same to the last bit."""
    for aggregate in EXACT:
        asked = msgspec.structs.replace(question, aggregate=aggregate)
        require_same(await find_series(database, asked, LIMITS), await read_raw(database, asked))


async def require_sums(database: Database, question: SeriesQuestion) -> None:
    """Sums differ by no more than adding the same numbers in another order may: n roundings of the sum of magnitudes."""
    async with database.connection() as connection:
        magnitudes = await connection.fetch(
            """
            SELECT machine_id, metric, count(*)::float8 AS count, sum(abs(value::float8)) AS magnitude
            FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
            WHERE timestamp >= $1 AND timestamp < $2
            GROUP BY machine_id, metric, date_bin($3::interval, timestamp, '2000-01-03 00:00+00')
            ORDER BY machine_id, metric, date_bin($3::interval, timestamp, '2000-01-03 00:00+00')
            """,
            question.start,
            question.end,
            question.bucket,
        )
    for aggregate in (Aggregate.SUM, Aggregate.AVG):
        asked = msgspec.structs.replace(question, aggregate=aggregate)
        found, raw = await find_series(database, asked, LIMITS), await read_raw(database, asked)
        for ours, theirs in zip(found, raw, strict=True):
            key = (ours.machine_id, ours.metric)
            known = [row for row in magnitudes if (row["machine_id"], row["metric"]) == key]
            count = np.array([row["count"] for row in known])
            bound = count * np.finfo(np.float64).eps * np.array([row["magnitude"] for row in known])
            np.testing.assert_array_equal(ours.instants, theirs.instants)
            shares = count if aggregate is Aggregate.AVG else 1
            assert (np.abs(ours.values - theirs.values) <= bound / shares).all()


@pytest.mark.parametrize("bucket", [HOUR, 2 * HOUR, DAY, 7 * DAY])
async def test_every_aggregate_is_what_the_readings_give(database: Database, bucket: timedelta) -> None:
    await roll_up(database)
    for start, end in (
        (START - HOUR, START + 5 * DAY),
        (START + timedelta(minutes=7, microseconds=1), START + 3 * DAY + timedelta(minutes=31)),
        (START + DAY, START + 2 * DAY),
    ):
        for metrics in (None, ("b", "a", "zzz")):
            question = msgspec.structs.replace(QUESTION, bucket=bucket, start=start, end=end, metrics=metrics)
            assert await is_rolled_up(database, question)
            await require_right(database, question)
        await require_sums(database, msgspec.structs.replace(question, metrics=None))


async def test_it_is_the_rollups_that_answer(database: Database) -> None:
    await roll_up(database)
    await execute(database, "UPDATE rollups SET highest = 12345")
    question = msgspec.structs.replace(QUESTION, aggregate=Aggregate.MAX)
    for series in await find_series(database, question, LIMITS):
        assert set(series.values.tolist()) == {12345.0}
    # Not for what can't be had from them.
    for change in ({"bucket": timedelta(minutes=90)}, {"end": START + 23 * HOUR - timedelta(seconds=1)}):
        for series in await find_series(database, msgspec.structs.replace(question, **change), LIMITS):
            assert 12345.0 not in series.values
    for aggregate in (Aggregate.P50, Aggregate.STDDEV):
        asked = msgspec.structs.replace(question, aggregate=aggregate)
        require_same(await find_series(database, asked, LIMITS), await read_raw(database, asked))


CHANGES = {
    "a reading that came late": "INSERT INTO raw_measurements (machine_id, timestamp, metrics) "
    "VALUES ('PRESS-1', '2026-01-06 10:30+00', '{\"a\": 1e7, \"late\": 1}')",
    "one before all others": "INSERT INTO raw_measurements (machine_id, timestamp, metrics) "
    "VALUES ('PRESS-2', '2026-01-04 23:30+00', '{\"a\": -1e7}')",
    "a value that was corrected": "UPDATE raw_measurements SET metrics = '{\"a\": 2e7}' WHERE timestamp = "
    "(SELECT max(timestamp) FROM raw_measurements WHERE machine_id = 'PRESS-3' AND timestamp < '2026-01-07 12:00+00') "
    "AND machine_id = 'PRESS-3'",
    "readings that were moved": "UPDATE raw_measurements SET timestamp = timestamp + interval '3 hours 1 microsecond' "
    "WHERE machine_id = 'PRESS-1' AND timestamp >= '2026-01-07 04:00+00' AND timestamp < '2026-01-07 05:00+00'",
    "hours that were deleted": "DELETE FROM raw_measurements "
    "WHERE timestamp >= '2026-01-08 01:10+00' AND timestamp < '2026-01-08 03:20+00'",
    "a metric that is gone": "UPDATE raw_measurements SET metrics = metrics - 'b' "
    "WHERE timestamp >= '2026-01-06 12:00+00' AND timestamp < '2026-01-06 14:00+00'",
    "what was before a day": "DELETE FROM raw_measurements WHERE timestamp < '2026-01-06 05:17+00'",
}


async def test_a_change_is_seen_at_once_and_after_it_is_rolled_up(database: Database) -> None:
    question = msgspec.structs.replace(QUESTION, start=START - DAY, bucket=2 * HOUR)
    await roll_up(database)
    for what, statement in CHANGES.items():
        before = await read_raw(database, question)
        await execute(database, statement)
        assert [each.values.tolist() for each in await read_raw(database, question)] != [
            each.values.tolist() for each in before
        ], what
        await require_right(database, question)
        await roll_up(database)
        assert await is_rolled_up(database, question), what
        await require_right(database, question)
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM rollup_changes") == 0


async def test_what_was_dropped_by_chunks_is_gone_from_the_answers(database: Database) -> None:
    if not database.edition.has_hypertables:
        pytest.skip("the server has no TimescaleDB")
    question = msgspec.structs.replace(QUESTION, start=START - DAY)
    await roll_up(database)
    await execute(database, f"SELECT drop_chunks('raw_measurements', older_than => '{START + DAY}'::timestamptz)")
    await require_right(database, question)
    await roll_up(database)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT min(bucket) FROM rollups") >= START + DAY
    # A reading of the days that went, which are not back for it.
    await execute(database, CHANGES["one before all others"])
    await require_right(database, question)
    await roll_up(database)
    await require_right(database, question)


async def test_changes_of_compressed_readings_are_seen_like_any_other(database: Database) -> None:
    if database.edition.name is not EditionName.COMMUNITY:
        pytest.skip("this edition compresses nothing")
    question = msgspec.structs.replace(QUESTION, start=START - DAY, bucket=2 * HOUR)
    await roll_up(database)
    await execute(
        database,
        "ALTER TABLE raw_measurements SET (timescaledb.compress, timescaledb.compress_segmentby = 'machine_id', "
        "timescaledb.compress_orderby = 'timestamp DESC')",
    )
    compress = "SELECT compress_chunk(chunk, if_not_compressed => true) FROM show_chunks('raw_measurements') AS chunk"
    changes = {**CHANGES, "a whole batch": "DELETE FROM raw_measurements WHERE machine_id = 'PRESS-2'"}
    del changes["readings that were moved"]  # which TimescaleDB refuses
    for what, statement in changes.items():
        await execute(database, compress)
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM rollup_changes") == 0, what
        await require_right(database, question)
        before = await read_raw(database, question)
        await execute(database, statement)
        assert [each.values.tolist() for each in await read_raw(database, question)] != [
            each.values.tolist() for each in before
        ], what
        await require_right(database, question)
        await roll_up(database)
        assert await is_rolled_up(database, question), what
        await require_right(database, question)


async def test_what_one_transaction_deletes_of_an_hour_is_noted_once_by_each(database: Database) -> None:
    await roll_up(database)
    await execute(database, "DELETE FROM raw_measurements WHERE timestamp < '2026-01-05 00:30+00'")
    await execute(database, "DELETE FROM raw_measurements WHERE timestamp < '2026-01-05 02:00+00'")
    async with database.connection() as connection:
        noted = await connection.fetch("SELECT machine_id, bucket FROM rollup_changes ORDER BY 1, 2")
    assert [tuple(row) for row in noted] == [(machine, START + n * HOUR) for machine in MACHINES for n in (0, 0, 1)]


async def test_no_machine_is_taken_for_another_whose_hour_was_noted(database: Database) -> None:
    hour = START.timestamp()
    machines = ["A", "x'A", "x,'A", f"A' {hour:.6f},", f",'A' {hour:.6f},", "\\A", "\\'A"]
    async with database.connection() as connection:
        await connection.execute("INSERT INTO machines SELECT unnest($1::text[]), 'press', 'Hall 2', true", machines)
        await connection.execute(
            "INSERT INTO raw_measurements (machine_id, timestamp, metrics) SELECT unnest($1::text[]), $2, '{}'",
            machines,
            START,
        )
        for order in (machines, machines[::-1]):
            await connection.execute("DELETE FROM rollup_changes")
            async with connection.transaction():
                for machine in order:
                    await connection.execute("DELETE FROM raw_measurements WHERE machine_id = $1", machine)
                noted = await connection.fetch("SELECT machine_id FROM rollup_changes ORDER BY id")
                assert [row["machine_id"] for row in noted] == order
                await connection.execute(
                    "INSERT INTO raw_measurements (machine_id, timestamp, metrics) SELECT unnest($1::text[]), $2, '{}'",
                    machines,
                    START,
                )


async def test_after_truncate_nothing_is_left(database: Database) -> None:
    await roll_up(database)
    await execute(database, "TRUNCATE raw_measurements")
    assert not await is_rolled_up(database, QUESTION)
    assert await find_series(database, QUESTION, LIMITS) == []
    await execute(database, CHANGES["a reading that came late"])
    await roll_up(database)
    await require_right(database, QUESTION)


async def test_where_changes_are_not_noted_nothing_is_rolled_up(database: Database) -> None:
    # A hypertable's can't be switched off.
    changes = [f"DROP TRIGGER {TRIGGERS[0]} ON raw_measurements"]
    if not database.edition.has_hypertables:
        changes = [f"ALTER TABLE raw_measurements DISABLE TRIGGER {trigger}" for trigger in TRIGGERS]
    for change in changes:
        await roll_up(database)
        assert await is_rolled_up(database, QUESTION)
        await execute(database, change)
        await keep_rollups(database)
        assert not await is_rolled_up(database, QUESTION)
        if not database.edition.has_hypertables:
            await execute(database, change.replace("DISABLE", "ENABLE"))


async def test_values_whose_total_no_double_can_hold_are_read_as_before(database: Database) -> None:
    await execute(
        database,
        """
        INSERT INTO raw_measurements (machine_id, timestamp, metrics) VALUES
          ('PRESS-1', '2026-01-06 10:30+00', '{"huge": 1.7e308}'),
          ('PRESS-1', '2026-01-06 10:31+00', '{"huge": -1.7e308}'),
          ('PRESS-1', '2026-01-06 13:00+00', '{"huge": 1}')
        """,
    )
    await roll_up(database)
    question = msgspec.structs.replace(QUESTION, metrics=("huge",), machine_ids=("PRESS-1",), bucket=DAY)
    for aggregate, value in (
        (Aggregate.SUM, 1.0),
        (Aggregate.AVG, 1 / 3),
        (Aggregate.MAX, 1.7e308),
        (Aggregate.COUNT, 3.0),
    ):
        (series,) = await find_series(database, msgspec.structs.replace(question, aggregate=aggregate), LIMITS)
        assert series.values.tolist() == [value]


async def test_an_hour_is_rolled_up_when_it_has_ended_and_settled(database: Database) -> None:
    await execute(
        database,
        "INSERT INTO raw_measurements (machine_id, timestamp, metrics) "
        """SELECT 'PRESS-1', now() - n * interval '1 minute', '{"a": 1}' FROM generate_series(0, 180) AS n""",
    )
    async with database.connection() as connection:
        before = await connection.fetchval(ENDED)
    await roll_up(database)
    async with database.connection() as connection:
        until = await connection.fetchval("SELECT until FROM rollup_cover")
        newest = await connection.fetchval("SELECT max(bucket) FROM rollups")
        after = await connection.fetchval(ENDED)
    assert until in (before, after)
    assert newest == until - HOUR


ENDED = "SELECT date_bin('1 hour', clock_timestamp() - interval '5 minutes', '2000-01-03 00:00+00')"


@pytest.fixture
async def served(database_url: str) -> AsyncIterator[Database]:
    """On the server that takes many connections."""
    async with open_database(database_url) as opened:
        await fill(opened)
        yield opened


async def test_nothing_is_rolled_up_while_a_transaction_may_still_change_it_unnoted(
    served: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with connection.transaction():
        await connection.execute("UPDATE machines SET location = 'Hall 3' WHERE machine_id = 'PRESS-1'")
        await keep_rollups(served)
        assert not await is_rolled_up(served, QUESTION)
    await roll_up(served)
    assert await is_rolled_up(served, QUESTION)
    await require_right(served, QUESTION)


async def test_two_services_at_once_do_it_once(served: Database, database_url: str) -> None:
    async with open_database(database_url) as other:
        for statement in ("SELECT 1", *CHANGES.values()):
            await execute(served, statement)
            await asyncio.gather(keep_rollups(served), keep_rollups(other))
            await roll_up(served)
            assert await is_rolled_up(other, QUESTION)
            await require_right(other, QUESTION)


async def test_a_client_that_asks_while_readings_come_and_are_rolled_up_gets_them_all(
    service: ServiceClient, database_url: str
) -> None:
    await service.register("PRESS-1")
    query = """query { series(machineIds: ["PRESS-1"], metrics: ["a"], aggregate: COUNT, bucket: "P1D",
                     from: "2026-01-05T00:00:00Z", to: "2026-01-08T00:00:00Z") { values } }"""
    async with open_database(database_url) as database:
        for count in range(1, 31):
            at = START + timedelta(minutes=97 * count)
            await service.ingest([{"machine_id": "PRESS-1", "timestamp": at.isoformat(), "metrics": {"a": 1}}])
            rolling = asyncio.create_task(keep_rollups(database))
            for _ in range(3):
                (series,) = (await service.ask(query))["series"]
                assert sum(series["values"]) == count
            await rolling
            assert sum((await service.ask(query))["series"][0]["values"]) == count
