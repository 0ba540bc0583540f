"""Declared indexes: made without stopping the writers, dropped, changed, forwards and back, and made again where cut off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from app.errors import MigrationFailed
from app.migrations.check import check_database
from app.timescale.declared import find_indexes
from app.timescale.hypertable import DeclarationError, Hypertable
from app.timescale.statements import ENABLE_TIMESCALE
from tests.conftest import make_database
from tests.timescale.project import Project, step

TABLES = """
from app.timescale.indexes import Index

class Machine(Declared, Table, tablename="machines", indexes=({machines})):
    machine_id = Text(primary_key=True, default=None)
    line = Integer(default=0)

class Reading(
    Declared, CompositeKey, Table, tablename="readings", hypertable={hypertable}, indexes=({readings})
):
    machine_id = ForeignKey(Machine, null=False, default=None)
    timestamp = KeyTimestamptz(primary_key=True, default=None)
    value = Integer(default=None)
    readings_pkey = PrimaryKey([machine_id, timestamp])
"""
DAILY = 'Hypertable("timestamp", timedelta(days=1))'
BY_LINE = 'Index("machines_line", ("line DESC NULLS LAST", "machine_id")),'
HIGH = 'Index("readings_high", ("machine_id", "timestamp DESC"), where="value > 5"),'
HIGHER = 'Index("readings_high", ("machine_id", "timestamp DESC"), where="value > 7"),'
ONCE = 'Index("machines_line_once", ("line",), where="line > 0", unique=True),'
INDEXES = """
SELECT replace(pg_get_indexdef(indexrelid), 'public.', '') FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = 'public'::regnamespace AND relname ~ 'high|line' AND indisvalid ORDER BY relname
"""


def declare(machines: str = "", readings: str = "", hypertable: str = DAILY) -> str:
    return TABLES.format(machines=machines, readings=readings, hypertable=hypertable)


@pytest.fixture
async def project(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Project]:
    """On the server of the tests: TimescaleDB in WebAssembly has neither way of making an index that others may go on beside."""
    async with make_database(server_url) as url:
        made = Project(tmp_path, url, monkeypatch)
        await made.fetch(ENABLE_TIMESCALE)
        yield made


async def list_indexes(project: Project) -> list[str]:
    return [row[0] for row in await project.fetch(INDEXES)]


async def fill(project: Project) -> None:
    await project.fetch("INSERT INTO machines (machine_id) VALUES ('A')")
    await project.fetch(
        "INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 hour', n FROM generate_series(0, 99) n"
    )


LINE = "CREATE INDEX machines_line ON machines USING btree (line DESC NULLS LAST, machine_id)"
HIGH_5 = 'CREATE INDEX readings_high ON readings USING btree (machine_id, "timestamp" DESC) WHERE (value > 5)'
HIGH_7 = HIGH_5.replace("5", "7")


async def test_indexes_come_change_and_go_on_tables_with_rows_and_back_again(project: Project) -> None:
    await step(project, declare())
    await fill(project)
    first = await step(project, declare(BY_LINE, HIGH))
    assert await list_indexes(project) == [LINE, HIGH_5]
    await step(project, declare(BY_LINE, HIGHER))
    assert await list_indexes(project) == [LINE, HIGH_7]
    last = await step(project, declare(readings=HIGHER))
    assert await list_indexes(project) == [HIGH_7]
    assert (await check_database(project.engine, project.app)).exit_code == 0
    await project.backwards(last)
    assert await list_indexes(project) == [LINE, HIGH_7]
    await project.backwards(first)
    assert await list_indexes(project) == []
    await project.forwards()
    assert await list_indexes(project) == [HIGH_7]
    assert (await check_database(project.engine, project.app)).differences == []


@pytest.mark.parametrize("hypertable", ["None", DAILY])
async def test_a_new_table_gets_its_indexes_with_it(project: Project, hypertable: str) -> None:
    first = await step(project, declare(BY_LINE + ONCE, HIGH, hypertable))
    once = "CREATE UNIQUE INDEX machines_line_once ON machines USING btree (line) WHERE (line > 0)"
    assert await list_indexes(project) == [LINE, once, HIGH_5]
    # A table that becomes one of the other kind takes them along.
    await step(project, declare(BY_LINE + ONCE, HIGH, "None" if hypertable == DAILY else DAILY))
    assert await list_indexes(project) == [LINE, once, HIGH_5]
    assert (await check_database(project.engine, project.app)).exit_code == 0
    await project.backwards(first)
    assert await project.fetch("SELECT to_regclass('machines')::text") == [(None,)]


async def test_an_index_is_made_while_others_write(project: Project) -> None:
    await step(project, declare())
    await fill(project)
    writer = await asyncpg.connect(project.url)
    try:
        # A writer in the middle of its transaction would stop CREATE INDEX, and be stopped by it behind that.
        await writer.execute("BEGIN; INSERT INTO machines (machine_id) VALUES ('B')")
        project.declare(declare(readings=HIGH))
        await project.generate()
        await project.forwards()
        assert await list_indexes(project) == [HIGH_5]
    finally:
        await writer.close()


async def test_an_index_that_cannot_be_made_can_be_gone_back_from_or_made_after_all(project: Project) -> None:
    await step(project, declare())
    await project.fetch("INSERT INTO machines VALUES ('A', 1), ('B', 1)")
    project.declare(declare(ONCE))
    draft = await project.generate()
    assert draft is not None
    for _ in range(2):
        with pytest.raises(
            MigrationFailed,
            match=r"A step after the migration's transaction was refused by the database.*could not create unique",
        ):
            await project.forwards()
    await project.backwards("1")
    assert await project.fetch(
        "SELECT to_regclass('machines_line_once')::text, to_regclass('migration_step')::text"
    ) == [(None, None)]
    with pytest.raises(MigrationFailed):
        await project.forwards()
    await project.fetch("UPDATE machines SET line = 2 WHERE machine_id = 'B'")
    assert (await project.forwards())[0].startswith("Nothing to apply")
    assert len(await list_indexes(project)) == 1
    assert (await check_database(project.engine, project.app)).exit_code == 0


async def test_what_was_cut_off_while_it_was_built_is_built_again(project: Project) -> None:
    await step(project, declare())
    await fill(project)
    await project.fetch("INSERT INTO machines VALUES ('B')")
    with pytest.raises(asyncpg.UniqueViolationError):
        await project.fetch("CREATE UNIQUE INDEX CONCURRENTLY machines_line ON machines (line)")
    assert await project.fetch("SELECT indisvalid FROM pg_index WHERE indexrelid = 'machines_line'::regclass") == [
        (False,)
    ]
    await step(project, declare('Index("machines_line", ("line",)),'))
    assert await list_indexes(project) == ["CREATE INDEX machines_line ON machines USING btree (line)"]


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ('Index("Machines", ("line",))', "index Machines: it needs a name of up to 63 of a-z, 0-9 and _"),
        ('Index("i", ())', "index i: it has no columns"),
        ('Index("i", ("lines",))', "index i: there is no column lines"),
        ('Index("i", ("line DOWN",))', 'index i: it can\'t order by "line DOWN": say a column, and then ASC or DESC'),
        ('Index("i", ("line",), where="lines > 0")', "index i: there is no column lines"),
        ('Index("i", ("line",), where="line >")', "index i: its condition can't be read: "),
        ('Index("i", ("line",), method="b tree")', 'index i: "b tree" is no method'),
    ],
)
def test_an_index_that_cannot_work_is_refused_at_import(project: Project, index: str, reason: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        project.declare(declare(f"{index},"))
    assert reason in str(refused.value)


def test_a_unique_index_of_a_hypertable_holds_its_time(project: Project) -> None:
    with pytest.raises(DeclarationError, match="a unique one of a hypertable holds the time column timestamp"):
        project.declare(declare(readings='Index("i", ("value",), unique=True),'))
    project.declare(declare(readings='Index("i", ("value", "timestamp"), unique=True),'))


def test_two_indexes_of_one_name_are_refused(project: Project) -> None:
    project.declare(declare('Index("i", ("line",)),', 'Index("i", ("value",)),'))
    with pytest.raises(DeclarationError, match="Two indexes are named i"):
        find_indexes(project.app.table_classes)
    assert Hypertable("timestamp", timedelta(days=1)) == project.find_declaration("readings")
