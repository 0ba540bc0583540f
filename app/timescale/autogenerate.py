"""Writes migrations: what changed between the migration files and the declarations, Piccolo's part and ours, in one file.

Arrives: the Piccolo app. Leaves: the text of a migration file, or nothing where nothing changed. Fails: MigrationRefused
where Piccolo would write something else than what was meant, saying what to do instead. Touches no database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.auto.schema_differ import AlterStatements
from piccolo.columns import Column, ForeignKey, Serial
from piccolo.columns.defaults.base import Default
from piccolo.conf.apps import AppConfig

from app.timescale.declared import find_hypertables, find_indexes
from app.timescale.differ import diff_tables, require_all, try_out
from app.timescale.drafts import Draft, make_draft
from app.timescale.expressions import find_columns
from app.timescale.files import load_managers
from app.timescale.hypertable import Hypertable
from app.timescale.indexes import Index
from app.timescale.manager import IndexChange, TimescaleMigrationManager
from app.timescale.moves import DataMigrationManager
from app.timescale.operations import read_new_names
from app.timescale.renames import rename_in_hypertable, rename_in_index

Declaration = TypeVar("Declaration")

# What is commented out in a new data migration.
EXAMPLE = """
# manager.move_rows(
#     table="machines",
#     key=("machine_id",),  # NOT NULL, with an index
#     forwards="UPDATE machines SET location = trim(location) WHERE {batch}",
#     backwards="",  # the rows may stay as they are
#     rows=10_000,  # a batch
# )
""".strip()


async def draft_migration(app: AppConfig, description: str, *, renames: bool | None) -> Draft | None:
    """The migration that makes the files say what the tables do; None where they do.

    `renames` settles what can't be told: whether a column that is gone and one that is new are the same. None refuses.
    """
    managers = await load_managers(app)
    statements = diff_tables(app.table_classes, managers, renames)
    require_all(app.table_classes, await load_managers(app), statements)
    piccolo = try_out(statements)
    known, wanted = read_hypertables(managers), find_hypertables(app.table_classes)
    transitions = list(_diff_hypertables(known, wanted, piccolo))
    changes = list(_diff_indexes(read_indexes(managers), find_indexes(app.table_classes), wanted, piccolo))
    if not any(each.statements for each in statements) and not transitions and not changes:
        return None
    return _write(app, managers, description, statements, transitions, changes)


async def draft_empty(app: AppConfig, description: str) -> Draft:
    """A migration that does nothing yet."""
    return make_draft(app, await load_managers(app), description, TimescaleMigrationManager, [])


async def draft_data(app: AppConfig, description: str) -> Draft:
    """A data migration that does nothing yet, and shows how it would."""
    return make_draft(app, await load_managers(app), description, DataMigrationManager, [EXAMPLE])


def read_hypertables(managers: Iterable[MigrationManager]) -> dict[str, Hypertable]:
    """What the migrations, in their order, say of hypertables: by table name."""
    return _follow(
        managers,
        lambda manager, first: ((each.tablename, each.new) for each in manager.transitions if each.first is first),
        rename_in_hypertable,
    )


def read_indexes(managers: Iterable[MigrationManager]) -> dict[str, tuple[Index, ...]]:
    """What the migrations, in their order, say of declared indexes: by table name."""
    return _follow(
        managers,
        lambda manager, first: () if first else ((each.tablename, each.new) for each in manager.index_changes),
        lambda indexes, names: tuple(rename_in_index(index, names) for index in indexes),
    )


def _follow(
    managers: Iterable[MigrationManager],
    read: Callable[[TimescaleMigrationManager, bool], Iterable[tuple[str, Declaration | None]]],
    rename: Callable[[Declaration, dict[str, str]], Declaration],
) -> dict[str, Declaration]:
    """What was last said of each table, which may get another name or go; `read` tells what is said before it does, and after."""
    found: dict[str, Declaration] = {}
    for manager in managers:
        _update(found, manager, read, first=True)
        for renamed in manager.rename_tables:
            if renamed.old_tablename in found:
                found[renamed.new_tablename] = found.pop(renamed.old_tablename)
        for tablename in {each.tablename for each in manager.rename_columns.rename_columns} & found.keys():
            found[tablename] = rename(found[tablename], read_new_names(manager, tablename))
        for dropped in manager.drop_tables:
            found.pop(dropped.tablename, None)
        _update(found, manager, read, first=False)
    return found


def _update(
    found: dict[str, Declaration],
    manager: MigrationManager,
    read: Callable[[TimescaleMigrationManager, bool], Iterable[tuple[str, Declaration | None]]],
    *,
    first: bool,
) -> None:
    for tablename, declared in read(manager, first) if isinstance(manager, TimescaleMigrationManager) else ():
        if declared:
            found[tablename] = declared
        else:
            found.pop(tablename, None)


# --- hypertables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Transition:
    tablename: str
    old: Hypertable | None
    new: Hypertable | None
    first: bool = False


def _diff_hypertables(
    known: dict[str, Hypertable], wanted: dict[str, Hypertable], piccolo: MigrationManager
) -> Iterable[_Transition]:
    old_names = {each.new_tablename: each.old_tablename for each in piccolo.rename_tables}
    new_names = {old: new for new, old in old_names.items()}
    dropped = {each.tablename for each in piccolo.drop_tables}
    for name in sorted({new_names.get(each, each) for each in known} | wanted.keys()):
        # What comes before Piccolo's operations finds the old names.
        before = old_names.get(name, name)
        old, new = known.get(before), wanted.get(name)
        if old is not None and name in dropped:
            yield _Transition(name, old, None, first=True)
            continue
        if old is not None:
            bare = _strip(old, _find_changed_columns(name, piccolo))
            if bare != old:
                yield _Transition(before, old, bare, first=True)
                old = bare
        if old != new:
            yield _Transition(name, old, new)


def _diff_indexes(
    known: dict[str, tuple[Index, ...]],
    wanted: dict[str, tuple[Index, ...]],
    hypertables: dict[str, Hypertable],
    piccolo: MigrationManager,
) -> Iterable[IndexChange]:
    renamed = {each.old_tablename: each.new_tablename for each in piccolo.rename_tables}
    known = {renamed.get(name, name): declared for name, declared in known.items()}
    for name in sorted(known.keys() | wanted.keys()):
        old, new = known.get(name, ()), wanted.get(name, ())
        names = read_new_names(piccolo, name)
        if {rename_in_index(index, names) for index in old} != set(new):
            yield IndexChange(name, old, new, name in hypertables)


def _find_changed_columns(table: str, piccolo: MigrationManager) -> set[str]:
    """The columns whose type changes, that go, or that come in a way which compressed chunks can't follow."""
    return {
        *(
            each.db_column_name
            for each in piccolo.alter_columns.alter_columns
            if each.tablename == table
            and (
                each.column_class is not each.old_column_class
                or {"length", "digits", "base_column"} & each.params.keys()
            )
        ),
        *(each.db_column_name for each in piccolo.drop_columns.drop_columns if each.tablename == table),
        *(
            each.column._meta.db_column_name
            for each in piccolo.add_columns.add_columns
            if each.tablename == table and not _is_plain(each.column)
        ),
    }


def _is_plain(column: Column) -> bool:
    """Whether it comes with one value for all rows. TimescaleDB refuses some of the others, and leaves NULL in the rest."""
    default = column._meta.params.get("default")
    constant = not isinstance(default, Default) and not callable(default)
    filled = column._meta.null or default is not None
    return constant and filled and not column._meta.unique and not isinstance(column, ForeignKey | Serial)


def _strip(declared: Hypertable, columns: set[str]) -> Hypertable:
    """The declaration without what stands in the way of changing these columns: compressed chunks, aggregates over them."""
    if not columns:
        return declared
    kept = tuple(
        aggregate
        for aggregate in declared.aggregates
        if not columns & {*aggregate.group_by, *(name for _, each in aggregate.columns for name in find_columns(each))}
    )
    return replace(declared, compression=None, aggregates=kept)


# --- the file -----------------------------------------------------------------------------------------------------


def _write(
    app: AppConfig,
    managers: Sequence[MigrationManager],
    description: str,
    statements: Sequence[AlterStatements],
    transitions: Sequence[_Transition],
    changes: Sequence[IndexChange],
) -> Draft:
    imports = {repr(item) for each in statements for item in each.extra_imports}
    definitions = {repr(item) for each in statements for item in each.extra_definitions}
    if transitions:
        shown = " ".join(repr(transition) for transition in transitions)
        imports.add("import datetime")
        names = [
            name for name in ("Compression", "ContinuousAggregate", "Hypertable", "Refresh") if f"{name}(" in shown
        ]
        if names:
            imports.add(f"from app.timescale.hypertable import {', '.join(names)}")
    if changes:
        imports.add("from app.timescale.indexes import Index")
    body = [
        *(_show(transition) for transition in transitions if transition.first),
        *(line for each in statements for line in each.statements),
        *(_show(transition) for transition in transitions if not transition.first),
        *(
            f"manager.alter_indexes(tablename={change.tablename!r}, old={change.old!r}, new={change.new!r}, "
            f"hypertable={change.hypertable!r})"
            for change in changes
        ),
    ]
    return make_draft(app, managers, description, TimescaleMigrationManager, body, imports, definitions)


def _show(transition: _Transition) -> str:
    last = ", first=True" if transition.first else ""
    return (
        f"manager.alter_hypertable(tablename={transition.tablename!r}, "
        f"old={transition.old!r}, new={transition.new!r}{last})"
    )
