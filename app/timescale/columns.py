"""From what a column was to what it becomes: the statements, for any two of Piccolo's columns. Pure.

Piccolo's own statements go by what has changed alone: on the way back they take what they aren't told (the length of a
VARCHAR) for its default, and where a foreign key refers elsewhere they do nothing. Here, as with hypertables, forwards and
backwards are one function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from piccolo.columns import Column, ForeignKey, Serial, Timestamptz

from app.timescale.retypes import refuse_changes

_MODIFIER = re.compile(r"\(.*\)")


def plan_column(table: str, name: str, old: Column, new: Column) -> list[str]:
    """The statements that make the column `name`, which is as `old` says, as `new` says; what they are called is left alone."""
    return [
        *(f'ALTER TABLE "{table}" DROP CONSTRAINT "{each}"' for each in _find_gone_constraints(table, name, old, new)),
        *([f'DROP INDEX "{table}_{name}"'] if _read_index(old) and _read_index(old) != _read_index(new) else []),
        *([check] if (check := refuse_changes(table, name, old.column_type, new.column_type)) else []),
        *(f'ALTER TABLE "{table}" ALTER COLUMN "{name}" {action}' for action in _alter(name, old, new)),
        *([create_index(table, name, new)] if _read_index(new) and _read_index(old) != _read_index(new) else []),
        *(f'ALTER TABLE "{table}" ADD CONSTRAINT {each}' for each in _find_new_constraints(table, name, old, new)),
    ]


def create_index(table: str, name: str, column: Column) -> str:
    """The statement that makes the index of an indexed column."""
    return f'CREATE INDEX "{table}_{name}" ON "{table}" USING {_read_index(column)} ("{name}")'


def list_names(table: str, name: str, column: Column) -> Iterator[tuple[str, str]]:
    """What carries the names of a column and its table in its own name: kind and name of each."""
    if isinstance(column, ForeignKey):
        yield "CONSTRAINT", f"{table}_{name}_fkey"
    if " PRIMARY KEY" in column.ddl:
        yield "CONSTRAINT", f"{table}_pkey"
    if column._meta.unique:
        yield "CONSTRAINT", f"{table}_{name}_key"
    if column._meta.index:
        yield "INDEX", f"{table}_{name}"
    if isinstance(column, Serial):
        yield "SEQUENCE", f"{table}_{name}_seq"
    if isinstance(column, Timestamptz):  # TimescaleDB's own, where there is one
        yield "INDEX", f"{table}_{name}_idx"


def rename_names(table: str, names: Iterator[tuple[str, str]], renamed: Iterator[tuple[str, str]]) -> Iterator[str]:
    """The statements that rename what `list_names` listed to what it lists now, on the table as it is called now.

    PostgreSQL leaves them as they were, and what is dropped or made later is looked for under its present name.
    """
    for (kind, old), (_, new) in zip(names, renamed, strict=True):
        if old != new:
            what = f'TABLE "{table}" RENAME CONSTRAINT' if kind == "CONSTRAINT" else f"{kind} IF EXISTS"
            middle = "" if kind == "CONSTRAINT" else "RENAME "
            yield f'ALTER {what} "{old}" {middle}TO "{new}"'


def _alter(name: str, old: Column, new: Column) -> Iterator[str]:
    retyped = old.column_type != new.column_type
    if retyped:
        using = ""
        if old.value_type != new.value_type:
            # The default of before may have no counterpart in the new type.
            yield "DROP DEFAULT"
            # Without its modifier: a cast to VARCHAR(9) would cut off what is longer, which an assignment refuses.
            using = f' USING "{name}"::{_MODIFIER.sub("", new.column_type)}'
        yield f"TYPE {new.column_type}{using}"
    if old._meta.null != new._meta.null:
        yield "DROP NOT NULL" if new._meta.null else "SET NOT NULL"
    if retyped or _read_default(old) != _read_default(new):
        yield f"SET DEFAULT {_read_default(new)}"


def _read_default(column: Column) -> str:
    return str(column.get_sql_value(column.get_default_value()))


def _read_index(column: Column) -> str | None:
    return column._meta.index_method.value if column._meta.index else None


def _read_reference(column: Column) -> str | None:
    if not isinstance(column, ForeignKey):
        return None
    meta = column._foreign_key_meta
    return (
        f'REFERENCES "{meta.resolved_references._meta.tablename}" ("{meta.resolved_target_column._meta.db_column_name}") '
        f"ON DELETE {meta.on_delete.value} ON UPDATE {meta.on_update.value}"
    )


def _find_gone_constraints(table: str, name: str, old: Column, new: Column) -> Iterator[str]:
    if _read_reference(old) and _read_reference(old) != _read_reference(new):
        yield f"{table}_{name}_fkey"
    if old._meta.unique and not new._meta.unique:
        yield f"{table}_{name}_key"


def _find_new_constraints(table: str, name: str, old: Column, new: Column) -> Iterator[str]:
    if new._meta.unique and not old._meta.unique:
        yield f'"{table}_{name}_key" UNIQUE ("{name}")'
    reference = _read_reference(new)
    if reference and reference != _read_reference(old):
        yield f'"{table}_{name}_fkey" FOREIGN KEY ("{name}") {reference}'
