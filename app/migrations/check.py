"""Whether a database still is what the code says: migrations not applied, a live schema that differs, models that moved on.

What the schema should be is found by running the applied migrations once more, in a schema of their own, in a transaction
that is rolled back: PostgreSQL and TimescaleDB themselves say what a migration makes. Nothing of it remains.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from uuid import uuid4

import asyncpg
import msgspec
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.conf.apps import AppConfig

from app.database import describe_error, explain_refusal, probe_edition
from app.engine import Engine
from app.errors import MigrationFailed, MigrationRefused
from app.migrations.state import read_state, require_known
from app.timescale.autogenerate import draft_migration
from app.timescale.drift import Catalogue, Difference, find_differences, read_catalogue
from app.timescale.files import load_managers
from app.timescale.manager import TimescaleMigrationManager

IN_STEP, PENDING, DIFFERENT, MOVED_ON = 0, 2, 3, 4


class CheckResult(msgspec.Struct, frozen=True):
    """`pending` ids, how the live schema differs from what the applied ones make, and whether the models moved on, and how."""

    pending: list[str]
    differences: list[Difference]
    moved_on: str | None

    @property
    def exit_code(self) -> int:
        """The gravest first: a schema that differs, then migrations to apply, then one to write."""
        if self.differences:
            return DIFFERENT
        if self.pending:
            return PENDING
        return IN_STEP if self.moved_on is None else MOVED_ON


async def check_database(engine: Engine, app: AppConfig) -> CheckResult:
    """Compares files, database and models. Raises SchemaAhead, SchemaForeign, DatabaseUnavailable, MigrationFailed."""
    managers = await load_managers(app)
    with explain_refusal():
        connection = await engine.get_new_connection()
        try:
            state = await read_state(connection, tuple(manager.migration_id for manager in managers))
            require_known(state)
            edition = await probe_edition(connection, timescale="auto")
            schema = await connection.fetchval("SELECT current_schema()")
            actual = await read_catalogue(connection, schema, edition)
        finally:
            await connection.close()
        applied = [manager for manager in managers if manager.migration_id in state.applied]
        try:
            expected = await _rehearse(engine, applied)
        except asyncpg.InsufficientPrivilegeError:
            raise  # the role's, which explain_refusal tells
        except asyncpg.PostgresError as error:
            raise MigrationFailed(
                f"The migrations can't be run again beside the live schema, which is untouched: {describe_error(error)}."
            ) from error
    return CheckResult(list(state.pending), find_differences(expected, actual), await _find_change(app))


async def _rehearse(engine: Engine, managers: list[MigrationManager]) -> Catalogue:
    """The catalogue that these migrations make, in a schema that is never committed."""
    schema = f"aurum_check_{uuid4().hex[:12]}"
    async with engine.transaction() as transaction:
        connection = transaction.connection
        edition = await probe_edition(connection, timescale="auto")
        await connection.execute(f"CREATE SCHEMA {schema}")
        # TimescaleDB's functions are in the schema that it was created in, mostly public.
        path = f"SELECT set_config('search_path', '{schema}, ' || current_setting('search_path'), true)"
        await connection.execute(path)
        with redirect_stdout(StringIO()):  # Piccolo names each migration that it runs
            for manager in managers:
                if isinstance(manager, TimescaleMigrationManager):
                    await manager.rehearse(engine)
                else:
                    await manager.run()
        catalogue = await read_catalogue(connection, schema, edition)
        await transaction.rollback()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
    return catalogue


async def _find_change(app: AppConfig) -> str | None:
    try:
        draft = await draft_migration(app, "", renames=None)
    except MigrationRefused as error:
        return str(error)
    return None if draft is None else "The tables have changed since the newest migration: run invoke migration."
