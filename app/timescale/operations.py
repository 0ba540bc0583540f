"""Piccolo's operations on tables, as they must be for a migration to be taken back and to leave no trace.

Piccolo runs them in one order, forwards and backwards, and what it undoes then still has, or no longer has, another name.
Here backwards is forwards the other way round; a constraint goes before the one that takes its place comes; tables come
and go in the order of their foreign keys; and what is named after its table or column is renamed with it.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.auto.schema_snapshot import SchemaSnapshot
from piccolo.apps.migrations.commands.base import BaseMigrationManager
from piccolo.columns import Column
from piccolo.table import Table, sort_table_classes

from app.engine import find_engine
from app.errors import MigrationRefused
from app.timescale.columns import create_index, list_names, plan_column, rename_names


class TableOperations(MigrationManager):
    """A MigrationManager of Piccolo's that can be gone back over."""

    async def run(self, backwards: bool = False) -> None:
        """Runs the operations in a transaction, unless the migration says that they must be in none."""
        print(f"  - {self.migration_id} [{'backwards' if backwards else 'forwards'}]... ", end="")  # noqa: T201 - as Piccolo's
        operations = [
            self._run_change_table_schema,
            self._run_rename_tables,
            self._run_drop_constraints,
            self._run_drop_columns,
            self._run_rename_columns,
            self._run_add_tables,
            self._run_add_columns,
            self._run_alter_columns,
            self._run_add_constraints,
            self._run_drop_tables,
        ]
        async with find_engine().transaction() if self.wrap_in_transaction else nullcontext():
            for raw in self.raw_backwards if backwards else self.raw:
                answer = raw()
                if inspect.isawaitable(answer):
                    await answer
            for operation in reversed(operations) if backwards else operations:
                try:
                    await operation(backwards=backwards)
                except _AbsentError as error:
                    raise MigrationRefused(
                        f"The migration {self.migration_id} changes the {error}, which the migrations before it have dropped "
                        "or renamed, on another branch most likely: write it anew after them."
                    ) from error

    async def _run_rename_tables(self, backwards: bool = False) -> None:
        tables = await self._read_tables(before=True) if self.rename_tables else {}
        for renamed in self.rename_tables:
            old, new = renamed.old_tablename, renamed.new_tablename
            if backwards:
                old, new = new, old
            if old == new:  # the class alone has another name
                continue
            await _execute(f'ALTER TABLE "{old}" RENAME TO "{new}"')
            for column in tables[renamed.old_class_name]._meta.columns:
                name = column._meta.db_column_name
                await _execute(*rename_names(new, list_names(old, name, column), list_names(new, name, column)))

    async def _run_rename_columns(self, backwards: bool = False) -> None:
        tables = await self._read_tables(before=True) if self.rename_columns.rename_columns else {}
        for renamed in self.rename_columns.rename_columns:
            table, old, new = renamed.tablename, renamed.old_db_column_name, renamed.new_db_column_name
            column = _get_column(tables[self._get_old_name(renamed.table_class_name)], renamed.old_column_name)
            if backwards:
                old, new = new, old
            await _execute(
                f'ALTER TABLE "{table}" RENAME COLUMN "{old}" TO "{new}"',
                *rename_names(table, list_names(table, old, column), list_names(table, new, column)),
            )

    async def _run_add_tables(self, backwards: bool = False) -> None:
        if not backwards:
            await super()._run_add_tables()
            return
        tables = await self._read_tables(before=False) if self.add_tables else {}
        added = sort_table_classes([tables[each.class_name] for each in self.add_tables])
        for table in reversed(added):  # not CASCADE, as Piccolo would: a view that isn't ours must not go unseen
            await _execute(f'DROP TABLE "{table._meta.tablename}"')

    async def _run_add_columns(self, backwards: bool = False) -> None:
        made = {each.class_name for each in self.add_tables}
        added = [each for each in self.add_columns.add_columns if each.table_class_name not in made]
        if backwards:
            for each in reversed(added):
                await _execute(f'ALTER TABLE "{each.tablename}" DROP COLUMN "{each.column._meta.db_column_name}"')
            return
        tables = await self._read_tables(before=False) if added else {}
        for each in added:
            await _add_column(each.tablename, _get_column(tables[each.table_class_name], each.column._meta.name))

    async def _run_alter_columns(self, backwards: bool = False) -> None:
        altered = self.alter_columns.alter_columns
        before = await self._read_tables(before=True) if altered else {}
        after = await self._read_tables(before=False) if altered else {}
        renamed = {
            (each.table_class_name, each.new_column_name): each.old_column_name
            for each in self.rename_columns.rename_columns
        }
        for each in reversed(altered) if backwards else altered:
            class_name, name = each.table_class_name, each.column_name
            old = _get_column(before[self._get_old_name(class_name)], renamed.get((class_name, name), name))
            new = _get_column(after[class_name], name)
            if backwards:
                old, new = new, old
            await _execute(*plan_column(each.tablename, each.db_column_name, old, new))

    async def _run_drop_columns(self, backwards: bool = False) -> None:
        dropped = self.drop_columns.drop_columns
        if not backwards:
            await super()._run_drop_columns()
            return
        tables = await self._read_tables(before=True) if dropped else {}
        for each in reversed(dropped):
            table = tables[self._get_old_name(each.table_class_name)]
            await _add_column(each.tablename, _get_column(table, each.column_name))

    async def _run_drop_tables(self, backwards: bool = False) -> None:
        tables = await self._read_tables(before=True) if self.drop_tables else {}
        dropped = sort_table_classes([tables[each.class_name] for each in self.drop_tables])
        if backwards:
            for table in dropped:
                await table.create_table().run()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
        else:
            await _execute(*(f'DROP TABLE "{table._meta.tablename}"' for table in reversed(dropped)))

    async def _run_drop_constraints(self, backwards: bool = False) -> None:
        dropped = self.drop_constraints.drop_constraints
        if not backwards:
            for each in dropped:  # once, as Piccolo would not
                await _execute(f'ALTER TABLE "{each.tablename}" DROP CONSTRAINT IF EXISTS {each.constraint_name}')
            return
        tables = await self._read_tables(before=True) if dropped else {}
        for each in reversed(dropped):
            table = tables[self._get_old_name(each.table_class_name)]
            constraint = table._meta.get_constraint_by_name(each.constraint_name)
            await _execute(f'ALTER TABLE "{each.tablename}" ADD CONSTRAINT "{each.constraint_name}" {constraint.ddl}')

    def _get_old_name(self, class_name: str) -> str:
        names = {each.new_class_name: each.old_class_name for each in self.rename_tables}
        return names.get(class_name, class_name)

    async def _read_tables(self, *, before: bool) -> dict[str, type[Table]]:
        """The tables by the names of their classes, as the migrations up to this one leave them, or those before it."""
        finder = BaseMigrationManager()
        managers = await finder.get_migration_managers(
            app_config=finder.get_app_config(app_name=self.app_name),
            max_migration_id=self.migration_id,
            offset=-1 if before else 0,
        )
        snapshot = SchemaSnapshot(managers).get_snapshot()
        for table in snapshot:
            table.columns = [_renew(column) for column in table.columns]
        return _Tables({table.class_name: table.to_table_class() for table in snapshot})


def read_new_names(manager: MigrationManager, tablename: str) -> dict[str, str]:
    """The columns of a table that a migration gives other names: new by old."""
    return {
        each.old_db_column_name: each.new_db_column_name
        for each in manager.rename_columns.rename_columns
        if each.tablename == tablename
    }


def _renew(column: Column) -> Column:
    """A column that is what its arguments say: of one that has changed, Piccolo's snapshot changes only them."""
    made = type(column)(**column._meta.params)
    made._meta.name = column._meta.name
    made._meta.db_column_name = column._meta.db_column_name
    return made


class _AbsentError(Exception):
    """What a migration changes isn't there when its turn comes."""


class _Tables(dict[str, type[Table]]):
    """By the names of their classes."""

    def __missing__(self, class_name: str) -> type[Table]:
        raise _AbsentError(f"table of {class_name}")


def _get_column(table: type[Table], name: str) -> Column:
    try:
        return table._meta.get_column_by_name(name)
    except ValueError as error:
        raise _AbsentError(f"column {table._meta.tablename}.{name}") from error


async def _add_column(tablename: str, column: Column) -> None:
    name = column._meta.db_column_name
    await _execute(f'ALTER TABLE "{tablename}" ADD COLUMN {column.ddl}')
    if column._meta.index:
        await _execute(create_index(tablename, name, column))


async def _execute(*statements: str) -> None:
    for statement in statements:
        await find_engine().run_ddl(statement)
