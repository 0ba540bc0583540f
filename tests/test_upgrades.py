"""From an older PostgreSQL to the one of the tests, as docs/operations.md has it: by a backup that is restored there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.embedded import open_embedded
from app.embedded.installations import list_installations
from tests.conftest import run_service
from tests.test_backup import MACHINES, fetch, fill, invoke, read_everything
from tests.test_ingest import reading
from tests.test_intake import count

SERIES = """{ series(machineIds: ["PRESS-1"], metrics: ["a"], from: "2026-01-01T00:00:00Z",
                     to: "2026-02-01T00:00:00Z") { timestamps values } }"""


async def test_a_database_moves_to_a_newer_postgresql_with_every_row_and_answers_the_same(
    empty_database_url: str, tmp_path: Path
) -> None:
    newer = int((await fetch(empty_database_url, "SELECT current_setting('server_version_num')::int / 10000"))[0][0])
    older = next((one for one in list_installations(None, timescale=False) if one.major < newer), None)
    if older is None:
        pytest.skip(f"there is no PostgreSQL here that is older than {newer}")
    file = tmp_path / "old.dump"
    with await asyncio.to_thread(open_embedded, tmp_path / "old", older.bin_dir) as server:
        version = await fetch(server.dsn, "SELECT current_setting('server_version_num')::int / 10000")
        assert version == [(older.major,)]
        assert (await invoke(server.dsn, "migrate")).returncode == 0
        await fill(server.dsn)
        async with run_service(server.dsn) as service:
            shown = await service.ask(SERIES)
        made = await invoke(server.dsn, "backup", "--file", str(file))
        assert made.returncode == 0, made.stderr
        before = await read_everything(server.dsn)

    done = await invoke(empty_database_url, "restore", "--file", str(file))
    assert done.returncode == 0, done.stderr
    assert "every table has the rows and the checksum that it had." in done.stdout
    assert await read_everything(empty_database_url) == before

    if await fetch(empty_database_url, "SELECT FROM pg_extension WHERE extname = 'timescaledb'"):
        assert (await invoke(empty_database_url, "timescale-apply")).returncode == 0
    checked = await invoke(empty_database_url, "migrate-check")
    assert checked.returncode == 0, checked.stdout
    async with run_service(empty_database_url) as service:
        assert await service.ask(SERIES) == shown
        assert await service.ingest(reading(MACHINES[1])) == count(accepted=1)
