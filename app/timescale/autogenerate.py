"""Writes migrations: what changed between the migration files and the declarations, Piccolo's part and ours, in one file.

Arrives: the Piccolo app. Leaves: the text of a migration file, or nothing where nothing changed. Fails: MigrationRefused
where Piccolo would write something else than what was meant, saying what to do instead. Touches no database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any, TypeVar

from piccolo.apps.migrations.auto.diffable_table import DiffableTable
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.auto.schema_differ import AlterStatements, SchemaDiffer
from piccolo.apps.migrations.auto.schema_snapshot import SchemaSnapshot
from piccolo.conf.apps import AppConfig

from app.errors import MigrationRefused
from app.timescale.declared import find_hypertables, find_indexes
from app.timescale.drafts import Draft, make_draft
from app.timescale.expressions import find_columns
from app.timescale.files import load_managers
from app.timescale.hypertable import Hypertable
from app.timescale.indexes import Index
from app.timescale.manager import IndexChange, TimescaleMigrationManager
from app.timescale.moves import DataMigrationManager

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
    statements = _diff_tables(app, managers, renames)
    piccolo = await _try_out(statements)
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
        managers, lambda manager: ((transition.tablename, transition.new) for transition in manager.transitions)
    )


def read_indexes(managers: Iterable[MigrationManager]) -> dict[str, tuple[Index, ...]]:
    """What the migrations, in their order, say of declared indexes: by table name."""
    return _follow(managers, lambda manager: ((change.tablename, change.new) for change in manager.index_changes))


def _follow(
    managers: Iterable[MigrationManager],
    read: Callable[[TimescaleMigrationManager], Iterable[tuple[str, Declaration | None]]],
) -> dict[str, Declaration]:
    """What was last said of each table, which may get another name or go."""
    found: dict[str, Declaration] = {}
    for manager in managers:
        for renamed in manager.rename_tables:
            if renamed.old_tablename in found:
                found[renamed.new_tablename] = found.pop(renamed.old_tablename)
        for dropped in manager.drop_tables:
            found.pop(dropped.tablename, None)
        for tablename, declared in read(manager) if isinstance(manager, TimescaleMigrationManager) else ():
            if declared:
                found[tablename] = declared
            else:
                found.pop(tablename, None)
    return found


# --- Piccolo's part -----------------------------------------------------------------------------------------------


def _diff_tables(app: AppConfig, managers: list[MigrationManager], renames: bool | None) -> list[AlterStatements]:
    snapshot = SchemaSnapshot(managers).get_snapshot()
    current = [
        DiffableTable(
            class_name=table.__name__,
            tablename=table._meta.tablename,
            columns=table._meta.non_default_columns,
            constraints=table._meta.constraints,
            schema=table._meta.schema,
        )
        for table in app.table_classes
    ]
    _refuse_silent_constraints(snapshot, current)
    if renames is None:
        _refuse_guesses(snapshot, current)
    with redirect_stdout(StringIO()):  # it counts out loud what it found
        differ = SchemaDiffer(schema=current, schema_snapshot=snapshot, auto_input="y" if renames else "n")
        return list(differ.get_alter_statements())


def _refuse_silent_constraints(snapshot: Sequence[DiffableTable], current: Sequence[DiffableTable]) -> None:
    """Piccolo compares constraints by their names alone: one that says something else under its old name goes unseen."""
    before = {table.class_name: table for table in snapshot}
    for table in current:
        known = (
            {each._meta.name: each for each in before[table.class_name].constraints}
            if table.class_name in before
            else {}
        )
        for constraint in table.constraints:
            name = constraint._meta.name
            if name in known and known[name].ddl != constraint.ddl:
                raise MigrationRefused(
                    f"The constraint {name} of {table.tablename} says {constraint.ddl} and said {known[name].ddl}: "
                    "give what is new a new name, so that the old one is dropped and the new one added."
                )


def _refuse_guesses(snapshot: Sequence[DiffableTable], current: Sequence[DiffableTable]) -> None:
    """A column that is gone beside one that is new may be renamed or not, and the wrong guess loses its values."""
    before = {table.class_name: table for table in snapshot}
    gone, new = (
        set(before) - {table.class_name for table in current},
        {table.class_name for table in current} - set(before),
    )
    if gone and new:
        raise MigrationRefused(
            f"{', '.join(sorted(gone))} is gone and {', '.join(sorted(new))} is new: "
            "say with --renames whether a table got a new name (yes) or another one took its place (no)."
        )
    for table in current:
        if table.class_name not in before:
            continue
        old = {column._meta.name for column in before[table.class_name].columns}
        names = {column._meta.name for column in table.columns}
        if old - names and names - old:
            raise MigrationRefused(
                f"In {table.tablename}, {', '.join(sorted(old - names))} is gone and {', '.join(sorted(names - old))} is "
                "new: say with --renames whether a column got a new name (yes) or another one took its place (no)."
            )


async def _try_out(statements: Sequence[AlterStatements]) -> MigrationManager:
    """Piccolo's operations as it would hold them when the file is run."""
    lines = [f"    {line}" for each in statements for line in "\n".join(each.statements).splitlines()]
    source = [
        *sorted({repr(item) for each in statements for item in each.extra_imports}),
        *sorted({repr(item) for each in statements for item in each.extra_definitions}),
        "def fill(manager):",
        "    pass",
        *lines,
    ]
    names: dict[str, Any] = {}
    exec("\n".join(source), names)  # noqa: S102 - Piccolo's own text, which the migration file would run
    manager = MigrationManager()
    names["fill"](manager)
    return manager


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
    renamed = {each.old_tablename: each.new_tablename for each in piccolo.rename_tables}
    dropped = {each.tablename for each in piccolo.drop_tables}
    known = {renamed.get(name, name): declared for name, declared in known.items()}
    for name in sorted(known.keys() | wanted.keys()):
        old, new = known.get(name), wanted.get(name)
        if old is not None and name in dropped:
            yield _Transition(name, old, None, first=True)
            continue
        if old is not None:
            bare = _strip(old, _find_changed_columns(name, piccolo))
            if bare != old:
                yield _Transition(name, old, bare, first=True)
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
        if set(old) != set(new):
            yield IndexChange(name, old, new, name in hypertables)


def _find_changed_columns(table: str, piccolo: MigrationManager) -> set[str]:
    """The columns whose type changes, or that go."""
    changed = {
        each.db_column_name
        for each in piccolo.alter_columns.alter_columns
        if each.tablename == table
        and (each.column_class is not each.old_column_class or {"length", "digits", "base_column"} & each.params.keys())
    }
    return changed | {each.db_column_name for each in piccolo.drop_columns.drop_columns if each.tablename == table}


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
