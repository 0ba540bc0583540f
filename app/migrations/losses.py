"""What going back would lose: the rows and values of what migrations have added, counted before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.conf.apps import AppConfig

from app.database import explain_refusal
from app.engine import Engine
from app.timescale.files import load_managers


async def count_losses(engine: Engine, app: AppConfig, migration_ids: Sequence[str]) -> dict[str, int]:
    """How many rows there are in the tables that reversing these migrations drops, and values in the columns.

    By table, or table.column, as they are called now; what is gone already has nothing to lose.
    """
    managers = await load_managers(app)
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
