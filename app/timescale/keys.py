"""Composite primary keys for Piccolo tables, which have none of their own.

A hypertable's key must hold its time column, so telemetry is keyed by (machine_id, timestamp). Piccolo takes exactly
one column as the primary key and appends the words to that column's DDL; here the column keeps quiet and a constraint
says it for all of them. Migration files import these classes: their module path must never change.
"""

from __future__ import annotations

from typing import Any, NoReturn

from piccolo.columns import Timestamptz
from piccolo.constraints import Unique


class PrimaryKey(Unique):
    """`PRIMARY KEY (columns)` as a table constraint."""

    @property
    def ddl(self) -> str:
        names: list[str] = self.get_column_names()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
        columns = ", ".join(f'"{name}"' for name in names)
        return f"PRIMARY KEY ({columns})"


class KeyTimestamptz(Timestamptz):
    """The time column of a composite key: Piccolo sees the primary key in it, PostgreSQL sees a plain column."""

    # Piccolo would derive the SQL type from the name of the class.
    column_type = "TIMESTAMPTZ"

    @property
    def ddl(self) -> str:
        return super().ddl.replace(" PRIMARY KEY", "")


class CompositeKey:
    """Mixed into tables with a composite key: forbids what would address rows by the time column alone.

    `row.save()` updates WHERE timestamp = ..., which is every machine's row of that instant.
    """

    def save(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("save")

    def remove(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("remove")

    def update_self(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("update_self")

    def refresh(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("refresh")

    def _refuse(self, method: str) -> NoReturn:
        table = type(self).__name__
        raise TypeError(
            f"{table}.{method}() would address rows by their time alone and touch other machines' rows: "
            f"use {table}.insert(), or update() and delete() with where() over the whole key."
        )
