"""What going back would lose is counted before anything is done, and again where nobody can write any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from app.console import show_progress
from app.errors import MigrationRefused
from app.migrations import runner
from app.migrations.losses import count_losses
from app.migrations.runner import Terminal, reverse_migrations
from tests.timescale.project import Project, step

ONE = """
class One(Declared, Table, tablename="one"):
    one_id = Integer(primary_key=True, default=None)
"""
MORE = ONE + "    more = Text(default=None, null=True)\n"
TERMINAL = Terminal(print, print, show_progress)


async def test_values_that_come_while_going_back_gives_way_are_not_dropped(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LONGEST_PAUSE", 0.1)
    project = Project(tmp_path, empty_database_url, monkeypatch)
    await step(project, ONE)
    await project.fetch("INSERT INTO one SELECT generate_series(1, 7)")
    newest = await step(project, MORE)
    gave_way = asyncio.Event()
    terminal = Terminal(print, lambda text: gave_way.set() if " gave way to " in text else None, show_progress)
    reader = await asyncpg.connect(empty_database_url)
    try:
        await reader.execute("BEGIN; SELECT FROM one")
        running = asyncio.create_task(
            reverse_migrations(project.engine, project.app, [newest], terminal, may_lose=False)
        )
        await asyncio.wait_for(gave_way.wait(), 60)
        await project.fetch("UPDATE one SET more = 'x' WHERE one_id < 6")
    finally:
        await reader.close()
    with pytest.raises(MigrationRefused) as refused:
        await running
    assert str(refused.value) == ("Going back drops 5 rows or values (5 of one.more). If they may go, add --yes.")
    assert await project.fetch("SELECT count(more)::int FROM one") == [(5,)]
    assert await project.fetch("SELECT event FROM migration_journal WHERE migration = $1", newest) == [("applied",)]
    await reverse_migrations(project.engine, project.app, [newest], TERMINAL, may_lose=True)
    assert await project.fetch("SELECT max(one_id) FROM one") == [(7,)]


async def test_rows_are_refused_before_anything_is_done_and_all_at_once(project: Project) -> None:
    first = await step(project, ONE)
    second = await step(project, MORE)
    third = await step(
        project, MORE + ONE.replace("One(", "Two(").replace("one_id", "two_id").replace('"one"', '"two"')
    )
    await project.fetch("INSERT INTO one VALUES (1, 'x'), (2, NULL)")
    with pytest.raises(MigrationRefused) as refused:
        await reverse_migrations(project.engine, project.app, [first, second, third], TERMINAL, may_lose=False)
    assert str(refused.value) == (
        "Going back drops 3 rows or values (2 of one, 1 of one.more). If they may go, add --yes."
    )
    applied = [(name,) for name in (first, second, third)]
    assert await project.fetch("SELECT name FROM migration ORDER BY name") == applied
    # Of what has nothing to lose nothing is refused.
    await reverse_migrations(project.engine, project.app, [third], TERMINAL, may_lose=False)
    assert await project.fetch("SELECT name FROM migration ORDER BY name") == applied[:2]


async def test_a_name_that_a_table_has_only_in_a_migration_to_come_is_not_looked_for(project: Project) -> None:
    first = await step(project, ONE)
    await project.fetch("INSERT INTO one VALUES (1)")
    project.declare(ONE.replace('"one"', '"renamed"'))
    assert await project.generate(renames=True) is not None
    assert await count_losses(project.engine, project.app, [first]) == {"one": 1}
