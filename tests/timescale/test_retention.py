"""What is older than its retention: dropped by whole chunks or by rows, by one process at a time, and by no one on Community."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

import asyncpg
import pytest

from app.database import Database, probe_edition
from app.engine import Engine, make_engine
from app.errors import DatabaseUnavailable, SchemaAhead
from app.timescale.hypertable import Hypertable
from app.timescale.retention import BATCH, LOCK, drop_all_expired, drop_expired
from app.upkeep import drop_expired_rows
from tests.conftest import hear, make_database
from tests.ports import find_free_port
from tests.timescale.project import Project, daily, declare, step, stop_jobs

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DAY = timedelta(days=1)
MONTH = Hypertable("timestamp", DAY, retention=30 * DAY)
KEPT = "SELECT count(*), min(value)::int, max(value)::int FROM readings"

# An old table: `value` is the age in hours, less a half.
HOURLY = """
INSERT INTO readings SELECT 'A', now() - n * interval '1 hour' - interval '30 minutes', n FROM generate_series(0, {}) AS n
"""
# As many readings as there are, a second apart, that are all too old; and ten that aren't.
BACKLOG = """
INSERT INTO readings
SELECT 'A', now() - interval '400 days' + n * interval '1 second', n FROM generate_series(0, {} - 1) AS n
UNION ALL SELECT 'A', now() - n * interval '1 second', n FROM generate_series(0, 9) AS n
"""
# Writes down every statement that deletes: its transaction, its process, how many rows.
JOURNAL = """
CREATE TABLE journal (place bigserial, transaction xid8, process int, deleted bigint);
CREATE FUNCTION write_journal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO journal (transaction, process, deleted)
  SELECT pg_current_xact_id(), pg_backend_pid(), count(*) FROM gone HAVING count(*) > 0;
  {} RETURN NULL;
END $$;
CREATE TRIGGER journal AFTER DELETE ON readings REFERENCING OLD TABLE AS gone EXECUTE FUNCTION write_journal()
"""
# A statement of the trigger: the third batch waits until the test lets go of lock 7.
WAIT_IN_THE_THIRD = "IF (SELECT count(*) FROM journal) = 3 THEN PERFORM pg_advisory_xact_lock(7); END IF;"


@asynccontextmanager
async def connect(engine: Engine) -> AsyncIterator[Connection]:
    connection: Connection = await engine.get_new_connection()
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def plain(server_url: str) -> AsyncIterator[Engine]:
    """A database with a plain table of readings, whether or not the server has TimescaleDB."""
    async with make_database(server_url) as url:
        engine = make_engine(url, timescale="auto")
        async with connect(engine) as connection:
            # Without autovacuum, which would read and clean at times of its own.
            await connection.execute(
                "CREATE TABLE readings (machine_id text, timestamp timestamptz, value float8, "
                "PRIMARY KEY (machine_id, timestamp)) WITH (autovacuum_enabled = off)"
            )
        yield engine


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the log says of retention."""
    with hear("app.timescale.retention") as lines:
        yield lines


async def fill(engine: Engine, *statements: str, index: bool = True) -> None:
    async with connect(engine) as connection:
        if index:
            await connection.execute("CREATE INDEX ON readings (timestamp)")
        for statement in statements:
            await connection.execute(statement)


async def read(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    async with connect(engine) as connection:
        return [tuple(row) for row in await connection.fetch(query)]


async def wait_for_waiter(connection: Connection) -> None:
    """Until somebody waits for an advisory lock."""
    waiting = """
        SELECT FROM pg_locks JOIN pg_database ON database = pg_database.oid
        WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted
    """
    async with asyncio.timeout(60):
        while True:
            if await connection.fetch(waiting):
                return
            await asyncio.sleep(0.01)


async def find_edition(engine: Engine) -> str:
    async with connect(engine) as connection:
        return (await probe_edition(connection, timescale="auto")).name.value


async def test_rows_go_when_they_are_too_old_and_chunks_when_all_of_them_is(project: Project) -> None:
    await step(project, declare(daily()))
    async with connect(project.engine) as connection, connection.transaction():  # one now() for all of it
        await connection.execute("INSERT INTO machines VALUES ('A')")
        await connection.execute(HOURLY.format(60 * 24 - 1))
        whole_days = await connection.fetch(
            "SELECT value FROM readings WHERE date_trunc('day', timestamp) + interval '1 day' > now() - interval '30 days'"
        )
        edition = await probe_edition(connection, timescale="auto")
        dropped = await drop_expired(connection, "readings", MONTH, edition)
        kept = tuple(await connection.fetchrow(KEPT) or ())
    if edition.name.value == "community":
        assert (dropped, kept) == (0, (1440, 0, 1439))
    elif edition.name.value == "apache":
        assert 720 <= len(whole_days) < 744
        assert (dropped, kept) in [(count, (len(whole_days), 0, len(whole_days) - 1)) for count in (30, 31)]
    else:
        assert (dropped, kept) == (720, (720, 0, 719))


async def test_the_policy_of_community_drops_the_same_chunks_as_we_do_on_apache(project: Project) -> None:
    await stop_jobs(project)
    await step(project, declare(daily(", retention=timedelta(days=30)")))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(HOURLY.format(60 * 24 - 1))
    whole_days = "SELECT count(*) FROM readings WHERE date_trunc('day', timestamp) + interval '1 day' > now() - interval '30 days'"
    before = await project.fetch(whole_days)
    dropped = await drop_all_expired(project.engine, {"readings": project.find_declaration("readings")})
    edition = await find_edition(project.engine)
    if edition == "none":
        assert dropped == {"readings": 720}
        return
    if edition == "community":
        assert dropped == {"readings": 0}
        assert await project.fetch(KEPT) == [(1440, 0, 1439)]
        jobs = await project.fetch(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
        )
        await project.fetch(f"CALL run_job({jobs[0][0]})")
    # Midnight may have passed between two of them.
    assert await project.fetch("SELECT count(*) FROM readings") in (before, await project.fetch(whole_days))


async def test_what_is_exactly_as_old_as_the_retention_stays(plain: Engine) -> None:
    await fill(plain)
    async with connect(plain) as connection, connection.transaction():
        edition = await probe_edition(connection, timescale="auto")
        for value, age in enumerate(["0.000001 s", "0", "-0.000001 s"]):
            await connection.execute(
                f"INSERT INTO readings VALUES ('A', now() - interval '30 days' - interval '{age}', {value})"
            )
        assert await drop_expired(connection, "readings", MONTH, edition) == 1
        assert [row["value"] for row in await connection.fetch("SELECT value FROM readings ORDER BY value")] == [1, 2]


async def test_a_chunk_goes_when_its_end_is_exactly_as_old_as_the_retention(project: Project) -> None:
    await step(project, declare(daily()))
    if await find_edition(project.engine) != "apache":
        pytest.skip("here chunks are not ours to drop")
    async with connect(project.engine) as connection:
        edition = await probe_edition(connection, timescale="auto")
        await connection.execute("INSERT INTO machines VALUES ('A')")
        await connection.execute(
            "INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * '1 h'::interval, n FROM generate_series(0, 47) n"
        )
        async with connection.transaction():
            now = await connection.fetchval("SELECT now()")
            end = datetime.fromisoformat("2026-01-02T00:00:00Z")
            for more, dropped, kept in ((timedelta(microseconds=1), 0, 48), (timedelta(0), 1, 24)):
                declared = Hypertable("timestamp", DAY, retention=now - end + more)
                assert await drop_expired(connection, "readings", declared, edition) == dropped
                assert await connection.fetchval("SELECT count(*) FROM readings") == kept


async def test_the_database_decides_and_not_the_setting(project: Project) -> None:
    await step(project, declare(daily()))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(
        "INSERT INTO readings SELECT 'A', now() - n * interval '40 days', n FROM generate_series(0, 2) AS n"
    )
    edition = await find_edition(project.engine)
    off = make_engine(project.engine.config["dsn"], timescale="off")
    assert await drop_all_expired(off, {"readings": MONTH}) == {"readings": 0 if edition == "community" else 2}
    if edition != "none":
        chunks = await project.fetch("SELECT count(*) FROM show_chunks('readings')")
        assert chunks == [(3 if edition == "community" else 1,)]


async def test_a_table_that_is_no_hypertable_yet_loses_its_rows_on_every_edition(project: Project) -> None:
    await step(project, declare("None"))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(HOURLY.format(60 * 24 - 1))
    assert await drop_all_expired(project.engine, {"readings": MONTH}) == {"readings": 720}
    assert await project.fetch(KEPT) == [(720, 0, 719)]


async def test_nothing_to_drop_is_nothing_said(plain: Engine, said: list[str]) -> None:
    await fill(plain)
    forever = Hypertable("timestamp", DAY)
    assert await drop_all_expired(plain, {}) == {}
    assert await drop_all_expired(plain, {"readings": forever}) == {}
    assert await drop_all_expired(plain, {"readings": MONTH}) == {"readings": 0}
    await fill(plain, HOURLY.format(9))
    assert await drop_all_expired(plain, {"readings": MONTH}) == {"readings": 0}
    assert said == []


async def test_what_was_dropped_is_said_once_for_each_table(plain: Engine, said: list[str]) -> None:
    await fill(plain, HOURLY.format(60 * 24 - 1), "CREATE TABLE others AS SELECT * FROM readings")
    two_days = Hypertable("timestamp", DAY, retention=2 * DAY)
    dropped = await drop_all_expired(plain, {"others": two_days, "readings": MONTH})
    assert dropped == {"others": 1392, "readings": 720}
    assert [line.split(" from before ")[0] for line in said] == [
        "INFO others: dropped 1392 rows",
        "INFO readings: dropped 720 rows",
    ]


async def count_reads(connection: Connection) -> tuple[int, int]:
    """How often all of the readings were read, and how many entries of their indexes."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    row = await connection.fetchrow(
        """
        SELECT seq_scan::int, (SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = 'readings')
        FROM pg_stat_user_tables WHERE relname = 'readings'
        """
    )
    return tuple(row or ())


@pytest.mark.parametrize("index", [True, False], ids=["by time", "without an index on time"])
async def test_a_million_rows_go_in_short_transactions_and_are_looked_at_once(plain: Engine, index: bool) -> None:
    await fill(plain, JOURNAL.format(""), BACKLOG.format(1_000_000), index=index)
    # While a backup runs nothing that is deleted can be cleaned up, in the index neither.
    async with connect(plain) as backup, backup.transaction(isolation="repeatable_read"), connect(plain) as connection:
        assert await backup.fetchval("SELECT count(*) FROM readings") == 1_000_010
        edition = await probe_edition(connection, timescale="auto")
        scans_before, _ = await count_reads(connection)
        assert await drop_expired(connection, "readings", MONTH, edition) == 1_000_000
        scans, entries = await count_reads(connection)
    assert await read(plain, KEPT) == [(10, 0, 9)]
    ((batches, most, total),) = await read(
        plain, "SELECT count(DISTINCT transaction)::int, max(deleted)::int, sum(deleted)::int FROM journal"
    )
    assert total == 1_000_000
    assert scans == scans_before
    if index:
        assert (batches, most) == (1_000_000 // BATCH, BATCH)
        assert 1_000_000 <= entries < 1_010_000  # a few for where the last batch ended, and the planner's
    else:
        assert batches > 90
        assert most < 12_000
        assert entries == 0


async def test_two_processes_do_not_do_it_at_once(plain: Engine) -> None:
    other = make_engine(plain.config["dsn"], timescale="auto")
    await fill(plain, JOURNAL.format(WAIT_IN_THE_THIRD), BACKLOG.format(4 * BATCH))
    async with connect(plain) as connection:
        await connection.execute("SELECT pg_advisory_lock(7)")
        first = asyncio.create_task(drop_all_expired(plain, {"readings": MONTH}))
        await wait_for_waiter(connection)
        assert await drop_all_expired(other, {"readings": MONTH}) == {}
        await connection.execute("SELECT pg_advisory_unlock(7)")
        assert await first == {"readings": 4 * BATCH}
        assert await drop_all_expired(other, {"readings": MONTH}) == {"readings": 0}
    assert await read(plain, "SELECT count(DISTINCT process), sum(deleted)::int FROM journal") == [(1, 4 * BATCH)]


async def test_a_pass_that_is_cut_off_goes_on_where_it_was(plain: Engine, said: list[str]) -> None:
    await fill(plain, JOURNAL.format(WAIT_IN_THE_THIRD), BACKLOG.format(4 * BATCH))
    async with connect(plain) as connection:
        await connection.execute("SELECT pg_advisory_lock(7)")
        cut_off = asyncio.create_task(drop_all_expired(plain, {"readings": MONTH}))
        await wait_for_waiter(connection)
        cut_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut_off
        assert (
            await connection.fetchval("SELECT min(value)::int FROM readings WHERE timestamp < now() - interval '1 day'")
            == 2 * BATCH
        )
        # What waits in the server for lock 7 may not have heard yet that nobody waits for its answer.
        await connection.execute("SELECT pg_advisory_unlock(7)")
        await connection.execute(f"SELECT pg_advisory_lock({LOCK}), pg_advisory_unlock_all()")  # it has gone
    assert await drop_all_expired(plain, {"readings": MONTH}) == {"readings": 2 * BATCH}
    assert await read(plain, KEPT) == [(10, 0, 9)]
    assert [line.split(" from before ")[0] for line in said] == ["INFO readings: dropped 10000 rows"] * 2


async def test_a_batch_may_take_longer_than_a_request(plain: Engine) -> None:
    # Long enough for all that isn't a batch, on a busy machine too.
    await fill(
        plain, JOURNAL.format("IF EXISTS (SELECT FROM gone) THEN PERFORM pg_sleep(3.2); END IF;"), BACKLOG.format(10)
    )
    hasty = make_engine(plain.config["dsn"], timescale="auto", statement_timeout=timedelta(seconds=3))
    assert await drop_all_expired(hasty, {"readings": MONTH}) == {"readings": 10}


async def test_a_row_that_somebody_writes_is_left_for_the_next_pass(plain: Engine) -> None:
    await fill(plain, BACKLOG.format(2 * BATCH))
    async with connect(plain) as writer:
        async with writer.transaction():
            await writer.execute(
                f"SELECT FROM readings WHERE value IN (10, {BATCH}) AND timestamp < now() - interval '1 day' FOR UPDATE"
            )
            assert await drop_all_expired(plain, {"readings": MONTH}) == {"readings": 2 * BATCH - 2}
        assert await drop_all_expired(plain, {"readings": MONTH}) == {"readings": 2}


async def test_a_table_that_is_in_use_is_left_for_the_next_pass_and_others_are_not(
    project: Project, said: list[str]
) -> None:
    await step(project, declare(daily()))
    if await find_edition(project.engine) != "apache":
        pytest.skip("here chunks are not ours to drop")
    async with connect(project.engine) as connection:
        await connection.execute("INSERT INTO machines VALUES ('A')")
        await connection.execute(
            "INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 day', n FROM generate_series(0, 2) AS n"
        )
        await connection.execute("CREATE TABLE others AS SELECT * FROM readings")
        async with connection.transaction():
            await connection.execute("SELECT FROM machines")
            dropped = await drop_all_expired(project.engine, {"readings": MONTH, "others": MONTH})
            assert dropped == {"readings": 0, "others": 3}
        assert (
            said[0]
            == "WARNING readings: what is too old stays until the next pass: canceling statement due to lock timeout."
        )
        assert await drop_all_expired(project.engine, {"readings": MONTH, "others": MONTH}) == {
            "readings": 3,
            "others": 0,
        }
    assert len(said) == 3


async def test_a_table_that_refuses_is_told_and_keeps_its_rows_and_others_go(plain: Engine, said: list[str]) -> None:
    await fill(
        plain,
        HOURLY.format(60 * 24 - 1),
        "CREATE TABLE others AS SELECT * FROM readings",
        JOURNAL.format("RAISE EXCEPTION 'not these';"),
    )
    declared = {"nowhere": MONTH, "readings": MONTH, "others": MONTH}
    assert await drop_all_expired(plain, declared) == {"nowhere": 0, "readings": 0, "others": 720}
    assert said[:2] == [
        'WARNING nowhere: what is too old stays until the next pass: relation "nowhere" does not exist.',
        "WARNING readings: what is too old stays until the next pass: not these.",
    ]
    assert await read(plain, KEPT) == [(1440, 0, 1439)]


async def test_a_process_that_a_migration_has_left_behind_drops_nothing(database_url: str) -> None:
    database = Database(timescale="auto", pool_size=1, statement_timeout=timedelta(seconds=30))
    await database.open(database_url)
    try:
        async with database.connection() as connection:
            await connection.execute("INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', '', '')")
            await connection.execute(
                "INSERT INTO raw_measurements (machine_id, timestamp, metrics) VALUES ('A', '2026-01-01', '{}')"
            )
            await connection.execute(
                "INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')"
            )
        drop = partial(drop_expired_rows, database, ["raw_measurements"], {"raw_measurements": MONTH})
        with pytest.raises(SchemaAhead):
            await drop()
        assert await read(database.engine, "SELECT count(*) FROM raw_measurements") == [(1,)]
        async with database.connection() as connection:
            await connection.execute("DELETE FROM migration WHERE name LIKE '2999%'")
        await drop()
        left = 1 if await find_edition(database.engine) == "community" else 0
        assert await read(database.engine, "SELECT count(*) FROM raw_measurements") == [(left,)]
    finally:
        await database.close()


async def test_a_server_that_is_away_is_told_as_every_outage_is() -> None:
    away = make_engine(f"postgresql://aurum:secret@127.0.0.1:{find_free_port()}/aurum", timescale="auto")
    with pytest.raises(DatabaseUnavailable) as caught:
        await drop_all_expired(away, {"readings": MONTH})
    assert "secret" not in str(caught.value)
