"""The tables of a project as plain data: what Hypothesis changes, and what is written as source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

# What a column may be: its class and arguments. Values go from one number to another, from one text to another.
NUMBERS = ("Integer", "BigInt", "Real", "DoublePrecision", "Numeric(digits=(12, 3))", "Numeric(digits=None)")
TEXTS = ("Text", "Varchar(length=20)", "Varchar(length=40)", "Varchar(length=None)")
WHOLE = ("Integer", "BigInt")
OTHERS = {"Boolean": "True", "JSONB": "'{}'", "Timestamptz": "TimestamptzNow()"}
OWNERS = ("Text(default=None, null=True)", "ForeignKey(Machine, on_delete=OnDelete.{action})", "ForeignKey(Plant)")

HEAD = """
from decimal import Decimal
from piccolo.columns.defaults.timestamptz import TimestamptzNow
from app.timescale.indexes import Index

"""


@dataclass
class Column:
    """`uid` stays through every change. The rows that it was added to may have nothing in it, or all the same."""

    uid: int
    name: str
    kind: str
    null: bool = True
    default: bool = False
    unique: bool = False
    index: bool = False
    has_nulls: bool = False
    has_repeats: bool = False
    was_required: bool = False
    was_unique: bool = False

    def render(self) -> str:
        name, _, arguments = self.kind.partition("(")
        default = {"Real": "5.0", "DoublePrecision": "5.0", "Numeric": 'Decimal("5")', **OTHERS}.get(
            name, "'5'" if self.kind in TEXTS else "5"
        )
        options = [arguments.removesuffix(")")] if arguments else []
        options += [f"default={default if self.default else None}", f"null={self.null}"]
        options += [f"{each}=True" for each in ("unique", "index") if getattr(self, each)]
        return f"    {self.name} = {name}({', '.join(options)})"


@dataclass
class Aggregate:
    """Shows the number of readings, and of each of its columns (by uid) what the function says."""

    name: str
    bucket: str = "hours=1"
    grouped: bool = True
    columns: list[int] = field(default_factory=list)
    function: str = "max"
    refreshed: int = 1  # hours


@dataclass
class Hyper:
    """What the readings declare."""

    interval: str = "days=1"
    default_indexes: bool = False
    compression: str | None = None
    retention: int | None = None
    aggregates: list[Aggregate] = field(default_factory=list)


@dataclass
class TableState:
    """A table of the given `role`: machines, plants, readings (which may be a hypertable) or notes."""

    role: str
    class_name: str
    tablename: str
    columns: list[Column] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=dict)
    indexes: dict[str, tuple[list[int], bool]] = field(default_factory=dict)
    hyper: Hyper | None = None
    key: str = "machine_id"
    time: str = "timestamp"
    pkey: tuple[str, bool] = ("readings_pkey", True)
    time_index: bool = False
    serial: bool = False
    action: str = "cascade"
    owner: str = OWNERS[0]

    @property
    def aggregates(self) -> list[Aggregate]:
        return self.hyper.aggregates if self.hyper else []


@dataclass
class Schema:
    """All tables of a project, in the order of their source."""

    tables: list[TableState]
    made: int = 0

    def number(self) -> int:
        """One that wasn't there before."""
        self.made += 1
        return self.made

    def get(self, role: str) -> TableState | None:
        return next((table for table in self.tables if table.role == role), None)

    def render(self) -> str:
        return HEAD + "\n\n".join(_RENDER[table.role](table) for table in self.tables) + "\n"


def _render_plain(table: TableState) -> str:
    key = "plant_id" if table.role == "plants" else "machine_id"
    return "\n".join([_render_head(table), f"    {key} = Text(primary_key=True, default=None)", *_render_body(table)])


def _render_notes(table: TableState) -> str:
    keys = ["    id = BigSerial(primary_key=True)", f"    owner = {table.owner.format(action=table.action)}"]
    return "\n".join([_render_head(table), *keys, *_render_body(table)])


def _render_readings(table: TableState) -> str:
    name, machine_first = table.pkey
    keys = [table.key, table.time] if machine_first else [table.time, table.key]
    lines = [
        _render_head(table, "CompositeKey, ", f", hypertable={_render_hyper(table)}"),
        f"    {table.key} = ForeignKey(Machine, null=False, default=None, on_delete=OnDelete.{table.action})",
        f"    {table.time} = KeyTimestamptz(primary_key=True, default=None, index={table.time_index})",
        *(["    number = BigSerial()"] if table.serial else []),
        *_render_body(table),
        f"    {name} = PrimaryKey([{', '.join(keys)}])",
    ]
    return "\n".join(lines)


_RENDER: dict[str, Callable[[TableState], str]] = {
    "machines": _render_plain,
    "plants": _render_plain,
    "notes": _render_notes,
    "readings": _render_readings,
}


def _render_head(table: TableState, base: str = "", options: str = "") -> str:
    names = {column.uid: column.name for column in table.columns}
    indexes = []
    for name, (uids, partial) in table.indexes.items():
        terms = ", ".join(f'"{names[uid]} DESC"' for uid in uids)
        where = f', where="{names[uids[0]]} IS NOT NULL"' if partial else ""
        indexes.append(f'Index("{name}", ({terms},){where})')
    made = f", indexes=({', '.join(indexes)},)" if indexes else ""
    return f'class {table.class_name}(Declared, {base}Table, tablename="{table.tablename}"{options}{made}):'


def _render_body(table: TableState) -> list[str]:
    names = {column.uid: column.name for column in table.columns}
    checks = [
        f"    {name} = Check(\"{names[uid]} IS NULL OR {names[uid]}::text <> ''\")"
        for name, uid in table.checks.items()
    ]
    return [*(column.render() for column in table.columns), *checks]


def _render_hyper(table: TableState) -> str:
    hyper = table.hyper
    if hyper is None:
        return "None"
    options = [f'"{table.time}", timedelta({hyper.interval})', f"default_indexes={hyper.default_indexes}"]
    if hyper.compression is not None:
        options.append("compression=" + hyper.compression.format(key=table.key, time=table.time))
    if hyper.retention is not None:
        options.append(f"retention=timedelta(days={hyper.retention})")
    if hyper.aggregates:
        options.append(f"aggregates=({', '.join(_render_aggregate(table, each) for each in hyper.aggregates)},)")
    return f"Hypertable({', '.join(options)})"


def _render_aggregate(table: TableState, aggregate: Aggregate) -> str:
    names = {column.uid: column.name for column in table.columns}
    columns = [
        '("readings", "count(*)")',
        *(f'("c{uid}", "{aggregate.function}({names[uid]})")' for uid in aggregate.columns),
    ]
    group_by = f'"{table.key}",' if aggregate.grouped else ""
    refresh = f"Refresh(timedelta(hours={aggregate.refreshed}), timedelta(days=30), timedelta(hours=1))"
    return (
        f'ContinuousAggregate("{aggregate.name}", timedelta({aggregate.bucket}), ({group_by}), '
        f"({', '.join(columns)},), {refresh})"
    )
