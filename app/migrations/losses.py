"""What going back would lose: the rows and values of what migrations have added."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.conf.apps import AppConfig

from app.database import explain_refusal
from app.engine import Engine
from app.errors import MigrationRefused
from app.migrations.state import read_state
from app.timescale.files import load_managers


async def require_no_losses(engine: Engine, app: AppConfig, migration_ids: Sequence[str], *, lock: bool) -> None:
    """Raises MigrationRefused where reversing these migrations would lose something.

    With `lock` nobody writes any more to what is counted until the transaction ends that is open; reads go on.
    """
    losses = await count_losses(engine, app, migration_ids, lock=lock)
    if losses:
        raise MigrationRefused(f"Going back drops {describe_losses(losses)}. If they may go, add --yes.")


def describe_losses(losses: Mapping[str, int]) -> str:
    """How many rows or values, and how many of which."""
    held = ", ".join(f"{rows:,} of {name}" for name, rows in losses.items())
    return f"{sum(losses.values()):,} rows or values ({held})"


async def count_losses(
    engine: Engine, app: AppConfig, migration_ids: Sequence[str], *, lock: bool = False
) -> dict[str, int]:
    """How many rows there are in the tables that reversing these migrations drops, and values in the columns.

    By table, or table.column, as they are called now; what is gone already has nothing to lose.
    """
    known = await load_managers(app)
    losses: dict[str, int] = {}
    async with _open_connection(engine) as connection:
        state = await read_state(connection, tuple(manager.migration_id for manager in known))
        managers = [manager for manager in known if manager.migration_id in state.applied]
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
                    if lock:
                        await connection.execute(f'LOCK TABLE "{held_in}" IN SHARE MODE')
                    counted = "*" if held_as is None else f'"{held_as}"'
                    rows = await connection.fetchval(f'SELECT count({counted}) FROM "{held_in}"')
                    losses[held_in if held_as is None else f"{held_in}.{held_as}"] = rows
    return {name: rows for name, rows in sorted(losses.items()) if rows}


@asynccontextmanager
async def _open_connection(engine: Engine) -> AsyncIterator[Any]:
    """The connection of the run, or one of its own where there is none."""
    if engine.held is not None:
        yield engine.held
        return
    with explain_refusal():
        connection = await engine.get_new_connection()
        try:
            yield connection
        finally:
            await connection.close()


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
