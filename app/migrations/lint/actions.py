"""What a statement does, as far as a rule asks for it. Names are without their schemas. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from app.timescale.tokens import Token


@dataclass(frozen=True)
class CreateIndex:
    """`name` is None where PostgreSQL chooses it; `per_chunk` is TimescaleDB's transaction_per_chunk."""

    table: str
    name: str | None
    columns: frozenset[str]
    unique: bool
    concurrently: bool
    per_chunk: bool
    if_not_exists: bool


@dataclass(frozen=True)
class DropIndex:
    names: tuple[str, ...]
    concurrently: bool
    if_exists: bool


@dataclass(frozen=True)
class Reindex:
    name: str
    concurrently: bool


@dataclass(frozen=True)
class CreateTable:
    """`hypertable` says that WITH (tsdb.hypertable) makes it one, in chunks of `time_column`."""

    name: str
    references: tuple[str, ...]
    hypertable: bool
    time_column: str | None


@dataclass(frozen=True)
class DropTables:
    names: tuple[str, ...]


@dataclass(frozen=True)
class RenameTable:
    table: str
    new: str


@dataclass(frozen=True)
class AddColumn:
    """`default` is its tokens, empty where there is none; `constrained` says REFERENCES, GENERATED or the like."""

    table: str
    column: str
    default: tuple[Token, ...]
    not_null: bool
    key: bool
    constrained: bool
    references: tuple[str, ...]


@dataclass(frozen=True)
class DropColumn:
    table: str
    column: str


@dataclass(frozen=True)
class ChangeType:
    table: str
    column: str


@dataclass(frozen=True)
class RenameColumn:
    table: str
    old: str
    new: str


@dataclass(frozen=True)
class AddConstraint:
    """`key` are the columns of a UNIQUE, PRIMARY KEY or EXCLUDE, None for any other kind."""

    table: str
    key: frozenset[str] | None
    using_index: bool
    references: tuple[str, ...]


@dataclass(frozen=True)
class ValidateConstraint:
    table: str


@dataclass(frozen=True)
class SetCompression:
    """`columns` are those that it segments and orders by."""

    table: str
    on: bool
    columns: frozenset[str]


@dataclass(frozen=True)
class CreateAggregate:
    """`words` are all the names in its query."""

    name: str
    table: str | None
    words: frozenset[str]
    with_data: bool


@dataclass(frozen=True)
class DropViews:
    names: tuple[str, ...]


@dataclass(frozen=True)
class DeleteRows:
    table: str


@dataclass(frozen=True)
class Call:
    """A function or procedure: its arguments' tokens, those that are named under their names."""

    function: str
    positional: tuple[tuple[Token, ...], ...]
    named: tuple[tuple[str, tuple[Token, ...]], ...]

    def find_argument(self, name: str, place: int) -> tuple[Token, ...] | None:
        """The argument of that name, or at that place."""
        return dict(self.named).get(name) or (self.positional[place] if place < len(self.positional) else None)


@dataclass(frozen=True)
class Select:
    """A query of rows, other than one that is there for the functions of TimescaleDB in it."""


@dataclass(frozen=True)
class Vacuum:
    """What PostgreSQL runs outside of transactions alone."""


Action: TypeAlias = (
    CreateIndex | DropIndex | Reindex | CreateTable | DropTables | RenameTable | AddColumn | DropColumn | ChangeType
    | RenameColumn | AddConstraint | ValidateConstraint | SetCompression | CreateAggregate | DropViews | DeleteRows
    | Call | Select | Vacuum
)  # fmt: skip
