"""A Piccolo project of a test's own: tables as source, migrations in a folder, one engine."""

from __future__ import annotations

import sys
import types
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from piccolo.apps.migrations.commands.backwards import run_backwards
from piccolo.apps.migrations.commands.forwards import run_forwards
from piccolo.apps.migrations.tables import Migration
from piccolo.conf.apps import AppConfig, AppRegistry
from piccolo.table import Table

from app.database import make_engine
from app.timescale.autogenerate import Draft, draft_migration
from app.timescale.leftovers import run_leftovers

HEAD = """
from datetime import timedelta
from piccolo.columns import *
from piccolo.columns import OnDelete, OnUpdate
from piccolo.constraints import Check, Unique
from piccolo.table import Table
from app.timescale.declared import Declared
from app.timescale.hypertable import *
from app.timescale.keys import CompositeKey, KeyTimestamptz, PrimaryKey
"""


class Project:
    """Generates and runs migrations of tables that change from one `declare` to the next."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "migrations"
        self.folder.mkdir()
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

    def declare(self, source: str) -> None:
        """Takes the tables of a source text for the project's."""
        names: dict[str, Any] = {"__name__": "project_tables"}
        exec(HEAD + source, names)
        self.app.table_classes = [
            each
            for each in names.values()
            if isinstance(each, type) and issubclass(each, Table) and each.__module__ == "project_tables"
        ]

    async def generate(self, *, renames: bool | None = None) -> Draft | None:
        """Writes the next migration, if there is anything to write."""
        draft = await draft_migration(self.app, "a change", renames=renames)
        if draft is not None:
            draft.path.write_text(draft.text)
        return draft

    async def forwards(self) -> None:
        with redirect_stdout(StringIO()):
            result = await run_forwards("app")
        assert result.success, result.message
        await run_leftovers(self.engine)

    async def backwards(self, migration_id: str) -> None:
        """Reverses down to and including a migration; "1" is the newest."""
        with redirect_stdout(StringIO()):
            result = await run_backwards("app", migration_id, auto_agree=True)
        assert result.success, result.message
        await run_leftovers(self.engine)

    async def fetch(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        connection = await self.engine.get_new_connection()
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()
