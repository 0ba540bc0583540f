"""What whoever is on call sees of a fault, in /health/ready, /metrics and the log; and that it cost no acknowledged reading."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.migrations.state import list_migrations
from tests.client import ServiceClient
from tests.conftest import read_database
from tests.faults.load import Load, check_stored, check_stored_at
from tests.faults.postgres import OwnPostgres, run_postgres
from tests.faults.processes import ServiceProcess, needs_proc, register, run_process
from tests.scrape import scrape, wait_for_scrape
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count

pytestmark = needs_proc

MACHINES = ["PRESS-1", "PRESS-2"]
EVENTS = "subscription { measurements { measurements { machineId } } }"
MEBIBYTE = 1024 * 1024


async def wait_for_checks(client: ServiceClient, **words: str) -> dict[str, str]:
    """The checks of /health/ready, once they begin with these words, all at once."""
    async with asyncio.timeout(60):
        while True:
            checks: dict[str, str] = (await client.http.get("/health/ready")).json()["checks"]
            if all(checks[name].startswith(begin) for name, begin in words.items()):
                return checks
            await asyncio.sleep(0.02)


async def wait_for_log(process: ServiceProcess, words: str, **fields: Any) -> dict[str, Any]:
    """The first line that has the words in its message, and these fields."""
    async with asyncio.timeout(60):
        while True:
            for line in process.read_log():
                if words in line["message"] and fields.items() <= line.items():
                    return line
            await asyncio.sleep(0.05)


async def test_a_listener_that_is_cut_off_is_told_and_nothing_of_what_it_missed_is(
    server_url: str, database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """Everything else goes on: readings are stored, and subscriptions have them when the listener is back."""
    admin = await asyncpg.connect(server_url)
    name = read_database(database_url)
    async with run_process(database_url, log=tmp_path / "log") as process, ServiceClient(process.url) as client:
        await register(process, "PRESS-1")
        async with client.subscribe(EVENTS) as events:
            assert await client.ingest(reading(timestamp=at(0))) == count(accepted=1)
            await events.next()
            await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = $1 AND application_name = 'aurumai listener'",
                name,
            )
            lost = "DATABASE_UNAVAILABLE: The listener has no connection"
            await wait_for_checks(client, listener=lost, pool="ok", migrations="ok", writer="ok")
            for second in range(1, 4):
                assert await client.ingest(reading(timestamp=at(second))) == count(accepted=1)
            found = await wait_for_scrape(client, "aurumai_database_up", 1)
            assert found.read("aurumai_listener_up") == 0
            assert found.read("aurumai_outbox_lag_seconds") > 0
            await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
            told = [(await events.next())["measurements"] for _ in range(3)]
            assert told == [[{"machineId": "PRESS-1"}]] * 3
        found = await wait_for_scrape(client, "aurumai_listener_up", 1)
        assert found.read("aurumai_listener_connections_total") == 2
        await wait_for_scrape(client, "aurumai_outbox_lag_seconds", 0)
        await wait_for_checks(client, listener="ok")
        line = await wait_for_log(process, "The outbox listener lost its connection")
        assert (line["level"], line["logger"]) == ("warning", "app.events.listener")
    await admin.close()


async def test_a_database_that_is_gone_is_told_until_it_is_back(own_postgres: OwnPostgres, tmp_path: Path) -> None:
    async with (
        run_process(own_postgres.url, log=tmp_path / "log", AURUM_INGEST_DEADLINE="PT4S") as process,
        ServiceClient(process.url) as client,
    ):
        await register(process, *MACHINES)
        load = Load(process.url, MACHINES)
        async with load.run():
            await load.wait_for(10)
            own_postgres.kill()
            waiting = "DATABASE_UNAVAILABLE: Readings wait for the database"
            await wait_for_checks(client, writer=waiting, pool="DATABASE_UNAVAILABLE: ")
            found = await wait_for_scrape(client, "aurumai_listener_up", 0)
            assert found.read("aurumai_database_up") == 0
            line = await wait_for_log(process, "POST /ingest was answered with 503", code="DATABASE_UNAVAILABLE")
            assert (line["route"], line["status"]) == ("/ingest", 503)
            assert len(line["request_id"]) == 32
            await own_postgres.start()
            await load.wait_for(10)
        await process.wait_until_ready()
        found = await wait_for_scrape(client, "aurumai_database_up", 1)
        assert found.read("aurumai_http_errors_total", code="DATABASE_UNAVAILABLE") >= 1
        assert found.read("aurumai_ingest_readings_total", result="accepted") >= 1
    assert load.sent_again
    await check_stored_at(own_postgres.url, load.acknowledged)


async def test_a_pool_that_slow_questions_use_up_is_told_and_readings_wait_for_it(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    async with (
        run_process(
            database_url,
            log=tmp_path / "log",
            AURUM_POOL_SIZE="3",
            AURUM_STATEMENT_TIMEOUT="PT8S",
            AURUM_INGEST_DEADLINE="PT1S",
        ) as process,
        ServiceClient(process.url) as client,
    ):
        await register(process, *MACHINES)
        blocker = await asyncpg.connect(database_url)
        await blocker.execute("BEGIN; LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        load = Load(process.url, MACHINES)
        slow = [asyncio.create_task(client.post_graphql("{ predictions { nodes { machineId } } }")) for _ in range(6)]
        async with load.run():
            used_up = "DATABASE_UNAVAILABLE: All 3 connections of the pool are in use"
            checks = await wait_for_checks(client, pool=used_up)
            assert "raise AURUM_POOL_SIZE" in checks["pool"]
            line = await wait_for_log(process, "POST /ingest was answered with 503")
            assert line["code"] in {"DATABASE_UNAVAILABLE", "OVERLOADED"}
            found = await scrape(client)
            assert found.read("aurumai_pool_limit_connections") == 3
            answers = await asyncio.gather(*slow)
            await blocker.execute("ROLLBACK")
            await load.wait_for(10)
        codes = {answer["errors"][0]["extensions"]["code"] for answer in answers if "errors" in answer}
        assert codes <= {"QUERY_TIMEOUT", "DATABASE_UNAVAILABLE"}
        assert codes
        await process.wait_until_ready()
        counted = (await scrape(client)).list_samples("aurumai_graphql_operations_total")
        assert {labels["outcome"] for labels, _ in counted} >= codes
        await blocker.close()
    await check_stored(connection, load.acknowledged)


async def test_a_schema_that_went_ahead_of_an_old_process_is_told_by_it_and_readings_are_still_taken(
    database_url: str, connection: Connection
) -> None:
    async with run_process(database_url) as process, ServiceClient(process.url) as client:
        await register(process, *MACHINES)
        load = Load(process.url, MACHINES)
        async with load.run():
            await load.wait_for(5)
            await connection.execute(
                "INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')"
            )
            ahead = "SCHEMA_AHEAD: The database is ahead of this code"
            await wait_for_checks(client, migrations=ahead, pool="ok", writer="ok", listener="ok")
            found = await wait_for_scrape(client, "aurumai_migrations", 1, state="unknown")
            assert found.read("aurumai_migrations", state="applied") == len(list_migrations())
            await load.wait_for(10)
        assert load.sent_again == 0
    await check_stored(connection, load.acknowledged)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"there is no mount here: {error}")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    yield folder
    for _ in range(900):  # until PostgreSQL has ended, and whoever keeps it
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{folder} could not be unmounted")


def fill_disk(folder: Path) -> Path:
    """Leaves nothing; takes it all into a file."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(MEBIBYTE))
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


async def test_a_disk_that_is_full_is_told_and_costs_nothing_once_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    async with (
        run_postgres(small_disk / "postgres") as postgres,
        run_process(postgres.url, log=tmp_path / "log", AURUM_INGEST_DEADLINE="PT4S") as process,
        ServiceClient(process.url) as client,
    ):
        await register(process, *MACHINES)
        load = Load(process.url, MACHINES)
        async with load.run():
            await load.wait_for(10)
            filler = fill_disk(small_disk)
            await wait_for_log(process, "POST /ingest was answered with 503", code="DATABASE_UNAVAILABLE")
            found = await scrape(client)
            assert found.read("aurumai_ingest_failed_commits_total") >= 1
            assert (await client.http.get("/health/live")).status_code == 200
            assert (await client.http.get("/health/ready")).status_code in {200, 503}
            filler.unlink()
            stored = asyncio.create_task(load.wait_for(10))
            while not stored.done():
                if not postgres.is_running:  # the log of transactions had no room either
                    await postgres.start()
                await asyncio.wait({stored}, timeout=0.2)
            await stored
        await process.wait_until_ready()
        await check_stored_at(postgres.url, load.acknowledged)
    assert load.sent_again
