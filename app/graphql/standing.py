"""How a field of the schema stands on tables: what the planner knows of it beside its resolver.

A field without any of these, below a type that has a shape, is a column of its own name; or it is computed, and then no
statement can answer what it is a part of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from strawberry.types.field import StrawberryField

from app.history.shapes import TableShape

KEY = "standing"


@dataclass(frozen=True)
class ByKey:
    """The row whose key is the field's only argument; null where there is none."""

    shape: TableShape


@dataclass(frozen=True)
class Pages:
    """A connection over a table: over all of it, or over the rows of the machine that it's a field of."""

    shape: TableShape
    owned: bool


@dataclass(frozen=True)
class OfMachine:
    """The machine that a row is about."""

    shape: TableShape


@dataclass(frozen=True)
class Newest:
    """A machine's first row in the table's own order, or one `column` of it; null where there is none."""

    shape: TableShape
    column: str | None = None


@dataclass(frozen=True)
class Columns:
    """Series, whose columns are written as text a column at a time."""


Standing: TypeAlias = Columns | ByKey | Pages | OfMachine | Newest


def stand(standing: Standing) -> dict[str, Standing]:
    """A field's `metadata` that says so."""
    return {KEY: standing}


def find_standing(field: StrawberryField) -> Standing | None:
    """What was said of a field, if anything."""
    standing: Standing | None = field.metadata.get(KEY)
    return standing
