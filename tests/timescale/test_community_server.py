"""What the other tests may rely on when they use the TimescaleDB Community server of `community.py`."""

import asyncio
import json
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.npm import NpmError, install_packages
from tests.timescale.community import CommunityServer

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[CommunityServer]:
    with CommunityServer(wait_seconds=10.0) as community:
        yield community


@pytest.fixture
def empty_server(server: CommunityServer) -> CommunityServer:
    server.reset()
    return server


@pytest.fixture
async def connection(empty_server: CommunityServer) -> AsyncIterator[Connection]:
    session = await asyncpg.connect(empty_server.dsn)
    yield session
    session.terminate()  # not close(), which would fail where a test made the server end the connection


async def fetch(session: Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await session.fetch(query)]


async def test_server_is_timescaledb_community(empty_server: CommunityServer, connection: Connection) -> None:
    await connection.execute("CREATE EXTENSION timescaledb")

    assert empty_server.version == "TimescaleDB 2.23.0-dev Community on PostgreSQL 17.5 (WebAssembly)"
    assert await connection.fetchval("SHOW timescaledb.license") == "timescale"


async def test_policies_and_continuous_aggregates_do_their_work_when_run(connection: Connection) -> None:
    await connection.execute("""
        CREATE EXTENSION timescaledb;
        CREATE TABLE readings (machine_id text, timestamp timestamptz, metrics jsonb, PRIMARY KEY (machine_id, timestamp));
        SELECT create_hypertable('readings', by_range('timestamp', interval '1 day'));
        INSERT INTO readings
            SELECT 'press', timestamptz '2024-01-01' + i * interval '1 hour', jsonb_build_object('temperature', i)
            FROM generate_series(0, 239) AS i;
        ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_segmentby = 'machine_id');
    """)
    await connection.execute("""
        CREATE MATERIALIZED VIEW daily WITH (timescaledb.continuous) AS
            SELECT machine_id, time_bucket(interval '1 day', timestamp) AS day, avg((metrics->>'temperature')::float8) AS mean
            FROM readings GROUP BY machine_id, day
            WITH NO DATA
    """)
    compression = await connection.fetchval("SELECT add_compression_policy('readings', interval '1 day')")
    retention = await connection.fetchval("SELECT add_retention_policy('readings', interval '1 day')")
    refresh = await connection.fetchval("""
        SELECT add_continuous_aggregate_policy(
            'daily', start_offset => NULL, end_offset => interval '1 hour', schedule_interval => interval '1 hour')
    """)

    await connection.execute(f"CALL run_job({refresh})")
    assert await fetch(connection, "SELECT count(*), min(mean), max(mean) FROM daily") == [(10, 11.5, 227.5)]

    await connection.execute(f"CALL run_job({compression})")
    chunks = "SELECT count(*), count(*) FILTER (WHERE is_compressed) FROM timescaledb_information.chunks"
    assert await fetch(connection, f"{chunks} WHERE hypertable_name = 'readings'") == [(10, 10)]
    assert await connection.fetchval("SELECT count(*) FROM readings") == 240

    await connection.execute(f"CALL run_job({retention})")
    assert await connection.fetchval("SELECT count(*) FROM readings") == 0
    assert await connection.fetchval("SELECT count(*) FROM daily") == 10


async def test_upsert_into_hypertable_replaces_the_row(connection: Connection) -> None:
    await connection.execute("""
        CREATE EXTENSION timescaledb;
        CREATE TABLE readings (machine_id text, timestamp timestamptz, metrics jsonb, PRIMARY KEY (machine_id, timestamp));
        SELECT create_hypertable('readings', by_range('timestamp'));
    """)
    upsert = """
        INSERT INTO readings VALUES ($1, $2, $3)
        ON CONFLICT (machine_id, timestamp) DO UPDATE SET metrics = excluded.metrics
    """
    at = datetime(2024, 1, 1, tzinfo=UTC)

    for metrics in ('{"temperature": 1}', '{"temperature": 2}'):
        await connection.execute(upsert, "press", at, metrics)

    assert await fetch(connection, "SELECT * FROM readings") == [("press", at, '{"temperature": 2}')]


async def test_settings_of_a_connection_last_as_long_as_it_does(empty_server: CommunityServer) -> None:
    wanted = {"jit": "off", "timezone": "Asia/Tokyo", "application_name": "tests", "aurum.timescale": "off"}
    session = await asyncpg.connect(empty_server.dsn, server_settings=wanted)
    for undo in ("SELECT 1", "RESET ALL", "DISCARD ALL"):
        await session.execute(undo)
        await session.reload_schema_state()  # DISCARD ALL takes the prepared statements with it
        assert {name: await session.fetchval("SELECT current_setting($1)", name) for name in wanted} == wanted
        assert await session.fetchval("SHOW search_path") == '"$user", public'
    await session.close()

    session = await asyncpg.connect(empty_server.dsn)
    assert await session.fetchval("SHOW timezone") == "GMT"
    assert await session.fetchval("SHOW application_name") == ""
    assert await session.fetchval("SELECT current_setting('aurum.timescale', true)") == ""
    await session.close()


async def test_setting_that_cannot_be_is_refused(empty_server: CommunityServer) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match='invalid value for parameter "TimeZone": "Nowhere"'):
        await asyncpg.connect(empty_server.dsn, server_settings={"timezone": "Nowhere"})


async def test_pool_of_one_connection_serves_tasks_in_turn(empty_server: CommunityServer) -> None:
    async with asyncpg.create_pool(empty_server.dsn, min_size=1, max_size=1) as pool:
        assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(5))) == [0, 1, 2, 3, 4]


async def test_second_connection_waits_for_the_first_and_inherits_nothing(empty_server: CommunityServer) -> None:
    first = await asyncpg.connect(empty_server.dsn)
    await first.execute("""
        CREATE TEMPORARY TABLE mine (); SET search_path TO pg_catalog; SELECT pg_advisory_lock(1); PREPARE p AS SELECT 1
    """)
    waiting = asyncio.create_task(asyncpg.connect(empty_server.dsn))
    await asyncio.sleep(0.1)
    assert not waiting.done()

    await first.close()
    second = await waiting
    assert await second.fetchval("SELECT to_regclass('mine')") is None
    assert await second.fetchval("SHOW search_path") == '"$user", public'
    assert await second.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert await second.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name = 'p'") == 0
    await second.close()


async def test_second_connection_is_told_why_it_waited_in_vain(
    empty_server: CommunityServer, connection: Connection
) -> None:
    with pytest.raises(asyncpg.TooManyConnectionsError) as refused:
        await asyncpg.connect(empty_server.dsn)

    assert refused.value.message == (
        "This server has one session, and another client has held it for 10 s: "
        "close that connection first (a pool needs max_size=1)."
    )
    assert await connection.fetchval("SELECT 1") == 1


async def test_transaction_of_a_client_that_died_is_rolled_back(empty_server: CommunityServer) -> None:
    client = await asyncpg.connect(empty_server.dsn)
    await client.execute("CREATE TABLE kept (n int)")
    await client.execute("BEGIN")
    await client.execute("INSERT INTO kept VALUES (1)")
    client.terminate()

    client = await asyncpg.connect(empty_server.dsn)
    assert await client.fetchval("SELECT count(*) FROM kept") == 0
    await client.close()


async def test_errors_leave_the_session_usable(connection: Connection) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await connection.fetch("SELEC 1")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.fetch("SELECT 1 / $1::int", 0)

    await connection.execute("CREATE TABLE kept (n int)")
    async with connection.transaction():
        await connection.execute("INSERT INTO kept VALUES ($1)", 1)
        savepoint = connection.transaction()
        await savepoint.start()
        await connection.execute("INSERT INTO kept VALUES ($1)", 2)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetch("SELECT 1 / $1::int", 0)
        await savepoint.rollback()
    assert await fetch(connection, "SELECT n FROM kept") == [(1,)]


async def test_megabytes_pass_both_ways(connection: Connection) -> None:
    text = "x" * 5_000_000
    assert await connection.fetchval("SELECT $1::text || 'y'", text) == text + "y"
    rows = await fetch(connection, "SELECT i, repeat('z', 100) FROM generate_series(1, 20000) AS i")
    assert len(rows) == 20_000
    assert rows[-1] == (20_000, "z" * 100)


async def test_copy_takes_rows_and_tells_errors(connection: Connection) -> None:
    await connection.execute("CREATE TABLE copied (n int PRIMARY KEY, text text)")
    rows = [(n, "x" * 100) for n in range(20_000)]

    assert await connection.copy_records_to_table("copied", records=rows) == "COPY 20000"
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.copy_records_to_table("copied", records=rows[:1])
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.copy_records_to_table("absent", records=rows[:1])

    assert await fetch(connection, "SELECT count(*), sum(n) FROM copied") == [(20_000, sum(range(20_000)))]


async def test_listener_hears_its_own_session(connection: Connection) -> None:
    heard: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("news", lambda _session, _pid, channel, payload: heard.put_nowait((channel, payload)))

    await connection.execute("SELECT pg_notify('news', 'hello')")

    assert await asyncio.wait_for(heard.get(), timeout=30) == ("news", "hello")
    await connection.reset()  # or asyncpg warns of a listener on a closed connection


async def test_reset_leaves_nothing_and_keeps_the_address(empty_server: CommunityServer) -> None:
    client = await asyncpg.connect(empty_server.dsn)
    await client.execute("CREATE EXTENSION timescaledb; CREATE SCHEMA s; CREATE TABLE t (n int); CREATE ROLE r")
    dsn = empty_server.dsn

    empty_server.reset()

    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await client.execute("SELECT 1")
    assert empty_server.dsn == dsn
    client = await asyncpg.connect(dsn)
    assert await client.fetchval("SELECT count(*) FROM pg_extension") == 1  # plpgsql
    assert await client.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    assert await client.fetchval("SELECT to_regnamespace('s')") is None
    assert await client.fetchval("SELECT to_regrole('r')") is None
    await client.execute("CREATE EXTENSION timescaledb")
    await client.close()


async def test_crash_is_told_until_reset(empty_server: CommunityServer) -> None:
    client = await asyncpg.connect(empty_server.dsn)
    await client.execute("CREATE TABLE t (n int)")
    crash = r"The WebAssembly PostgreSQL crashed \(.+\) and its data is gone: reset the server\."

    with pytest.raises(asyncpg.ConnectionDoesNotExistError, match=crash):
        await client.execute("SELECT 1; COPY t FROM STDIN")  # a COPY that the bridge doesn't see coming
    with pytest.raises(asyncpg.CrashShutdownError, match=crash):
        await asyncpg.connect(empty_server.dsn)

    empty_server.reset()
    client = await asyncpg.connect(empty_server.dsn)
    assert await client.fetchval("SELECT to_regclass('t')") is None
    await client.close()


async def test_other_database_is_refused(empty_server: CommunityServer) -> None:
    with pytest.raises(
        asyncpg.InvalidCatalogNameError, match=r"^This server has the user postgres and the database template1 only\.$"
    ):
        await asyncpg.connect(empty_server.dsn, database="elsewhere")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a query"])
def test_server_ends_with_the_process_that_started_it(busy: bool) -> None:
    program = """
import asyncio, json, sys, asyncpg
from tests.timescale.community import CommunityServer

async def work():
    client = await asyncpg.connect(server.dsn)
    print(json.dumps(server._process.pid), flush=True)
    await client.execute("SELECT pg_sleep(60)" if sys.argv[1] == "True" else "SELECT 1")
    await asyncio.sleep(60)

with CommunityServer() as server:
    asyncio.run(work())
"""
    with subprocess.Popen([sys.executable, "-c", program, str(busy)], cwd=REPOSITORY, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        node = os.pidfd_open(json.loads(owner.stdout.readline()))
        owner.kill()
    try:
        # A pidfd is readable when its process has ended, whoever reaps it.
        assert select.select([node], [], [], 30)[0] == [node]
    finally:
        os.close(node)


def test_install_that_npm_refuses_says_what_npm_said(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{not json")
    with pytest.raises(NpmError, match=r"^npm install in .+ failed:\n(npm warn .+\n)*npm error code EJSONPARSE\n"):
        install_packages(tmp_path)
    assert not (tmp_path / "node_modules").exists()
