"""Starting the service as people start it: it refuses what isn't right, and creates nothing."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.migrations.state import list_migrations
from tests.conftest import ROOT, find_program, make_environ, run_command, run_sql
from tests.ports import find_free_port

FACTORY = "app.main:create_app"
COMMANDS = [
    pytest.param(["uvicorn", "--factory", FACTORY, "--port", "{port}"], id="uvicorn"),
    pytest.param(["litestar", "--app", FACTORY, "run", "--port", "{port}"], id="litestar"),
    pytest.param(["invoke", "serve"], id="invoke"),
]


def fill(command: list[str], port: int) -> list[str]:
    return [part.format(port=port) for part in command]


@contextmanager
def start(command: list[str], port: int, *before: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The process, which ends with the block at the latest; `before` is what its command line begins with."""
    program, *arguments = fill(command, port)
    process = subprocess.Popen(
        [*before, find_program(program), *arguments],
        cwd=ROOT,
        env=make_environ(AURUM_PORT=str(port), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def wait_until_ready(port: int) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(120):
        while True:
            with suppress(httpx.TransportError):
                answer = await http.get(f"http://127.0.0.1:{port}/health/ready")
                if answer.status_code == httpx.codes.OK:
                    return answer
            await asyncio.sleep(0.05)


async def count_tables(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    finally:
        await connection.close()


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_service_starts_and_stops_the_way_its_ecosystem_expects(
    command: list[str], database_url: str
) -> None:
    port = find_free_port()
    with start(command, port, DATABASE_URL=database_url) as process:
        assert (await wait_until_ready(port)).json()["status"] == "ready"
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), output
        assert "Traceback" not in output


async def test_the_service_may_open_a_file_for_each_connection_or_says_what_limits_it(database_url: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for hard, allowed in ((most, 310), (300, 300)):
        port = find_free_port()
        variables = {"AURUM_MAX_CONNECTIONS": "200", "AURUM_POOL_SIZE": "10"}
        limits = "ulimit -Sn 64" if hard == most else f"ulimit -Sn 64 && ulimit -Hn {hard}"
        shell = ("sh", "-c", f'{limits} && exec "$@"', "sh")
        with start(["invoke", "serve"], port, *shell, DATABASE_URL=database_url, **variables) as process:
            await wait_until_ready(port)
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (allowed, hard)
            process.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(process.communicate, timeout=60)
        told = "The process may open 300 files, and AURUM_MAX_CONNECTIONS asks for 310: raise the limit (ulimit -n, LimitNOFILE)"
        assert (told in output) == (hard == 300)


BOUNDED = ["uvicorn", "--factory", FACTORY, "--port", "{port}", "--http", "app.ops.protocol:BoundedProtocol"]


@pytest.mark.parametrize(
    ("command", "told"), [(COMMANDS[0], True), (COMMANDS[1], True), (COMMANDS[2], False), (BOUNDED, False)]
)
async def test_a_server_that_bounds_nothing_is_told_of_in_the_log(command: Any, told: bool, database_url: str) -> None:
    port = find_free_port()
    with start(getattr(command, "values", [command])[0], port, DATABASE_URL=database_url) as process:
        await wait_until_ready(port)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert ("This server bounds neither clients that are slow nor connections" in output) is told, output


@pytest.mark.parametrize("command", COMMANDS)
async def test_an_empty_database_is_refused_and_stays_empty(command: list[str], empty_database_url: str) -> None:
    done = await asyncio.to_thread(run_command, *fill(command, find_free_port()), database_url=empty_database_url)
    output = done.stdout + done.stderr
    assert done.returncode == 3, output
    assert f"SCHEMA_BEHIND: The database is behind this code: {len(list_migrations())} migration" in output
    assert "Run: invoke migrate" in output
    assert "Traceback" not in output
    assert await count_tables(empty_database_url) == 0


async def refuse(url: str, **variables: str) -> str:
    command = ["uvicorn", "--factory", FACTORY, "--port", str(find_free_port())]
    done = await asyncio.to_thread(run_command, *command, database_url=url, **variables)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


async def test_a_database_that_is_ahead_is_refused(database_url: str) -> None:
    await run_sql(database_url, "INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')")
    message = await refuse(database_url)
    assert "SCHEMA_AHEAD: The database is ahead of this code" in message
    assert "2999-01-01T00:00:00:000000" in message


async def test_a_database_of_another_branch_is_refused(database_url: str) -> None:
    await run_sql(
        database_url,
        "DELETE FROM migration WHERE app_name = 'app'",
        "INSERT INTO migration (name, app_name) VALUES ('2020-01-01T00:00:00:000000', 'app')",
    )
    assert "SCHEMA_FOREIGN" in await refuse(database_url)


async def test_tables_that_no_migration_made_are_refused(empty_database_url: str) -> None:
    await run_sql(empty_database_url, "CREATE TABLE machines (id int)", "CREATE TABLE alerts (id int)")
    message = await refuse(empty_database_url)
    assert (
        "SCHEMA_FOREIGN: The database has tables that AurumAI's migrations did not make (alerts, machines)" in message
    )


async def test_the_bookkeeping_of_another_program_is_refused(empty_database_url: str) -> None:
    await run_sql(empty_database_url, "CREATE TABLE migration (version text)")
    assert "SCHEMA_FOREIGN: The database has a table \"migration\" that isn't Piccolo's" in await refuse(
        empty_database_url
    )


async def test_a_server_that_cannot_be_reached_is_named() -> None:
    message = await refuse(f"postgresql://aurum:secret@127.0.0.1:{find_free_port()}/aurum")
    assert "DATABASE_UNAVAILABLE: The database of DATABASE_URL can't be reached" in message
    assert "secret" not in message


async def test_a_database_that_is_not_there_is_named(empty_database_url: str) -> None:
    message = await refuse(empty_database_url.replace("/aurum_", "/nowhere_", 1))
    assert 'database "nowhere_' in message
    assert "does not exist" in message


async def test_requiring_timescale_on_a_server_without_it_is_refused(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    if await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("this server has TimescaleDB")
    message = await refuse(database_url, AURUM_TIMESCALE="require")
    assert "TIMESCALE_REQUIRED: AURUM_TIMESCALE=require, but the database has no TimescaleDB" in message


async def test_wrong_settings_are_named_all_at_once(tmp_path: Path) -> None:
    command = ["uvicorn", "--factory", FACTORY, "--port", str(find_free_port())]
    done = await asyncio.to_thread(
        run_command, *command, database_url="mysql://secret@x/y", AURUM_PORT="70000", AURUM_ENV="prod"
    )
    assert done.returncode == 1
    assert "AURUM_PORT is '70000'" in done.stderr
    assert "AURUM_ENV is 'prod': must be one of development, production." in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
