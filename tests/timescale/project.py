"""A Piccolo project of a test's own: tables as source, migrations in a folder, one engine."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from piccolo.apps.migrations.tables import Migration
from piccolo.conf.apps import AppConfig, AppRegistry
from piccolo.table import Table

from app.console import show_progress
from app.engine import make_engine
from app.migrations.check import check_database
from app.migrations.runner import Terminal, apply_migrations, reverse_migrations
from app.migrations.state import read_state
from app.timescale.autogenerate import draft_empty, draft_migration
from app.timescale.declared import find_hypertables
from app.timescale.drafts import Draft
from app.timescale.files import list_files
from app.timescale.hypertable import Hypertable

HEAD = """
from datetime import timedelta
from piccolo.columns import *
from piccolo.columns import OnDelete, OnUpdate
from piccolo.constraints import Check, Unique
from piccolo.table import Table
from app.timescale.declared import Declared
from app.timescale.hypertable import *
from app.timescale.indexes import Index
from app.timescale.keys import CompositeKey, KeyTimestamptz, PrimaryKey
"""


class Project:
    """Generates and runs migrations of tables that change from one `declare` to the next."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "migrations"
        self.folder.mkdir(exist_ok=True)
        self.url = url
        self.engine = make_engine(url, timescale="auto")
        self.app = AppConfig(app_name="app", migrations_folder_path=str(self.folder), table_classes=[])
        module: Any = types.ModuleType("project_app")
        module.APP_CONFIG = self.app
        monkeypatch.setitem(sys.modules, "project_app", module)
        conf: Any = types.ModuleType("piccolo_conf")
        conf.DB = self.engine
        conf.APP_REGISTRY = AppRegistry(apps=["project_app"])
        monkeypatch.setitem(sys.modules, "piccolo_conf", conf)
        monkeypatch.setattr(Migration._meta, "_db", self.engine)
        # A file that is written again within a second, as long as before, would be taken for what it was.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def declare(self, source: str) -> None:
        """Takes the tables of a source text for the project's."""
        names: dict[str, Any] = {"__name__": "project_tables"}
        exec(HEAD + source, names)
        self.app.table_classes = [
            each
            for each in names.values()
            if isinstance(each, type) and issubclass(each, Table) and each.__module__ == "project_tables"
        ]

    def find_declaration(self, tablename: str) -> Hypertable:
        return find_hypertables(self.app.table_classes)[tablename]

    async def generate(self, *, renames: bool | None = None) -> Draft | None:
        """Writes the next migration, if there is anything to write."""
        draft = await draft_migration(self.app, "a change", renames=renames)
        if draft is not None:
            draft.path.write_text(draft.text)
        return draft

    async def write_raw(self, *statements: str) -> str:
        """Writes a migration that runs these statements, and has no way back."""
        draft = await draft_empty(self.app, "by hand")
        head, tail = draft.text.split("    return manager")
        draft.path.write_text(
            f"from app.engine import find_engine\n{head}"
            f"    async def run():\n        for statement in {statements!r}:\n"
            f"            await find_engine().run_ddl(statement)\n    manager.add_raw(run)\n    return manager{tail}"
        )
        return draft.migration_id

    async def forwards(self) -> list[str]:
        """Applies what is pending, as invoke migrate does; returns what was said."""
        said: list[str] = []
        await apply_migrations(self.engine, self.app, Terminal(said.append, said.append, show_progress))
        return said

    async def backwards(self, migration_id: str) -> None:
        """Reverses down to and including a migration; "1" is the newest."""
        connection = await self.engine.get_new_connection()
        try:
            applied = (await read_state(connection, tuple(list_files(self.folder)))).applied
        finally:
            await connection.close()
        chosen = applied[-1:] if migration_id == "1" else [name for name in applied if name >= migration_id]
        await reverse_migrations(self.engine, self.app, chosen, Terminal(print, print, show_progress), may_lose=True)

    def forget_files(self) -> None:
        """Has the files read again, as another process would."""
        for name, module in list(sys.modules.items()):
            if str(self.folder) in (getattr(module, "__file__", None) or ""):
                del sys.modules[name]

    async def fetch(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        connection = await self.engine.get_new_connection()
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()


READINGS = """
class Machine(Declared, Table, tablename="machines"):
    machine_id = Text(primary_key=True, default=None)

class Reading(Declared, CompositeKey, Table, tablename="readings", hypertable={hypertable}):
    machine_id = ForeignKey(Machine, null=False, default=None)
    timestamp = KeyTimestamptz(primary_key=True, default=None, index=True)
    value = {column}
    readings_pkey = PrimaryKey([machine_id, timestamp])
    readings_value_known = Check("value >= 0")
"""
REAL = "Real(default=None)"
DOUBLE = "DoublePrecision(default=None)"

DAILY = 'Hypertable("timestamp", timedelta(days=1){more})'
COMPRESSION = ', compression=Compression(timedelta(days=7), ("machine_id",), ("timestamp DESC",))'
OTHER_COMPRESSION = ", compression=Compression(timedelta(days=9))"
RETENTION = ", retention=timedelta(days=365)"
HOURLY = """, aggregates=(ContinuousAggregate(
    "readings_hourly", timedelta(hours=1), ("machine_id",), (("readings", "count(*)"), ("mean", "avg(value)"){more}),
    Refresh(timedelta(hours=1), timedelta(days={days}), timedelta(hours=1)),
),)"""
MEAN = HOURLY.format(more="", days=30)
PEAK = HOURLY.format(more=', ("peak", "max(value)")', days=30)
OFTEN = HOURLY.format(more=', ("peak", "max(value)")', days=20)

ROWS = """
INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * interval '10 minutes', n FROM generate_series(0, 999) AS n
"""


def declare(hypertable: str, column: str = REAL) -> str:
    return READINGS.format(hypertable=hypertable, column=column)


def daily(more: str = "") -> str:
    return DAILY.format(more=more)


async def is_community(project: Project) -> bool:
    return (
        await project.fetch(
            "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb' AND current_setting('timescaledb.license', true) = 'timescale'"
        )
        != []
    )


async def is_in_webassembly(project: Project) -> bool:
    """Whether it is on Community's server of one session, rather than on the tests' own, which may be Community too."""
    return await project.fetch("SELECT 1 WHERE version() ~ 'Emscripten'") != []


async def stop_jobs(project: Project) -> None:
    """Has TimescaleDB do nothing by itself in this database, where a test does it or compares what is there.

    In WebAssembly it never does.
    """
    if await is_community(project):
        await project.fetch(
            "SELECT _timescaledb_functions.stop_background_workers() FROM pg_stat_activity "
            "WHERE backend_type = 'TimescaleDB Background Worker Launcher'"
        )


async def step(project: Project, source: str) -> str:
    """Declares, generates, applies; the second time there is nothing to generate."""
    project.declare(source)
    draft = await project.generate()
    assert draft is not None
    assert await project.generate() is None
    await project.forwards()
    return draft.migration_id


async def check(project: Project) -> tuple[int, list[str]]:
    """What `migrate-check` says: its exit code, and how the live schema differs."""
    result = await check_database(project.engine, project.app)
    return result.exit_code, [str(difference) for difference in result.differences]


async def sum_up(project: Project) -> tuple[Any, ...]:
    return (await project.fetch("SELECT count(*), sum(value)::float8, min(timestamp), max(timestamp) FROM readings"))[0]
