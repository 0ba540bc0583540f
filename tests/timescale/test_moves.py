"""Data migrations: rows changed batch by batch, cut off and gone on with, forwards and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.errors import MigrationFailed, MigrationRefused
from app.migrations.check import check_database
from app.migrations.runner import Terminal, apply_migrations
from app.timescale.autogenerate import draft_data
from app.timescale.files import load_managers
from tests.conftest import run_sql
from tests.timescale.project import Project, daily, declare, step

DOUBLE_IT = "UPDATE readings SET value = value * 2 WHERE {batch}"
HALVE_IT = "UPDATE readings SET value = value / 2 WHERE {batch}"
ROWS = """
INSERT INTO readings
SELECT machine, '2026-01-01'::timestamptz + n * interval '10 minutes', n
FROM generate_series(0, 499) AS n, unnest(ARRAY['A', 'it''s %s {first}']) AS machine
"""
SUMS = "SELECT count(*)::int, sum(value)::int, count(*) FILTER (WHERE value = 0)::int FROM readings"
BEFORE, AFTER = [(1000, 249_500, 2)], [(1000, 499_000, 2)]
KEY = '("machine_id", "timestamp")'


@pytest.fixture
async def filled(project: Project) -> Project:
    """Readings of two machines in chunks, where there are any."""
    await step(project, declare(daily()))
    await project.fetch("""INSERT INTO machines VALUES ('A'), ('it''s %s {first}')""")
    await project.fetch(ROWS)
    return project


async def write(project: Project, forwards: str = DOUBLE_IT, backwards: str = HALVE_IT, key: str = KEY) -> str:
    draft = await draft_data(project.app, "Double the values")
    move = f"    manager.move_rows('readings', {key}, {forwards!r}, {backwards!r}, rows=70)\n    return manager"
    assert "#     forwards=" in draft.text
    draft.path.write_text(draft.text.replace("    return manager", move))
    return draft.migration_id


def newest(project: Project) -> Path:
    return max(project.folder.glob("*.py"))


class Counter:
    """A terminal's bar that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    @contextmanager
    def show_progress(self, _label: str, _unit: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: self.told.append((done, total))


async def run(project: Project, counter: Counter | None = None) -> None:
    terminal = Terminal(print, print, (counter or Counter()).show_progress)
    await apply_migrations(project.engine, project.app, terminal)


@pytest.mark.parametrize("key", [KEY, '("timestamp", "machine_id")', '("timestamp",)', '("machine_id",)'])
async def test_rows_are_changed_once_each_batch_by_batch_and_back(filled: Project, key: str) -> None:
    assert await filled.fetch(SUMS) == BEFORE
    migration_id = await write(filled, key=key)
    counter = Counter()
    await run(filled, counter)
    assert await filled.fetch(SUMS) == AFTER
    assert counter.told[-1] == (1000, 1000)
    if key == KEY:
        assert [done for done, _ in counter.told] == [*range(70, 1000, 70), 1000]
    assert await filled.fetch("SELECT event FROM migration_journal WHERE migration = $1", migration_id) == [
        ("applied",)
    ]
    await run(filled)
    assert await filled.fetch(SUMS) == AFTER
    await filled.backwards("1")
    assert await filled.fetch(SUMS) == BEFORE
    assert await filled.fetch("SELECT to_regclass('migration_progress')::text") == [(None,)]
    assert (await check_database(filled.engine, filled.app)).pending == [migration_id]


async def test_a_move_that_is_cut_off_goes_on_where_it_was(filled: Project) -> None:
    migration_id = await write(filled)
    await filled.fetch(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$"
    )
    await filled.fetch(
        "CREATE TRIGGER refuse BEFORE UPDATE ON readings FOR EACH ROW "
        "WHEN (old.machine_id = 'A' AND old.value = 300) EXECUTE FUNCTION refuse()"
    )
    with pytest.raises(
        MigrationFailed,
        match=f"^{migration_id} was refused by the database, and the batches before that stay: .*: not this one",
    ):
        await run(filled)
    doubled = "SELECT count(*)::int FROM readings WHERE machine_id = 'A' AND value <> extract(epoch FROM timestamp - '2026-01-01') / 600"
    assert await filled.fetch(doubled) == [(279,)]  # four batches of 70, whose first row is 0 twice
    assert await filled.fetch("SELECT rows_done::int FROM migration_progress") == [(280,)]
    assert (await check_database(filled.engine, filled.app)).pending == [migration_id]
    await filled.fetch("DROP TRIGGER refuse ON readings; ")
    counter = Counter()
    await run(filled, counter)
    assert await filled.fetch(SUMS) == AFTER
    assert counter.told[0] == (350, 1000)


async def test_a_move_over_no_rows_is_done(project: Project) -> None:
    await step(project, declare(daily()))
    migration_id = await write(project)
    await run(project)
    assert (await project.fetch("SELECT max(name) FROM migration"))[0] == (migration_id,)


async def test_the_statement_for_where_no_python_runs_does_the_same(filled: Project) -> None:
    await write(filled)
    manager: Any = (await load_managers(filled.app))[-1]
    (only,) = await manager.list_steps()
    await run_sql(filled.url, only.sql)
    assert await filled.fetch(SUMS) == AFTER
    (only,) = await manager.list_steps(backwards=True)
    await run_sql(filled.url, only.sql)
    assert await filled.fetch(SUMS) == BEFORE


@pytest.mark.parametrize(
    "more", ["manager.add_raw(lambda: None)", "manager.drop_table('Machine', 'machines')", "manager.enable_timescale()"]
)
async def test_a_data_migration_changes_rows_only(filled: Project, more: str) -> None:
    await write(filled)
    path = newest(filled)
    path.write_text(path.read_text().replace("    return manager", f"    {more}\n    return manager"))
    with pytest.raises(MigrationRefused, match="changes the schema as well: make two migrations of it"):
        await run(filled)
    assert await filled.fetch(SUMS) == BEFORE


async def test_what_cannot_be_walked_over_is_refused(filled: Project) -> None:
    for wrong, reason in (
        ({"key": '("value",)'}, "forwards of the move over readings changes value, by which it walks"),
        ({"key": '("size",)'}, "walks over readings by size, which must be there and NOT NULL"),
        ({"forwards": "UPDATE readings SET value = 0"}, "forwards of the move over readings must have {batch} in its"),
    ):
        await write(filled, **wrong)
        with pytest.raises(MigrationRefused, match=reason):
            await run(filled)
        newest(filled).unlink()
    assert await filled.fetch(SUMS) == BEFORE


# Has a batch wait until the test lets go of lock 7, asking again and again: a wait in the server would end at lock_timeout.
WAIT_FOR_7 = """
CREATE FUNCTION wait_for_7() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  WHILE NOT pg_try_advisory_xact_lock(7) LOOP PERFORM pg_sleep(0.01); END LOOP;
  RETURN NULL;
END $$;
CREATE TRIGGER waiting AFTER UPDATE ON readings FOR EACH STATEMENT EXECUTE FUNCTION wait_for_7()
"""
WAITING_FOR_7 = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
)


async def test_the_service_goes_on_writing_meanwhile(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path, empty_database_url, monkeypatch)
    await step(project, declare(daily()))
    await project.fetch("""INSERT INTO machines VALUES ('A'), ('it''s %s {first}')""")
    await project.fetch(ROWS)
    await write(project)
    writer = await asyncpg.connect(empty_database_url)
    written = 0

    async def insert() -> None:
        nonlocal written
        written += 1
        at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=written)
        await asyncio.wait_for(writer.execute("INSERT INTO readings VALUES ('A', $1, 1)", at), 30)

    try:
        await writer.execute(WAIT_FOR_7)
        await writer.execute("SELECT pg_advisory_lock(7)")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(run(project))
            while not await writer.fetchval(WAITING_FOR_7):  # the server has no event for it
                assert not running.done()
                await asyncio.sleep(0.02)
            for _ in range(20):
                await insert()
            await writer.execute("SELECT pg_advisory_unlock(7)")
            while not running.done():
                await insert()
    finally:
        await writer.close()
    assert (await project.fetch("SELECT count(*)::int, count(*) FILTER (WHERE value = 0)::int FROM readings")) == [
        (1000 + written, 2)
    ]
