"""A retention from `app/tables.py` to the rows that are gone: declared, migrated, and kept by the service that runs."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.database import EditionName, probe_edition
from tests.client import ServiceClient
from tests.conftest import ROOT, find_program, make_environ
from tests.ports import find_free_port
from tests.test_startup import wait_until_ready

DECLARED = 'hypertable=Hypertable("timestamp", chunk_interval=timedelta(days=1)),'
CHANGED = 'hypertable=Hypertable("timestamp", chunk_interval=timedelta(days=1), retention=timedelta(days=30)),'
AGES = "SELECT extract(day FROM now() - timestamp)::int AS age FROM raw_measurements ORDER BY timestamp DESC"


def copy_project(folder: Path) -> None:
    """The project as somebody has it who changes its tables."""
    for name in ("app", "piccolo_migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("piccolo_conf.py", "tasks.py"):
        shutil.copy(ROOT / name, folder / name)


async def start(folder: Path, database_url: str, *command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        find_program(command[0]),
        *command[1:],
        cwd=folder,
        env=make_environ(DATABASE_URL=database_url, PYTHONPATH=str(folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def run(folder: Path, database_url: str, *command: str) -> None:
    process = await start(folder, database_url, *command)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@asynccontextmanager
async def serve(folder: Path, database_url: str) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """The service of that folder, ready; ended as an operator does it."""
    port = find_free_port()
    process = await start(folder, database_url, "uvicorn", "--factory", "app.main:create_app", "--port", str(port))
    try:
        assert (await wait_until_ready(port)).status_code == httpx.codes.OK
        yield port, process
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(90):
            rest, _ = await process.communicate()
        assert b"Traceback" not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def read_until(process: asyncio.subprocess.Process, text: str) -> str:
    """The first line of the log that has this text."""
    assert process.stdout is not None
    async with asyncio.timeout(90):
        async for line in process.stdout:
            if text in line.decode():
                return line.decode()
    raise AssertionError(f"the service ended and did not say: {text}")


async def test_a_retention_that_is_declared_and_migrated_is_kept_and_said(
    tmp_path: Path, database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    edition = await probe_edition(connection, timescale="auto")
    if edition.name is EditionName.COMMUNITY:
        pytest.skip("a policy of TimescaleDB's does it here, in its own time")

    async def list_ages() -> list[Any]:
        return [row["age"] for row in await connection.fetch(AGES)]

    await connection.execute(
        "INSERT INTO machines (machine_id, machine_type, location) VALUES ('PRESS-1', 'press', '')"
    )
    await connection.execute(
        "INSERT INTO raw_measurements (machine_id, timestamp, metrics) "
        "SELECT 'PRESS-1', now() - n * interval '20 days', '{}' FROM generate_series(0, 3) AS n"
    )
    copy_project(tmp_path)
    tables = tmp_path / "app" / "tables.py"
    source = tables.read_text(encoding="utf-8")
    assert source.count(DECLARED) == 1
    tables.write_text(source.replace(DECLARED, CHANGED), encoding="utf-8")

    async with serve(tmp_path, database_url):
        pass  # it looks for what is too old as soon as it runs, but nobody has migrated to that retention yet
    assert await list_ages() == [0, 20, 40, 60]

    await run(tmp_path, database_url, "invoke", "migration", "--msg", "Keep a month of readings")
    await run(tmp_path, database_url, "invoke", "migrate")
    async with serve(tmp_path, database_url) as (port, process):
        line = await read_until(process, "raw_measurements: ")
        assert f"raw_measurements: dropped 2 {'chunks' if edition.has_hypertables else 'rows'} from before " in line
        async with ServiceClient(f"http://127.0.0.1:{port}") as client:
            left_out = (await client.ask("{ storage { leftOut } }"))["storage"]["leftOut"]
    assert await list_ages() == [0, 20]
    instead = "drops chunks" if edition.has_hypertables else "deletes rows in batches"
    assert left_out[-1] == (
        "raw_measurements: a retention policy needs TimescaleDB Community; "
        f"instead, while it runs, the service {instead}."
    )
