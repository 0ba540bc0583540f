"""The rules: what each action of a statement does to hypertables, to rows, and to whoever waits, and what to do instead.

Arrives: an action and the hypertables as they are when it runs. Leaves: problems. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.migrations.lint.actions import (
    Action,
    AddColumn,
    AddConstraint,
    Call,
    ChangeType,
    CreateAggregate,
    CreateIndex,
    CreateTable,
    DeleteRows,
    DropColumn,
    DropIndex,
    DropTables,
    DropViews,
    Reindex,
    RenameColumn,
    RenameTable,
    Select,
    SetCompression,
    Vacuum,
    ValidateConstraint,
)
from app.migrations.lint.grammar import read_name
from app.migrations.lint.refusals import is_nothing, judge_column, judge_compressed, judge_key
from app.migrations.lint.tables import Line

# What is wrong, in a line each; docs/migrations.md says the rest.
RULES = {
    "allow": "an allow without a reason, or for a rule that finds nothing in the file",
    "by-hand": "TimescaleDB called by hand for what a declaration says, or where a server may not have it",
    "column-in-use": "another type for a column under compression or an aggregate, or its end",
    "concurrently": "CONCURRENTLY on a hypertable, which TimescaleDB refuses",
    "cut-off": "a statement after the transaction that can't be run again where it was cut off",
    "hides-history": "an aggregate that no longer shows what it knows of dropped rows",
    "hypertable-key": "a key without the time column, a constraint from an index, a reference from hypertable to hypertable",
    "index-on-hypertable": "an index on a hypertable with rows: writes to all of it wait",
    "loses-rows": "rows or values that going back doesn't bring back",
    "moves-rows": "a table with rows that becomes a hypertable, another one, or plain: it is locked while they move",
    "no-backwards": "a step that going back leaves as it is, or fails at",
    "no-journal": "a migration of Piccolo's own kind",
    "not-in-transaction": "what can't run in a transaction, in the migration's transaction",
    "on-compressed": "a change that TimescaleDB refuses, or does wrongly, while compression is on",
    "reads-database": "a raw step that asks the database what to do, which no linter can follow",
    "retention-window": "rows are dropped while an aggregate's refresh still reaches back to them: late readings spoil its buckets",
    "stale-transition": "a transition from what the table isn't: it was written on another branch",
    "too-early": "a raw step that needs a table of the same migration: raw steps run before tables are made",
}

# Functions that say what a declaration says; the others are called by hand where there is need.
_DECLARED = {
    "add_columnstore_policy",
    "add_compression_policy",
    "add_continuous_aggregate_policy",
    "add_dimension",
    "add_retention_policy",
    "create_hypertable",
    "remove_columnstore_policy",
    "remove_compression_policy",
    "remove_continuous_aggregate_policy",
    "remove_retention_policy",
    "set_chunk_time_interval",
}


DECLARE_INDEX = (
    "Declare the index on the table, indexes=(Index(...),) in app/tables.py: it is built after the transaction while others "
    "go on writing, on a hypertable chunk by chunk, and again where it was cut off."
)


@dataclass(frozen=True)
class Problem:
    """A rule that a statement breaks, or a migration as a whole."""

    rule: str
    message: str
    statement: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a statement stands.

    `made` are the tables of its own migration, `coming` those that aren't made yet, and `dropped_indexes` what statements
    before it have dropped; `guarded` says that it stands in a DO block.
    """

    backwards: bool
    made: frozenset[str]
    transactional: bool = True
    guarded: bool = False
    coming: frozenset[str] = frozenset()
    dropped_indexes: frozenset[str] = frozenset()


def judge(action: Action, line: Line, place: Place) -> Iterator[tuple[str, str]]:
    """The rules that an action breaks, and what to say."""
    yield from _judge_place(action, place)
    yield from _judge_concurrently(action, line)
    yield from _judge_hand(action, place)
    table = find_table(action)
    if table in place.coming:
        yield (
            "too-early",
            f"{table} isn't there yet: raw steps run before the tables of their migration are made. "
            "Write a migration of its own after this one for it.",
        )
    state = line.tables.get(table) if table is not None else None
    if table is not None and state is not None:
        yield from judge_column(action, table, state)
        yield from judge_key(action, table, state, line)
        if state.compressed is not None:
            yield from judge_compressed(action, table)
    if place.backwards:
        if isinstance(action, AddColumn) and action.not_null and is_nothing(action.default):
            yield (
                "no-backwards",
                f"{table}.{action.column} comes back as NOT NULL without a default, which a table with rows refuses: let it "
                "be null in a migration before this one.",
            )
    else:
        yield from _judge_rows(action, line, place)
        if state is not None and table not in place.made:
            yield from _judge_index(action, table)


def find_table(action: Action) -> str | None:
    """The table that an action is about, where it is about one."""
    match action:
        case (
            CreateIndex(table=table)
            | AddColumn(table=table)
            | DropColumn(table=table)
            | ChangeType(table=table)
            | RenameColumn(table=table)
            | RenameTable(table=table)
            | AddConstraint(table=table)
            | ValidateConstraint(table=table)
            | SetCompression(table=table)
            | DeleteRows(table=table)
        ):
            return table
        case CreateAggregate(table=table):
            return table
        case Call():
            return read_name(action.find_argument("relation", 0) or ())
        case _:
            return None


# --- where a statement runs ---------------------------------------------------------------------------------------


def _judge_place(action: Action, place: Place) -> Iterator[tuple[str, str]]:
    if isinstance(action, Select) and place.transactional and not place.guarded:
        yield (
            "reads-database",
            "what the migration does with the rows that it reads isn't looked at: say it in SQL alone, "
            "such as UPDATE ... FROM, or look yourself.",
        )
    alone = _find_what_stands_alone(action)
    if place.transactional:
        if alone is not None:
            yield (
                "not-in-transaction",
                f"{alone} can't run in a transaction, and a migration is one: give it to manager.run_after_commit().",
            )
    elif isinstance(action, CreateIndex) and action.name not in place.dropped_indexes:
        yield (
            "cut-off",
            "where it is cut off it is run again, and then fails on the half-built index, or with IF NOT EXISTS takes it "
            f"for whole. {DECLARE_INDEX}",
        )
    elif isinstance(action, DropIndex) and not action.if_exists:
        yield "cut-off", "where it is cut off it is run again, and then fails on what is gone: say IF EXISTS."


def _find_what_stands_alone(action: Action) -> str | None:
    match action:
        case CreateIndex(concurrently=True) | DropIndex(concurrently=True) | Reindex(concurrently=True):
            return "CONCURRENTLY"
        case CreateIndex(per_chunk=True):
            return "transaction_per_chunk"
        case CreateAggregate(with_data=True):
            return "an aggregate without WITH NO DATA"
        case Call(function="refresh_continuous_aggregate"):
            return "refresh_continuous_aggregate()"
        case Vacuum():
            return "VACUUM"
        case _:
            return None


def _judge_concurrently(action: Action, line: Line) -> Iterator[tuple[str, str]]:
    match action:
        case CreateIndex(concurrently=True, table=table):
            tables, instead = [table], DECLARE_INDEX
        case Reindex(concurrently=True, name=name):
            tables, instead = [name, line.indexes.get(name, name)], "Leave it out, and reads and writes wait."
        case DropIndex(concurrently=True, names=names):
            tables = [line.indexes.get(name, name) for name in names]
            instead = "Leave it out: dropping is done in a moment."
        case _:
            return
    for table in sorted({table for table in tables if table in line.tables}):
        yield "concurrently", f"TimescaleDB refuses CONCURRENTLY on {table}, a hypertable. {instead}"


def _judge_hand(action: Action, place: Place) -> Iterator[tuple[str, str]]:
    match action:
        case Call(function=function):
            what, declared = f"{function}()", function in _DECLARED
        case SetCompression():
            what, declared = "compression", True
        case CreateAggregate():
            what, declared = "a continuous aggregate", True
        case CreateTable(hypertable=True):
            what, declared = "a hypertable", True
        case CreateIndex(per_chunk=True) if place.transactional:
            what, declared = "transaction_per_chunk", False
        case _:
            return
    if declared:
        yield (
            "by-hand",
            f"{what} by hand isn't known to the next generated migration, and a server without TimescaleDB refuses it: "
            "say it with hypertable=Hypertable(...) on the table in app/tables.py, and run invoke migration.",
        )
    elif not place.guarded and place.transactional:
        yield (
            "by-hand",
            f"{what} is refused by a server without TimescaleDB: put it in a DO block that asks pg_extension first.",
        )


# --- rows, and those who wait -------------------------------------------------------------------------------------


def _judge_rows(action: Action, line: Line, place: Place) -> Iterator[tuple[str, str]]:
    aggregates = {name for state in line.tables.values() for name in state.aggregates}
    gone: list[str] = []
    match action:
        case DropTables(names=names):
            gone = [f"the rows of {name}" for name in names if name not in place.made]
        case DropColumn(table=table, column=column) if table not in place.made:
            gone = [f"the values of {table}.{column}"]
        case DeleteRows(table=table) if table not in place.made:
            gone = [f"rows of {table}"]
        case DropViews(names=names):
            gone = [f"what {name} says of rows that are dropped since" for name in names if name in aggregates]
        case Call(function="drop_chunks"):
            gone = ["the rows of the chunks"]
        case Call(function="create_hypertable"):
            table = read_name(action.find_argument("relation", 0) or ()) or "the table"
            if table not in place.made:
                yield "moves-rows", describe_move(table)
        case _:
            pass
    for what in gone:
        yield (
            "loses-rows",
            f"{what} go, and going back doesn't bring them back. If they may go, allow it and say why; "
            "if not, keep them elsewhere first.",
        )


def describe_move(table: str) -> str:
    """What it means that the rows of a table move."""
    return (
        f"every row of {table} moves while an ACCESS EXCLUSIVE lock keeps all others out, for seconds to hours. Make it a "
        "hypertable in the migration that creates it; where it has rows already, run this while nobody needs it, "
        "and allow it with the size that was measured."
    )


def _judge_index(action: Action, table: str | None) -> Iterator[tuple[str, str]]:
    match action:
        case CreateIndex(concurrently=False, per_chunk=False, unique=False):
            yield "index-on-hypertable", f"writes to all of {table} wait until the index is built. {DECLARE_INDEX}"
        case (
            CreateIndex(concurrently=False, per_chunk=False, unique=True)
            | AddConstraint(key=frozenset(), using_index=False)
        ):
            yield (
                "index-on-hypertable",
                f"writes to all of {table} wait until the index of the key is built: TimescaleDB has no other way to a unique "
                "one. Run it while nobody writes, and allow it with the time that was measured.",
            )
        case _:
            pass
