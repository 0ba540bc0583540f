"""What raw steps would run, written down: split, with their arguments in it, as a server would have taken them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.errors import MigrationRefused
from app.timescale.files import list_files, load_manager, load_modules
from app.timescale.manager import TimescaleMigrationManager
from app.timescale.steps import Lock, Reach
from app.timescale.tape import Tape, bind_arguments
from app.timescale.tokens import split_statements
from tests.timescale.project import Project

AWKWARD = """SELECT E'it\\'s; ', 'a\\', "x;y", $$a;b$$, $x$ $$ ; $x$, a$b$c::int, b[1:n], /* a /* b; */ c; */ 1 -- z;
; ; CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END;
CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)"""


def test_a_text_is_split_where_a_statement_ends_and_nowhere_else() -> None:
    assert [sql.split(maxsplit=1)[0] for sql in split_statements(AWKWARD)] == ["SELECT", "CREATE", "CREATE"]
    assert split_statements(AWKWARD)[1].endswith("END; END")
    assert split_statements(" ; -- nothing\n; /* at all */") == []


@pytest.mark.parametrize(
    ("sql_type", "value"),
    [
        ("text", 'it\'s \\ a\n:name $1 "x"'),
        ("int", -3),
        ("bigint", 2**62),
        ("float8", 0.1),
        ("float8", float("inf")),
        ("numeric", Decimal("-1.50")),
        ("boolean", True),
        ("text", None),
        ("uuid", UUID(int=5)),
        ("bytea", b"\x00\\'"),
        ("date", date(2026, 1, 31)),
        ("time", time(12, 30, 1, 5)),
        ("timestamp", datetime(2026, 1, 31, 12, 0, 0, 1)),  # noqa: DTZ001 - a timestamp has no zone
        ("timestamptz", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("timestamptz", datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        ("interval", timedelta(days=-1, microseconds=3)),
        ("text[]", ["a", "b'c"]),
        ("int[]", []),
    ],
)
async def test_an_argument_means_the_same_in_the_statement(server_url: str, sql_type: str, value: Any) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        query = f"SELECT $1::{sql_type} AS value, '$1' AS text"
        written = await connection.fetchrow(bind_arguments(query, (value,)))
        assert written == await connection.fetchrow(query, value)
    finally:
        await connection.close()


async def test_a_negative_argument_makes_no_comment_of_what_follows(server_url: str) -> None:
    connection = await asyncpg.connect(server_url)
    try:
        assert await connection.fetchval(bind_arguments("SELECT 2-$1", (-3,))) == 5
    finally:
        await connection.close()


async def test_what_cannot_be_written_as_sql_is_refused() -> None:
    with pytest.raises(MigrationRefused, match=r"^A raw step gives a dict as an argument, .* give it as a text\.$"):
        await Tape().execute("UPDATE a SET b = $1", {"a": 1})


CHILD = """
class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)

class Alert(Declared, Table, tablename="alerts"):
    alert_id = Integer(primary_key=True, default=None)
    machine_id = ForeignKey(Machine, on_delete=OnDelete.{rule})
"""


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, "postgresql://localhost/nobody_connects", monkeypatch)


async def load(project: Project, migration_id: str) -> TimescaleMigrationManager:
    manager = await load_manager(project.app, migration_id, load_modules(project.app)[migration_id])
    assert isinstance(manager, TimescaleMigrationManager)
    return manager


async def generate(project: Project, source: str) -> str:
    project.declare(source)
    draft = await project.generate()
    assert draft is not None
    return draft.migration_id


async def test_a_foreign_key_that_changes_is_dropped_and_made_under_its_name(offline: Project) -> None:
    await generate(offline, CHILD.format(rule="cascade"))
    second = await generate(offline, CHILD.format(rule="restrict"))
    steps = await (await load(offline, second)).list_steps()
    assert [step.sql for step in steps] == [
        'ALTER TABLE "alerts" DROP CONSTRAINT "alerts_machine_id_fkey"',
        'ALTER TABLE "alerts" ADD CONSTRAINT "alerts_machine_id_fkey" FOREIGN KEY ("machine_id") '
        'REFERENCES "machines" ("machine_id") ON DELETE RESTRICT ON UPDATE CASCADE',
    ]
    assert [(hold.table, hold.lock, hold.reach, hold.part) for hold in steps[0].holds] == [
        ("alerts", Lock.ACCESS_EXCLUSIVE, Reach.TABLE, ""),
        ("alerts", Lock.ACCESS_EXCLUSIVE, Reach.REFERRED, "alerts_machine_id_fkey"),
    ]


def add_raw(project: Project, migration_id: str, body: str) -> None:
    """Gives a migration's file a raw step with these lines."""
    path = list_files(project.folder)[migration_id]
    step = f"    async def raw():\n{body}    manager.add_raw(raw)\n    return manager"
    path.write_text(path.read_text().replace("    return manager", step))
    project.forget_files()


async def test_a_raw_step_that_stumbles_over_a_missing_answer_is_named(offline: Project) -> None:
    first = await generate(offline, CHILD.format(rule="cascade"))
    add_raw(
        offline,
        first,
        "        rows = await Table.raw('SELECT count(*) AS many FROM machines')\n"
        "        await Table.raw(f'SELECT {rows[0][\"many\"]}')\n",
    )
    with pytest.raises(
        MigrationRefused, match=f"^A raw step of the migration {first} reads the database \\(IndexError"
    ):
        await (await load(offline, first)).list_steps()


async def test_a_raw_step_with_a_connection_of_its_own_is_not_let_at_the_database(offline: Project) -> None:
    first = await generate(offline, CHILD.format(rule="cascade"))
    add_raw(
        offline,
        first,
        "        from app.engine import find_engine\n"
        "        connection = await find_engine().get_new_connection()\n"
        "        await connection.execute('DROP TABLE machines')\n",
    )
    said = f"^A raw step of the migration {first} opens a connection of its own: what it would do can't be told"
    with pytest.raises(MigrationRefused, match=said):
        await (await load(offline, first)).list_steps()
