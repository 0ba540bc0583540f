"""Steps after a migration's transaction, beside others who read and write: nobody waits behind them for longer than a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.console import show_progress
from app.errors import MigrationFailed
from app.migrations import runner
from app.migrations.preview import StepPreview, preview_migrations
from app.migrations.runner import Terminal, apply_migrations, reverse_migrations
from app.migrations.script import write_script
from app.timescale import leftovers
from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import make_database
from tests.timescale.project import Project, step
from tests.timescale.test_indexes import BY_LINE, HIGH, HIGH_5, LINE, ONCE, declare, fill, list_indexes
from tests.timescale.test_script import run_psql

PATIENCE = 30  # seconds that nobody has to wait: LOCK_TIMEOUT is 2
STEP = "A step after the migration's transaction"
INSERT = "INSERT INTO readings VALUES ('A', '2026-01-02 00:30', 7)"
SHARE_UPDATE = "SHARE UPDATE EXCLUSIVE (reads and writes go on)"
SHARE = "SHARE (reads go on, writes wait)"
WAITING = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'virtualxid'"
EXCLUSIVE = "ACCESS EXCLUSIVE (reads and writes wait)"


@pytest.fixture
async def project(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Project]:
    """On the server of the tests, since TimescaleDB in WebAssembly has one connection: there is nobody beside a run."""
    monkeypatch.setattr(runner, "LONGEST_PAUSE", 0.1)
    async with make_database(server_url) as url:
        made = Project(tmp_path, url, monkeypatch)
        await made.fetch(ENABLE_TIMESCALE)
        await step(made, declare())
        await fill(made)
        yield made


async def require_hypertables(project: Project) -> None:
    if await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'") == []:
        pytest.skip("this edition has no hypertables")


@asynccontextmanager
async def open_transaction(project: Project, statement: str) -> AsyncIterator[None]:
    """Somebody who stays in the middle of a transaction until the block ends."""
    connection = await asyncpg.connect(project.url, server_settings={"application_name": "a report"})
    try:
        await connection.execute(f"BEGIN; {statement}")
        yield
    finally:
        await connection.close()


class Said(list[str]):
    """What a run said; `gave_way` is set as soon as it said to whom, which on a busy machine it may see at a later attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.gave_way = asyncio.Event()

    def warn(self, text: str) -> None:
        self.append(text)
        if " gave way to a report (" in text:
            self.gave_way.set()

    @property
    def terminal(self) -> Terminal:
        return Terminal(self.append, self.warn, show_progress)


async def go_beside(project: Project, run: Coroutine[Any, Any, None], said: Said, blocker: str, other: str) -> None:
    """Runs beside a transaction that is in its way, and has somebody else do something before that ends."""
    async with asyncio.TaskGroup() as group, open_transaction(project, blocker):
        waited_for = group.create_task(run), group.create_task(said.gave_way.wait())
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait_for(project.fetch(other), PATIENCE)
        assert said.gave_way.is_set()
    (place, told), *_ = [each for each in enumerate(said) if " gave way to a report (" in each[1]]
    assert told.startswith(f"{STEP} gave way to a report (")
    assert f"attempt {place + 2} of 15 in 0." in told


async def write(project: Project, source: str) -> str:
    project.declare(source)
    draft = await project.generate()
    assert draft is not None
    return draft.migration_id


def migrate(project: Project, said: Said) -> Coroutine[Any, Any, None]:
    return apply_migrations(project.engine, project.app, said.terminal)


async def preview_last(project: Project, to: str | None = None) -> StepPreview:
    shown = await preview_migrations(project.engine, project.app, to)
    return [*shown.leftovers, *(each for migration in shown.migrations for each in migration.steps)][-1]


def list_locks(shown: StepPreview) -> list[tuple[str, str]]:
    return [(each.table, each.lock) for each in shown.locks]


async def test_an_index_of_a_hypertable_gives_way_to_a_writer_and_the_others_write_on(project: Project) -> None:
    await require_hypertables(project)
    await write(project, declare(readings=HIGH))
    assert list_locks(await preview_last(project)) == [("readings", SHARE)]
    said = Said()
    await go_beside(project, migrate(project, said), said, INSERT, INSERT.replace("00:30", "00:40"))
    assert await list_indexes(project) == [HIGH_5]


async def test_an_index_of_a_hypertable_that_goes_gives_way_to_a_reader_and_the_others_read_on(
    project: Project,
) -> None:
    await require_hypertables(project)
    first = (await project.fetch("SELECT max(name) FROM migration"))[0][0]
    newest = await step(project, declare(readings=HIGH))
    assert list_locks(await preview_last(project, first)) == [("readings", EXCLUSIVE)]
    said = Said()
    read = "SELECT count(*) FROM readings"
    back = reverse_migrations(project.engine, project.app, [newest], said.terminal, may_lose=False)
    await go_beside(project, back, said, read, read)
    assert await list_indexes(project) == []


async def test_what_an_attempt_that_gave_way_has_left_is_cleared_away_before_the_next(project: Project) -> None:
    await require_hypertables(project)
    await write(project, declare(readings=HIGH))
    chunk = (await project.fetch("SELECT max(chunk::text) FROM show_chunks('readings') AS chunk"))[0][0]
    said = Said()
    # Not in the way of the table, nor of the chunks before that one.
    await go_beside(project, migrate(project, said), said, f"LOCK TABLE {chunk} IN ROW EXCLUSIVE MODE", INSERT)
    assert await list_indexes(project) == [HIGH_5]
    indexes = f"SELECT count(*)::int FROM pg_indexes WHERE indexname LIKE '%readings_high' AND tablename = '{chunk.split('.')[1]}'"
    assert await project.fetch(indexes) == [(1,)]


async def test_an_index_that_is_not_valid_goes_without_keeping_the_readers_of_a_plain_table_waiting(
    project: Project,
) -> None:
    await project.fetch("INSERT INTO machines VALUES ('B')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await project.fetch("CREATE UNIQUE INDEX CONCURRENTLY machines_line ON machines (line)")
    await write(project, declare(BY_LINE))
    shown = await preview_last(project)
    assert shown.cleared == 'DROP INDEX CONCURRENTLY IF EXISTS "machines_line"'
    assert list_locks(shown) == [("machines", SHARE_UPDATE)]
    async with asyncio.TaskGroup() as group, open_transaction(project, "SELECT FROM machines"):
        running = group.create_task(project.forwards())
        while await project.fetch(WAITING) != [(1,)]:  # the server has no event for it
            assert not running.done()
            await asyncio.sleep(0.02)
        await asyncio.wait_for(project.fetch("UPDATE machines SET line = 3 WHERE machine_id = 'B'"), PATIENCE)
        assert await asyncio.wait_for(project.fetch("SELECT max(line) FROM machines"), PATIENCE) == [(3,)]
    assert len(running.result()) == 1
    assert await list_indexes(project) == [LINE]


async def test_an_index_that_is_not_valid_goes_from_a_hypertable_when_nobody_reads_it(project: Project) -> None:
    await require_hypertables(project)
    await project.fetch("CREATE INDEX readings_high ON readings (value)")
    await project.fetch("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'readings_high'::regclass")
    await write(project, declare(readings=HIGH))
    shown = await preview_last(project)
    assert (shown.cleared, list_locks(shown)) == ('DROP INDEX IF EXISTS "readings_high"', [("readings", EXCLUSIVE)])
    said, read = Said(), "SELECT count(*) FROM readings"
    await go_beside(project, migrate(project, said), said, read, read)
    assert await list_indexes(project) == [HIGH_5]


async def test_what_is_built_concurrently_waits_as_long_as_a_reader_lasts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "LOCK_TIMEOUT", timedelta(milliseconds=50))
    await write(project, declare(BY_LINE))
    waiting = (
        "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'virtualxid' "
        "AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND clock_timestamp() - query_start > interval '500 ms'"
    )
    reading = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM machines"
    async with asyncio.TaskGroup() as group, open_transaction(project, reading):
        running = group.create_task(project.forwards())
        while await project.fetch(waiting) != [(1,)]:  # the server has no event for it
            assert not running.done()
            await asyncio.sleep(0.02)
        await asyncio.wait_for(project.fetch("INSERT INTO machines VALUES ('B')"), PATIENCE)
    (said,) = running.result()
    assert ": applied in " in said
    assert await list_indexes(project) == [LINE]


async def test_an_index_left_over_is_shown_with_the_lock_that_it_takes_here(project: Project) -> None:
    await project.fetch("INSERT INTO machines VALUES ('B', 1), ('C', 1)")
    await write(project, declare(ONCE))
    with pytest.raises(MigrationFailed):
        await project.forwards()
    shown = await preview_last(project)
    assert shown.shown.startswith('CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "machines_line_once" ON "machines"')
    assert list_locks(shown) == [("machines", SHARE_UPDATE)]


@pytest.mark.parametrize("valid", [True, False])
async def test_the_script_gives_way_as_its_head_says_and_goes_on_when_it_is_run_again(
    project: Project, valid: bool
) -> None:
    await require_hypertables(project)
    blocker, other = (INSERT, INSERT.replace("00:30", "00:40"))
    if not valid:
        await project.fetch("CREATE INDEX readings_high ON readings (value)")
        await project.fetch("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'readings_high'::regclass")
        blocker = other = "SELECT count(*) FROM readings"
    await write(project, declare(BY_LINE, HIGH))
    script = await write_script(project.app)
    async with open_transaction(project, blocker):
        running = asyncio.create_task(asyncio.to_thread(run_psql, project.url, script))
        waiting = "SELECT count(*)::int FROM pg_locks WHERE relation = 'readings'::regclass AND NOT granted"
        while not running.done() and await project.fetch(waiting) != [(1,)]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        await asyncio.wait_for(project.fetch(other), PATIENCE)
        done = await running
    assert (done.returncode, "canceling statement due to lock timeout" in done.stderr) == (3, True)
    done = await asyncio.to_thread(run_psql, project.url, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert await list_indexes(project) == [LINE, HIGH_5]
    assert await project.fetch("SELECT to_regclass('migration_step')::text") == [(None,)]


async def test_the_script_clears_away_what_is_not_valid_beside_the_readers_of_a_plain_table(project: Project) -> None:
    await project.fetch("INSERT INTO machines VALUES ('B')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await project.fetch("CREATE UNIQUE INDEX CONCURRENTLY machines_line ON machines (line)")
    await write(project, declare(BY_LINE))
    script = await write_script(project.app)
    async with open_transaction(project, "SELECT FROM machines"):
        running = asyncio.create_task(asyncio.to_thread(run_psql, project.url, script))
        while not running.done() and await project.fetch(WAITING) != [(1,)]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        assert await asyncio.wait_for(project.fetch("SELECT count(*)::int FROM machines"), PATIENCE) == [(2,)]
    done = await running
    assert (done.returncode, done.stderr) == (0, "")
    assert await list_indexes(project) == [LINE]
