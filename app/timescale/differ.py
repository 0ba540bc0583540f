"""What Piccolo finds changed between the migration files and the tables; refused where it would guess, or see half of it.

Arrives: the tables and the managers of the files. Leaves: Piccolo's operations. Fails: MigrationRefused, saying what to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from piccolo.apps.migrations.auto.diffable_table import DiffableTable
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.auto.schema_differ import AlterStatements, SchemaDiffer
from piccolo.apps.migrations.auto.schema_snapshot import SchemaSnapshot
from piccolo.columns import Column, Serial
from piccolo.table import Table

from app.errors import MigrationRefused

Pair = tuple[DiffableTable, DiffableTable]  # a table before and after


def diff_tables(
    tables: Sequence[type[Table]], managers: list[MigrationManager], renames: bool | None
) -> list[AlterStatements]:
    """The operations that make of the tables of the files these; `renames` as in `draft_migration`."""
    snapshot = SchemaSnapshot(managers).get_snapshot()
    current = [
        DiffableTable(
            class_name=table.__name__,
            tablename=table._meta.tablename,
            columns=table._meta.non_default_columns,
            constraints=table._meta.constraints,
            schema=table._meta.schema,
        )
        for table in tables
    ]
    before = {table.class_name: table for table in snapshot}
    pairs = [(before[table.class_name], table) for table in current if table.class_name in before]
    _refuse_silent_constraints(pairs)
    _refuse_guesses(snapshot, current, pairs, renames)
    _refuse_keys(pairs)
    with redirect_stdout(StringIO()):  # it counts out loud what it found
        differ = SchemaDiffer(schema=current, schema_snapshot=snapshot, auto_input="y" if renames else "n")
        return list(differ.get_alter_statements())


def try_out(statements: Sequence[AlterStatements]) -> MigrationManager:
    """The operations as a manager holds them when the file is run."""
    lines = [f"    {line}" for each in statements for line in "\n".join(each.statements).splitlines()]
    source = [
        *sorted({repr(item) for each in statements for item in each.extra_imports}),
        *sorted({repr(item) for each in statements for item in each.extra_definitions}),
        "def fill(manager):",
        "    pass",
        *lines,
    ]
    names: dict[str, Any] = {"__name__": "draft"}
    exec("\n".join(source), names)  # noqa: S102 - Piccolo's own text, which the migration file would run
    manager = MigrationManager(migration_id="9")  # after every file
    names["fill"](manager)
    return manager


def require_all(
    tables: Sequence[type[Table]], managers: list[MigrationManager], statements: Sequence[AlterStatements]
) -> None:
    """Refuses operations after which there would be something to do: Piccolo doesn't look into what has a new name."""
    rest = diff_tables(tables, [*managers, try_out(statements)], renames=False)
    if any(each.statements for each in rest):
        raise MigrationRefused(
            f"Not all of it fits into one migration: after it, {', '.join(sorted(_name_changes(try_out(rest))))} would "
            "still differ. Take back one of the changes, a new name best, and make it in a migration of its own."
        )


def _name_changes(manager: MigrationManager) -> set[str]:
    return {
        *(f"{each.tablename}.{each.column_name}" for each in manager.alter_columns.alter_columns),
        *(f"{each.tablename}.{each.column_name}" for each in manager.drop_columns.drop_columns),
        *(f"{each.tablename}.{each.old_column_name}" for each in manager.rename_columns.rename_columns),
        *(f"{each.tablename}.{each.column._meta.name}" for each in manager.add_columns.add_columns),
        *(f"{each.tablename}.{each.constraint_name}" for each in manager.drop_constraints.drop_constraints),
        *(f"{each.tablename}.{each.constraint._meta.name}" for each in manager.add_constraints.add_constraints),
        *(each.tablename for each in (*manager.add_tables, *manager.drop_tables)),
        *(each.new_tablename for each in manager.rename_tables),
    }


def _refuse_silent_constraints(pairs: Sequence[Pair]) -> None:
    """Piccolo compares constraints by their names alone: one that says something else under its old name goes unseen."""
    for old, new in pairs:
        known = {each._meta.name: each.ddl for each in old.constraints}
        for constraint in new.constraints:
            name, says = constraint._meta.name, constraint.ddl
            if known.get(name, says) != says:
                raise MigrationRefused(
                    f"The constraint {name} of {new.tablename} says {says} and said {known[name]}: "
                    "give what is new a new name, so that the old one is dropped and the new one added."
                )


def _refuse_guesses(
    snapshot: Sequence[DiffableTable], current: Sequence[DiffableTable], pairs: Sequence[Pair], renames: bool | None
) -> None:
    """What is gone beside what is new may have got a new name or not, and the wrong guess loses rows or mixes them up."""
    gone = {table.class_name: table.tablename for table in snapshot}
    new = {table.class_name: table.tablename for table in current}
    for both in gone.keys() & new.keys():
        moved = gone.pop(both), new.pop(both)
        if moved[0] != moved[1] and (set(gone) - set(new) or set(new) - set(gone)):
            raise MigrationRefused(
                f"{moved[0]} gets the name {moved[1]}, and other tables come or go: make a migration of each."
            )
    _refuse_guess("", gone, new, "a table", renames)
    if not renames and (same := set(gone.values()) & set(new.values())):
        raise MigrationRefused(
            f"{', '.join(sorted(same))} is the table of a class that is gone and of one that is new: say --renames yes "
            "where it is the same table, or have the new one come in a migration of its own."
        )
    for before, after in pairs:
        old = {column._meta.name for column in before.columns}
        names = {column._meta.name for column in after.columns}
        _refuse_guess(f"In {after.tablename}, ", old - names, names - old, "a column", renames)


def _refuse_guess(where: str, gone: Collection[str], new: Collection[str], what: str, renames: bool | None) -> None:
    if not gone or not new or renames is False:
        return
    said = f"{where}{', '.join(sorted(gone))} {_be(gone)} gone and {', '.join(sorted(new))} {_be(new)} new: "
    if renames is None:
        raise MigrationRefused(
            f"{said}say with --renames whether {what} got a new name (yes) or another one took its place (no)."
        )
    if len(gone) > 1 or len(new) > 1:
        raise MigrationRefused(
            f"{said}which is which can't be told. Give one new name in a migration, the next in another."
        )


def _be(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _refuse_keys(pairs: Sequence[Pair]) -> None:
    """What Piccolo takes for a change and doesn't carry out."""
    for old, new in pairs:
        for column, name in _find_common(old, new):
            if column._meta.primary_key != new.columns_map[name]._meta.primary_key:
                raise MigrationRefused(
                    f"{new.tablename}.{name} becomes the primary key, or is no longer: no migration can be written for it. "
                    "Make another table, and bring the rows there with invoke migration-data."
                )
            kinds = [type(each).__name__ for each in (column, new.columns_map[name]) if isinstance(each, Serial)]
            if kinds and type(column) is not type(new.columns_map[name]):
                raise MigrationRefused(
                    f"{new.tablename}.{name} becomes a {type(new.columns_map[name]).__name__}, and a {kinds[0]} comes with a "
                    "sequence: no migration can be written for it. Make another column, or write it by hand."
                )


def _find_common(old: DiffableTable, new: DiffableTable) -> Iterator[tuple[Column, str]]:
    for column in old.columns:
        if column._meta.name in new.columns_map:
            yield column, column._meta.name
