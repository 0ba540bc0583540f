"""The MigrationManager of AurumAI's migration files: Piccolo's, plus what it can't say about TimescaleDB.

Piccolo runs raw steps before it creates tables; a hypertable is made after its table, in the same transaction.
Migration files import this class: its module path must never change.
"""

from __future__ import annotations

from datetime import timedelta

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine import engine_finder

from app.timescale.hypertable import Hypertable
from app.timescale.statements import ENABLE_TIMESCALE, create_hypertable


class TimescaleMigrationManager(MigrationManager):
    """Runs, in one transaction: `before` statements, Piccolo's own operations, `after` statements.

    Backwards it runs Piccolo's operations alone: the tables that became hypertables here were created here, so they
    are dropped whole; the extension stays, since others may use it.
    """

    def __init__(self, migration_id: str, app_name: str, description: str) -> None:
        super().__init__(migration_id=migration_id, app_name=app_name, description=description)
        self._before: list[str] = []
        self._after: list[str] = []

    def enable_timescale(self) -> None:
        """CREATE EXTENSION timescaledb where the server has it and AURUM_TIMESCALE allows it."""
        self._before.append(ENABLE_TIMESCALE)

    def create_hypertable(self, tablename: str, time_column: str, chunk_interval: timedelta) -> None:
        """Makes a table that this migration creates a hypertable, where TimescaleDB is enabled."""
        self._after.append(create_hypertable(tablename, Hypertable(time_column, chunk_interval)))

    async def run(self, backwards: bool = False) -> None:
        engine = engine_finder()
        if engine is None:
            raise RuntimeError("piccolo_conf.py names no DB")
        if self.preview:
            await self._preview(backwards)
            return
        async with engine.transaction():
            for statement in () if backwards else self._before:
                await engine.run_ddl(statement)
            await super().run(backwards=backwards)
            for statement in () if backwards else self._after:
                await engine.run_ddl(statement)

    async def _preview(self, backwards: bool) -> None:
        for statement in () if backwards else self._before:
            print(statement + ";")  # noqa: T201 - Piccolo's preview prints
        await super().run(backwards=backwards)
        for statement in () if backwards else self._after:
            print(statement + ";")  # noqa: T201 - Piccolo's preview prints
