"""SIGKILL at every statement of a run: each migration is wholly there or not at all, and the next run brings it to its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from app.database import probe_edition
from app.timescale.definitions import Catalogue, read_catalogue
from app.timescale.drift import find_differences
from app.timescale.journal import take_lock
from tests.conftest import ROOT
from tests.timescale.project import (
    COMPRESSION,
    MEAN,
    REAL,
    ROWS,
    Project,
    check,
    daily,
    declare,
    is_community,
    is_in_webassembly,
    step,
)

INDEXED = """
from app.timescale.indexes import Index

class Machine(Declared, Table, tablename="machines", indexes=(Index("machines_backwards", ("machine_id DESC",)),)):
    machine_id = Text(primary_key=True, default=None)
    line = Integer(default=5)
"""
MORE = """
class Note(Declared, Table, tablename="notes"):
    note_id = BigSerial(primary_key=True)
    machine = ForeignKey(Machine)
"""
AFTERWARDS = (
    '    manager.run_after_commit("CREATE INDEX CONCURRENTLY IF NOT EXISTS machines_line ON machines (line)", '
    '"DROP INDEX CONCURRENTLY IF EXISTS machines_line")\n    return manager'
)


HOURS = "SELECT count(*), sum(readings)::int8, sum(readings * mean)::float8 FROM readings_hourly"


class Killer:
    """The process that runs and kills."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def strike(self, direction: str, migration_id: str, number: int, moment: str) -> str:
        """Runs, to be killed at a statement; says what became of it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{direction} {migration_id} {number} {moment}\n".encode())
        return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def open_killer(project: Project) -> AsyncIterator[Killer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.timescale.killed",
        project.url,
        str(project.folder.parent),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Killer(process)
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


class State(NamedTuple):
    """What is to be seen of a database: `applied` by Piccolo's bookkeeping, `written` by the journal's last entries."""

    catalogue: Catalogue
    applied: list[str]
    written: list[str]
    left: bool
    rows: list[tuple[Any, ...]]
    events: list[tuple[str, str]]


async def look(project: Project, after: int = 0) -> State:
    """Once nobody is at work any more; `events` are those of the journal after that id."""
    connection = await project.engine.get_new_connection()
    try:
        # A session that is killed ends when the server sees it: it has the lock as long as it can do anything.
        await take_lock(connection)
        edition = await probe_edition(connection, timescale="auto")
        events = await connection.fetch("SELECT id, migration, event FROM migration_journal ORDER BY id")
        return State(
            await read_catalogue(connection, "public", hypertables=edition.has_hypertables),
            [row["name"] for row in await connection.fetch("SELECT name FROM migration ORDER BY name")],
            sorted(
                name for name, event in {row["migration"]: row["event"] for row in events}.items() if event == "applied"
            ),
            await connection.fetchval("SELECT to_regclass('migration_step') IS NOT NULL"),
            [
                tuple(row)
                for row in await connection.fetch(
                    "SELECT count(*), sum(value)::float8, min(timestamp), max(timestamp) FROM readings"
                )
            ],
            [(row["migration"], row["event"]) for row in events if row["id"] > after],
        )
    finally:
        await connection.close()


def require_whole(state: State, names: list[str], known: list[State]) -> None:
    """Each migration is wholly there or not at all, but for what is written down to be done after it; no row is lost."""
    assert state.applied == state.written == names[: len(state.applied)]
    expected = known[len(state.applied)]
    assert state.rows == expected.rows
    differences = find_differences(expected.catalogue, state.catalogue)
    assert [str(each) for each in differences if not (state.left and each.kind == "index")] == []


async def prepare(project: Project) -> tuple[list[str], list[State]]:
    """The ids of three migrations, of which the first is applied and has rows; how the database is after so many of them."""
    community = await is_community(project)
    names = [await step(project, declare("None"))]
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    known = [await look(project)] * 2
    changed = declare(daily(COMPRESSION + MEAN), REAL.replace(")", ", index=True)"))
    if not community:  # which can build no index beside others
        changed = INDEXED + changed.split("\n\n", maxsplit=1)[1]
    for source in (changed, changed + MORE):
        project.declare(source)
        draft = await project.generate()
        assert draft is not None
        if len(names) == 1 and not community:
            draft.path.write_text(draft.text.replace("    return manager", AFTERWARDS))
        await project.forwards()
        names.append(draft.migration_id)
        known.append(await look(project))
    assert await check(project) == (0, [])
    await project.backwards(names[1])
    assert find_differences(known[1].catalogue, (await look(project)).catalogue) == []
    return names, known


@pytest.mark.parametrize("moment", ["after", "sent"])
async def test_a_run_that_is_killed_at_any_statement_is_brought_to_its_end_by_the_next(
    project: Project, moment: str
) -> None:
    """Forwards and backwards by turns. Where a kill has left all as it was, the run that is killed next goes on from there."""
    if moment == "sent" and await is_in_webassembly(project):
        pytest.skip("TimescaleDB in WebAssembly answers a statement before it sees that nobody listens")
    names, known = await prepare(project)
    killed: dict[str, list[str]] = {"forwards": [], "backwards": []}
    async with open_killer(project) as killer:
        while any(outcomes[-1:] != ["done"] for outcomes in killed.values()):
            for direction, outcomes in killed.items():
                start, end = (known[1], known[3]) if direction == "forwards" else (known[3], known[1])
                state = start
                while (state.applied, state.left) == (start.applied, False):
                    ((begun,),) = await project.fetch("SELECT max(id) FROM migration_journal")
                    outcomes.append(await killer.strike(direction, names[1], len(outcomes) + 1, moment))
                    assert outcomes[-1].startswith(("killed at ", "done"))
                    state = await look(project)
                    require_whole(state, names, known)
                await (project.forwards() if direction == "forwards" else project.backwards(names[1]))
                state = await look(project, begun)
                require_whole(state, names, known)
                assert (state.applied, state.left) == (end.applied, False)
                assert state.events == (
                    [(name, "applied") for name in names[1:]]
                    if direction == "forwards"
                    else [(name, "reversed") for name in names[:0:-1]]
                )
                if direction == "forwards" and await is_community(project):
                    assert await project.fetch(HOURS) == [(167, 1000, 499500.0)]
    assert [outcomes.count("killed at COMMIT;") for outcomes in killed.values()] == [2, 2]
    assert "killed at DROP TABLE migration_step" in killed["forwards"]
