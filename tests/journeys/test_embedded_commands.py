"""The commands where DATABASE_URL is not set: one embedded server for all of them, gone when they are."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from pathlib import Path

from app.migrations.state import list_migrations
from tests.conftest import ROOT, find_program, make_environ
from tests.journeys.test_demo import wait_until_gone
from tests.ports import find_free_port
from tests.test_startup import start, wait_until_ready


def run(data_dir: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_program(command[0]), *command[1:]],
        cwd=ROOT,
        env=make_environ(AURUM_DATA_DIR=str(data_dir)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


async def test_piccolo_s_own_commands_serve_the_embedded_server_too(tmp_path: Path) -> None:
    data_dir = tmp_path / ".aurum"
    forwards = await asyncio.to_thread(run, data_dir, "piccolo", "migrations", "forwards", "app")
    assert forwards.returncode == 0, forwards.stderr
    await asyncio.to_thread(wait_until_gone, data_dir)
    current = await asyncio.to_thread(run, data_dir, "invoke", "migrate-current")
    assert current.stdout == f"{list_migrations()[-1]}\n"
    # Before it, what takes longer than a second is told.
    assert re.search("^Embedded PostgreSQL ", current.stderr, re.MULTILINE), current.stderr
    await asyncio.to_thread(wait_until_gone, data_dir)


async def test_the_service_and_a_command_share_one_server(tmp_path: Path) -> None:
    data_dir = tmp_path / ".aurum"
    port = find_free_port()
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
    file = tmp_path / "press.csv"
    file.write_text("timestamp,value\n2026-01-31T12:00:00Z,1.5\n")

    with start(command, port, AURUM_DATA_DIR=str(data_dir)) as refused:
        output, _ = await asyncio.to_thread(refused.communicate, timeout=180)
        assert refused.returncode == 3, output
        assert "SCHEMA_BEHIND" in output
    migrated = await asyncio.to_thread(run, data_dir, "invoke", "migrate")
    assert migrated.returncode == 0, migrated.stderr

    with start(command, port, AURUM_DATA_DIR=str(data_dir)) as service:
        assert (await wait_until_ready(port)).status_code == 200
        loaded = await asyncio.to_thread(
            run, data_dir, "invoke", "load-csv", "--file", str(file), "--machine", "PRESS-1"
        )
        assert "1 rows: 1 accepted" in loaded.stdout, loaded.stderr
        assert (await wait_until_ready(port)).status_code == 200
        service.send_signal(signal.SIGTERM)
        await asyncio.to_thread(service.communicate, timeout=90)
    await asyncio.to_thread(wait_until_gone, data_dir)
