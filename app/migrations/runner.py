"""Applies and reverses the migrations of the Piccolo project: one runner at a time, all of a run or nothing.

Piccolo has no lock, and records a migration outside the transaction that it ran in. One outer transaction with an
advisory lock absorbs Piccolo's own and gives both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.commands.backwards import run_backwards
from piccolo.apps.migrations.commands.base import BaseMigrationManager
from piccolo.apps.migrations.commands.forwards import run_forwards
from piccolo.conf.apps import AppConfig
from piccolo.engine.postgres import PostgresTransaction

from app.database import Engine, describe_error, explain_refusal, translate_errors
from app.errors import MigrationFailed
from app.migrations.state import APP_NAME, list_migrations, read_state, require_known, require_order
from app.timescale.autogenerate import read_hypertables
from app.timescale.leftovers import record_steps, run_leftovers
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.steps import Step
from app.timescale.transitions import plan_catching_up

# Any number will do, as long as it never changes: old and new runners must ask for the same lock.
LOCK = 4_727_201_001

# A DDL statement that waits for a long reader makes everyone else wait behind it: rather fail, and be run again.
LOCK_TIMEOUT = "4s"


async def apply_migrations(engine: Engine, say: Callable[[str], None], until: str = "all") -> None:
    """Applies whatever is pending, up to and including `until`. Raises MigrationFailed; then the database is as it was."""
    await _finish(engine)
    async with _run_alone(engine, say) as connection:
        require_order(await read_state(connection, list_migrations()))
        result = await run_forwards(APP_NAME, until)
        if not result.success:
            raise MigrationFailed(result.message or "Piccolo did not say why.")
    await _finish(engine)


async def count_losses(engine: Engine, app: AppConfig, migration_ids: Sequence[str]) -> dict[str, int]:
    """How many rows there are in the tables that reversing these migrations drops, and values in the columns.

    By table, or table.column, as they are called now; what is gone already has nothing to lose.
    """
    managers = await BaseMigrationManager().get_migration_managers(app_config=app)
    losses: dict[str, int] = {}
    with explain_refusal():
        connection = await engine.get_new_connection()
        try:
            for place, manager in enumerate(managers):
                if manager.migration_id not in migration_ids:
                    continue
                added = {table.tablename for table in manager.add_tables}
                targets = [(table, None) for table in sorted(added)] + [
                    (each.tablename, each.column._meta.db_column_name)
                    for each in manager.add_columns.add_columns
                    if each.tablename not in added
                ]
                for table, column in targets:
                    held_in, held_as = _find_present_name(table, column, managers[place + 1 :])
                    if await _exists(connection, held_in, held_as):
                        counted = "*" if held_as is None else f'"{held_as}"'
                        rows = await connection.fetchval(f'SELECT count({counted}) FROM "{held_in}"')
                        losses[held_in if held_as is None else f"{held_in}.{held_as}"] = rows
        finally:
            await connection.close()
    return {name: rows for name, rows in sorted(losses.items()) if rows}


def _find_present_name(table: str, column: str | None, later: Sequence[MigrationManager]) -> tuple[str, str | None]:
    """What a table and its column are called after these migrations."""
    for manager in later:
        # Piccolo renames tables before columns, and names a column's table as it is called then.
        for renamed in manager.rename_tables:
            if renamed.old_tablename == table:
                table = renamed.new_tablename
        for each in manager.rename_columns.rename_columns:
            if (each.tablename, each.old_db_column_name) == (table, column):
                column = each.new_db_column_name
    return table, column


async def _exists(connection: Any, table: str, column: str | None) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(quote_ident($1)) "
            "AND NOT attisdropped AND ($2::text IS NULL OR attname = $2))",
            table,
            column,
        )
    )


async def reverse_migrations(engine: Engine, migration_id: str, say: Callable[[str], None]) -> None:
    """Reverses the newest migrations down to and including `migration_id` ("1": the newest, "all": every one)."""
    async with _run_alone(engine, say):
        result = await run_backwards(APP_NAME, migration_id, auto_agree=True)
        if not result.success:
            raise MigrationFailed(result.message or "Piccolo did not say why.")
    await _finish(engine)


async def catch_up(engine: Engine, app: AppConfig, say: Callable[[str], None]) -> None:
    """Gives a database what its server could not do when it was migrated: hypertables with the rows that are there, and so on.

    Raises MigrationFailed; then the database is as it was.
    """
    managers = await BaseMigrationManager().get_migration_managers(app_config=app)
    await _finish(engine)
    async with _run_alone(engine, say) as connection:
        state = await read_state(connection, list_migrations())
        declared = read_hypertables(manager for manager in managers if manager.migration_id in state.applied)
        await connection.execute(ENABLE_TIMESCALE)
        later: list[Step] = []
        for table, hypertable in sorted(declared.items()):
            say(f"{table}: {hypertable.time_column} in chunks of {hypertable.chunk_interval}")
            for step in plan_catching_up(table, hypertable):
                if step.transactional:
                    await connection.execute(step.sql)
                else:
                    later.append(step)
        await record_steps(connection, "catching up", later)
    await _finish(engine)


async def _finish(engine: Engine) -> None:
    """Runs the steps that a migration left for after its transaction, this one or one that was cut off."""
    try:
        with explain_refusal():
            await run_leftovers(engine)
    except asyncpg.PostgresError as error:
        raise MigrationFailed(
            "A step after the migration's transaction failed, and the next run begins with it: "
            f"{describe_error(error)}."
        ) from error


@asynccontextmanager
async def _run_alone(engine: Engine, say: Callable[[str], None]) -> AsyncIterator[Any]:
    """The connection of a transaction that no other runner has at the same time."""
    try:
        async with _begin(engine) as transaction:
            with translate_errors():
                connection = transaction.connection
                require_known(await read_state(connection, list_migrations()))
                if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                    say("Another migration is running on this database; waiting for it to end.")
                    await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                yield connection
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"The database refused it, and is as it was before: {describe_error(error)}.") from error


@asynccontextmanager
async def _begin(engine: Engine) -> AsyncIterator[PostgresTransaction]:
    transaction = engine.transaction()
    with explain_refusal():
        entered = await transaction.__aenter__()
    try:
        yield entered
    except BaseException as error:
        await transaction.__aexit__(type(error), error, error.__traceback__)
        raise
    await transaction.__aexit__(None, None, None)
