"""What TimescaleDB refuses on a hypertable, or does wrongly, and generic linters advise: the reason and the way round. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from app.migrations.lint.actions import (
    Action,
    AddColumn,
    AddConstraint,
    ChangeType,
    CreateIndex,
    DropColumn,
    ValidateConstraint,
)
from app.migrations.lint.tables import Line, TableState
from app.timescale.tokens import Kind, Token


def judge_column(action: Action, table: str, state: TableState) -> Iterator[tuple[str, str]]:
    """Another type for a column, or its end."""
    match action:
        case ChangeType(column=column):
            if state.compressed is not None:
                yield (
                    "column-in-use",
                    f"TimescaleDB refuses another type for {table}.{column} while compression is on. Change the type in "
                    "app/tables.py and run invoke migration, which takes it off before and puts it back after.",
                )
        case DropColumn(column=column):
            if column in (state.compressed or ()):
                yield (
                    "column-in-use",
                    f"TimescaleDB refuses to drop {table}.{column}, which compression segments or orders by: "
                    "change the compression in app/tables.py first.",
                )
        case _:
            return
    for name in state.find_aggregates(column):
        yield (
            "column-in-use",
            f"{table}.{column} can't change under the aggregate {name}. Change it in app/tables.py and run invoke "
            "migration, which takes the aggregate off before and puts it back, with its rows, after.",
        )


def judge_key(action: Action, table: str, state: TableState, line: Line) -> Iterator[tuple[str, str]]:
    """A key, or a reference."""
    match action:
        case CreateIndex(unique=True, columns=key) | AddConstraint(key=frozenset() as key, using_index=False):
            pass
        case AddColumn(key=True, column=column):
            key = frozenset({column})
        case _:
            key = frozenset({state.time_column or ""})
    if state.time_column is not None and state.time_column not in key:
        yield (
            "hypertable-key",
            f"TimescaleDB refuses a key of {table} without its time column: add {state.time_column} to it.",
        )
    if isinstance(action, AddConstraint) and action.using_index:
        yield (
            "hypertable-key",
            f"TimescaleDB takes no constraint of {table}, a hypertable, from an index: add it with its columns.",
        )
    references = action.references if isinstance(action, AddColumn | AddConstraint) else ()
    for other in references:
        if other in line.tables:
            yield (
                "hypertable-key",
                f"TimescaleDB refuses a reference from {table} to {other}, both of them hypertables: "
                "let both refer to a plain table.",
            )


def judge_compressed(action: Action, table: str) -> Iterator[tuple[str, str]]:
    """What can\'t be done to a table while compression is on."""
    match action:
        case AddColumn(constrained=True, column=column):
            yield (
                "on-compressed",
                f"TimescaleDB refuses {table}.{column} with REFERENCES or GENERATED while compression is on: add the column "
                "alone, and the foreign key as a constraint after it.",
            )
        case AddColumn(default=default, column=column) if not _is_constant(default):
            yield (
                "on-compressed",
                f"TimescaleDB refuses {table}.{column} with a default that isn't one constant while compression is on: add "
                "the column without it, let it be null, and SET DEFAULT for new rows after it.",
            )
        case AddColumn(default=default, not_null=True, column=column) if is_nothing(default):
            yield (
                "on-compressed",
                f"{table}.{column} is NOT NULL without a value for the rows that are there: TimescaleDB refuses it, or with "
                "DEFAULT NULL leaves nulls in compressed rows. Give it a constant default, or let it be null.",
            )
        case ValidateConstraint():
            yield (
                "on-compressed",
                f"TimescaleDB refuses VALIDATE CONSTRAINT on {table} while compression is on: add the constraint as a whole.",
            )
        case _:
            pass


def _is_constant(default: tuple[Token, ...]) -> bool:
    """A literal, perhaps with a sign. TimescaleDB 2.23 takes not even a cast for one."""
    rest = default[1:] if default and default[0].value in {"-", "+"} else default
    return not default or (
        len(rest) == 1
        and (rest[0].kind in {Kind.STRING, Kind.BODY, Kind.NUMBER} or rest[0].value in {"null", "true", "false"})
    )


def is_nothing(default: tuple[Token, ...]) -> bool:
    """Whether a column has no default, or NULL for one."""
    return not default or (len(default) == 1 and default[0].kind is Kind.WORD and default[0].value == "null")
