"""What the hypertables are at a point in the line of migrations: what transitions declare, and what statements made of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from app.migrations.lint.actions import (
    Action,
    Call,
    CreateAggregate,
    CreateIndex,
    CreateTable,
    DropTables,
    DropViews,
    RenameColumn,
    RenameTable,
    SetCompression,
)
from app.migrations.lint.grammar import read_name
from app.timescale.expressions import find_columns
from app.timescale.hypertable import Hypertable
from app.timescale.tokens import Kind, Token

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+?)s?(?=\d|\s|\Z)", re.IGNORECASE)
_UNITS = {
    "microsecond": timedelta(microseconds=1),
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=30),
    "year": timedelta(days=365),
}


@dataclass(frozen=True)
class Aggregate:
    """`columns` of its table that it stands on; `start_offset` None reaches back to the beginning."""

    columns: frozenset[str]
    refreshed: bool
    start_offset: timedelta | None


@dataclass(frozen=True)
class TableState:
    """One hypertable. `compressed` holds the columns that compression segments and orders by, None where it is off."""

    time_column: str | None
    compressed: frozenset[str] | None = None
    retention: timedelta | None = None
    aggregates: dict[str, Aggregate] = field(default_factory=dict)

    def find_aggregates(self, column: str) -> list[str]:
        """The aggregates that stand on a column."""
        return sorted(name for name, each in self.aggregates.items() if column in each.columns)

    def find_emptied(self) -> set[str]:
        """The aggregates that refresh further back than rows are kept."""
        if self.retention is None:
            return set()
        return {
            name
            for name, each in self.aggregates.items()
            if each.refreshed and (each.start_offset is None or each.start_offset > self.retention)
        }


def describe_state(declared: Hypertable) -> TableState:
    """The state that a declaration makes."""
    compression = declared.compression
    return TableState(
        declared.time_column,
        None
        if compression is None
        else frozenset(
            {*compression.segment_by, *(term.split()[0] for term in compression.order_by or (declared.time_column,))}
        ),
        declared.retention,
        {
            aggregate.name: Aggregate(
                frozenset(
                    {
                        declared.time_column,
                        *aggregate.group_by,
                        *(column for _, each in aggregate.columns for column in find_columns(each)),
                    }
                ),
                True,
                aggregate.refresh.start_offset,
            )
            for aggregate in declared.aggregates
        },
    )


class Line:
    """The hypertables by name, and the tables of indexes, as migrations go by."""

    def __init__(self) -> None:
        self.tables: dict[str, TableState] = {}
        self.indexes: dict[str, str] = {}

    def copy(self) -> Line:
        """Another that goes its own way."""
        other = Line()
        other.tables, other.indexes = dict(self.tables), dict(self.indexes)
        return other

    def declare(self, table: str, new: Hypertable | None) -> None:
        """Takes a transition."""
        if new is None:
            self.tables.pop(table, None)
        else:
            self.tables[table] = describe_state(new)

    def take(self, action: Action) -> None:
        """Takes what a statement does."""
        match action:
            case CreateIndex(table=table, name=str(name)):
                self.indexes[name] = table
            case CreateTable(name=name, hypertable=True, time_column=time):
                self.tables[name] = TableState(time)
            case DropTables(names=names):
                self.tables = {name: state for name, state in self.tables.items() if name not in names}
            case DropViews(names=names):
                self.tables = {table: _drop_views(state, names) for table, state in self.tables.items()}
            case RenameTable(table=old, new=new):
                self.tables = {new if name == old else name: state for name, state in self.tables.items()}
                self.indexes = {name: new if table == old else table for name, table in self.indexes.items()}
            case RenameColumn(table=table) | SetCompression(table=table) | CreateAggregate(table=table):
                if table is not None and table in self.tables:
                    self.tables[table] = _change(self.tables[table], action)
            case Call():
                self._take_call(action)
            case _:
                pass

    def _take_call(self, call: Call) -> None:
        name = read_name(call.find_argument("relation", 0) or call.find_argument("hypertable", 0) or ())
        if name is None:
            return
        match call.function:
            case "create_hypertable":
                self.tables.setdefault(name, TableState(_find_time(call)))
            case "add_retention_policy" if name in self.tables:
                kept = read_interval(call.find_argument("drop_after", 1) or ())
                self.tables[name] = replace(self.tables[name], retention=kept)
            case "remove_retention_policy" if name in self.tables:
                self.tables[name] = replace(self.tables[name], retention=None)
            case "add_continuous_aggregate_policy" | "remove_continuous_aggregate_policy":
                start = read_interval(call.find_argument("start_offset", 1) or ())
                for table, state in self.tables.items():
                    if name in state.aggregates:
                        added = call.function.startswith("add")
                        self._set_aggregate(
                            table, name, replace(state.aggregates[name], refreshed=added, start_offset=start)
                        )
            case _:
                pass

    def _set_aggregate(self, table: str, name: str, aggregate: Aggregate) -> None:
        state = self.tables[table]
        self.tables[table] = replace(state, aggregates={**state.aggregates, name: aggregate})


def read_interval(tokens: Sequence[Token]) -> timedelta | None:
    """The span that an argument says; None for NULL and for what is no plain interval."""
    texts = [token.value for token in tokens if token.kind is Kind.STRING]
    amounts = [(float(number), unit.lower()) for text in texts for number, unit in _AMOUNT.findall(text)]
    if not amounts or any(unit not in _UNITS for _, unit in amounts):
        return None
    return sum((number * _UNITS[unit] for number, unit in amounts), timedelta())


def _find_time(call: Call) -> str | None:
    """by_range('timestamp') or 'timestamp'."""
    tokens = call.find_argument("time_column_name", 1) or call.find_argument("dimension", 1) or ()
    return next((token.value for token in tokens if token.kind is Kind.STRING), None)


def _change(state: TableState, action: RenameColumn | SetCompression | CreateAggregate) -> TableState:
    match action:
        case RenameColumn(old=old, new=new):
            return _rename_column(state, old, new)
        case SetCompression(on=on, columns=columns):
            time = frozenset({state.time_column} if state.time_column is not None else ())
            return replace(state, compressed=columns | time if on else None)
        case CreateAggregate(name=name, words=words):
            return replace(state, aggregates={**state.aggregates, name: Aggregate(words, False, None)})


def _drop_views(state: TableState, names: Sequence[str]) -> TableState:
    return replace(state, aggregates={name: each for name, each in state.aggregates.items() if name not in names})


def _rename_column(state: TableState, old: str, new: str) -> TableState:
    def rename(columns: frozenset[str]) -> frozenset[str]:
        return frozenset(new if column == old else column for column in columns)

    return TableState(
        new if state.time_column == old else state.time_column,
        None if state.compressed is None else rename(state.compressed),
        state.retention,
        {name: replace(each, columns=rename(each.columns)) for name, each in state.aggregates.items()},
    )
