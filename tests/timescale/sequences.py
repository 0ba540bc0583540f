"""Random declarations, and random ways from one to the next: what Hypothesis draws for the migrations to follow.

Everything that is drawn can be migrated with the rows that are there, and back: a column that must have a value has a
default, and a unique one has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.timescale.schemas import NUMBERS, OTHERS, OWNERS, TEXTS, WHOLE, Aggregate, Column, Hyper, Schema, TableState

Change = Callable[[st.DrawFn, Schema], None]

_KINDS = (*NUMBERS, *TEXTS, *OTHERS)
_RULES = ((True, False, False), (True, True, False), (False, True, False), (True, False, True))  # null, default, unique
_COMPRESSIONS = (
    None,
    "Compression(timedelta(days=7))",
    "Compression(timedelta(days=9))",
    'Compression(timedelta(days=7), ("{key}",))',
    'Compression(timedelta(days=7), ("{key}",), ("{time} DESC",))',
    'Compression(timedelta(days=7), (), ("{time} ASC NULLS FIRST",))',
)
_INTERVALS = ("days=1", "days=2", "hours=7")
_BUCKETS = ("hours=1", "hours=2", "days=1")
_RETENTIONS = (None, 365, 400)
_ACTIONS = ("cascade", "restrict", "no_action")


@dataclass
class Step:
    """A schema; whether something got a new name on the way to it; what is done with the rows before."""

    schema: Schema
    renames: bool = False
    compress: bool = False
    drop_old: bool = False


@st.composite
def sequences(draw: st.DrawFn, changes: Sequence[Change], longest: int = 4) -> list[Step]:
    """A first schema, and up to `longest` others, each made of the one before by some of these changes, or by a new name."""
    steps = [Step(_draw_schema(draw))]
    for _ in range(draw(st.integers(1, longest))):
        schema = deepcopy(steps[-1].schema)
        renames = draw(st.sampled_from((False, False, False, True)))
        for change in (
            [draw(st.sampled_from(RENAMES))]
            if renames
            else draw(st.lists(st.sampled_from(changes), min_size=1, max_size=3))
        ):
            change(draw, schema)
        if schema.render() != steps[-1].schema.render():
            steps.append(Step(schema, renames, compress=draw(st.booleans()), drop_old=draw(st.booleans())))
    return steps


def _draw_schema(draw: st.DrawFn) -> Schema:
    schema = Schema([TableState("machines", "Machine", "machines"), TableState("plants", "Plant", "plants")])
    readings = TableState("readings", "Reading", "readings")
    readings.columns = [_draw_column(draw, schema, readings) for _ in range(draw(st.integers(1, 3)))]
    readings.time_index = draw(st.booleans())
    if draw(st.booleans()):
        _draw_hyper(draw, readings)
    schema.tables.append(readings)
    if draw(st.booleans()):
        change_tables(draw, schema)
    for table in schema.tables:
        for column in table.columns:
            column.has_nulls = column.has_repeats = False  # every row that comes brings its values
    return schema


def _draw_column(draw: st.DrawFn, schema: Schema, table: TableState) -> Column:
    uid = schema.number()
    kind = draw(st.sampled_from(_KINDS))
    one_by_one = table.role != "readings" and kind not in OTHERS
    null, default, unique = draw(st.sampled_from([rule for rule in _RULES if one_by_one or not rule[2]]))
    index = draw(st.booleans()) and not unique
    column = Column(uid, f"v{uid}", kind, null, default, unique, index, has_nulls=not default, has_repeats=default)
    column.was_required, column.was_unique = not null, unique
    return column


def _draw_hyper(draw: st.DrawFn, table: TableState) -> None:
    table.hyper = Hyper(draw(st.sampled_from(_INTERVALS)), draw(st.booleans()))
    table.hyper.compression = draw(st.sampled_from(_COMPRESSIONS))
    table.hyper.retention = draw(st.sampled_from(_RETENTIONS))
    for _ in range(draw(st.integers(0, 2))):
        _add_aggregate(draw, table)


def _add_aggregate(draw: st.DrawFn, table: TableState) -> None:
    free = [name for name in ("hourly", "other") if name not in {each.name for each in table.aggregates}]
    if free:
        aggregate = Aggregate(free[0], draw(st.sampled_from(_BUCKETS)), draw(st.booleans()))
        aggregate.columns = _draw_aggregated(draw, table)
        table.aggregates.append(aggregate)


def _draw_aggregated(draw: st.DrawFn, table: TableState) -> list[int]:
    numbers = [column.uid for column in table.columns if column.kind in NUMBERS]
    return draw(st.lists(st.sampled_from(numbers), unique=True, max_size=2)) if numbers else []


# --- changes: each takes a schema further, or leaves it -----------------------------------------------------------


def _choose_table(draw: st.DrawFn, schema: Schema) -> TableState:
    return draw(st.sampled_from(sorted(schema.tables, key=lambda table: table.role != "readings")))


def _choose_column(draw: st.DrawFn, schema: Schema) -> tuple[TableState, Column] | None:
    table = _choose_table(draw, schema)
    return (table, draw(st.sampled_from(table.columns))) if table.columns else None


def add_column(draw: st.DrawFn, schema: Schema) -> None:
    table = _choose_table(draw, schema)
    table.columns.append(_draw_column(draw, schema, table))


def drop_column(draw: st.DrawFn, schema: Schema) -> None:
    chosen = _choose_column(draw, schema)
    if chosen is None:
        return
    table, column = chosen
    # Going back must be able to fill it: with its default where it was NOT NULL, with nothing where it was unique.
    if (column.was_required and not column.default) or (column.was_unique and column.default):
        return
    table.columns.remove(column)
    table.checks = {name: uid for name, uid in table.checks.items() if uid != column.uid}
    table.indexes = {name: each for name, each in table.indexes.items() if column.uid not in each[0]}
    for aggregate in table.aggregates:
        aggregate.columns = [uid for uid in aggregate.columns if uid != column.uid]


def change_kind(draw: st.DrawFn, schema: Schema) -> None:
    chosen = _choose_column(draw, schema)
    if chosen is None:
        return
    table, column = chosen
    kinds: tuple[str, ...] = next((group for group in (NUMBERS, TEXTS) if column.kind in group), (column.kind,))
    if column.kind in WHOLE and not any(column.uid in each.columns for each in table.aggregates):
        kinds = (*kinds, *TEXTS)
    column.kind = draw(st.sampled_from(kinds))


def change_rules(draw: st.DrawFn, schema: Schema) -> None:
    chosen = _choose_column(draw, schema)
    if chosen is None:
        return
    table, column = chosen
    one_by_one = not column.has_repeats and table.role != "readings" and column.kind not in OTHERS
    allowed = [rule for rule in _RULES if (rule[0] or not column.has_nulls) and (one_by_one or not rule[2])]
    column.null, column.default, column.unique = draw(st.sampled_from(allowed))
    column.was_required |= not column.null
    column.was_unique |= column.unique


def change_index(draw: st.DrawFn, schema: Schema) -> None:
    chosen = _choose_column(draw, schema)
    if chosen is not None and not chosen[1].unique:
        chosen[1].index = not chosen[1].index


def change_check(draw: st.DrawFn, schema: Schema) -> None:
    chosen = _choose_column(draw, schema)
    if chosen is None:
        return
    table, column = chosen
    if held := [name for name, uid in table.checks.items() if uid == column.uid]:
        del table.checks[held[0]]
    else:
        table.checks[f"check_{schema.number()}"] = column.uid


def change_declared_index(draw: st.DrawFn, schema: Schema) -> None:
    chosen = _choose_column(draw, schema)
    if chosen is None:
        return
    table, column = chosen
    if held := [name for name, (uids, _) in table.indexes.items() if column.uid in uids]:
        del table.indexes[held[0]]
    else:
        uids = [column.uid, *(each.uid for each in table.columns if each is not column)][: draw(st.integers(1, 2))]
        table.indexes[f"index_{schema.number()}"] = (uids, draw(st.booleans()))


def change_readings(draw: st.DrawFn, schema: Schema) -> None:
    """The key in another order, the index on time, a serial number."""
    for table in schema.tables:
        if table.role == "readings":
            what = draw(st.integers(0, 2))
            if what == 0:
                table.pkey = (f"readings_pkey{schema.number()}", not table.pkey[1])
            elif what == 1:
                table.time_index = not table.time_index
            else:
                table.serial = not table.serial


def change_reference(draw: st.DrawFn, schema: Schema) -> None:
    table = draw(st.sampled_from([each for each in schema.tables if each.role in {"readings", "notes"}]))
    table.action = draw(st.sampled_from(_ACTIONS))
    table.owner = draw(st.sampled_from(OWNERS))


def change_hyper(draw: st.DrawFn, schema: Schema) -> None:
    table = schema.get("readings")
    if table is None:
        return
    if table.hyper is None:
        _draw_hyper(draw, table)
        return
    match draw(st.sampled_from(("compression", "interval", "retention", "indexes", "away"))):
        case "compression":
            table.hyper.compression = draw(st.sampled_from(_COMPRESSIONS))
        case "interval":
            table.hyper.interval = draw(st.sampled_from(_INTERVALS))
        case "retention":
            table.hyper.retention = draw(st.sampled_from(_RETENTIONS))
        case "indexes":
            table.hyper.default_indexes = not table.hyper.default_indexes
        case _:
            table.hyper = None


def change_aggregates(draw: st.DrawFn, schema: Schema) -> None:
    """One comes, goes, or says something else."""
    table = schema.get("readings")
    if table is None or table.hyper is None:
        return
    if not table.aggregates or draw(st.booleans()):
        _add_aggregate(draw, table)
        return
    aggregate = draw(st.sampled_from(table.aggregates))
    match draw(st.sampled_from(("columns", "function", "bucket", "refresh", "grouped", "away"))):
        case "columns":
            aggregate.columns = _draw_aggregated(draw, table)
        case "function":
            aggregate.function = "min" if aggregate.function == "max" else "max"
        case "bucket":
            aggregate.bucket = draw(st.sampled_from(_BUCKETS))
        case "refresh":
            aggregate.refreshed += 1
        case "grouped":
            aggregate.grouped = not aggregate.grouped
        case _:
            table.aggregates.remove(aggregate)


def change_tables(draw: st.DrawFn, schema: Schema) -> None:
    """Notes come, or go."""
    notes = schema.get("notes")
    if notes is not None:
        schema.tables.remove(notes)
        return
    notes = TableState("notes", "Note", "notes", owner=draw(st.sampled_from(OWNERS)))
    notes.columns = [_draw_column(draw, schema, notes)]
    schema.tables.append(notes)


def rename_column(draw: st.DrawFn, schema: Schema) -> None:
    table = _choose_table(draw, schema)
    keys = ["the key", "the time"] if table.role == "readings" else []
    names = [*(column.name for column in table.columns), *keys]
    if not names:
        return
    chosen = draw(st.sampled_from(names))
    if chosen in keys:
        table.key, table.time = (
            f"{name}_{schema.number()}" if chosen == each else name
            for name, each in ((table.key, "the key"), (table.time, "the time"))
        )
        table.pkey = (f"readings_pkey{schema.number()}", table.pkey[1])
        return
    column = next(each for each in table.columns if each.name == chosen)
    column.name = f"v{schema.number()}"
    # What says something else under its old name is refused, so it gets a new one.
    table.checks = {
        f"check_{schema.number()}" if uid == column.uid else name: uid for name, uid in table.checks.items()
    }


def rename_table(draw: st.DrawFn, schema: Schema) -> None:
    table = _choose_table(draw, schema)
    if table.role in {"readings", "notes"}:
        number = schema.number()
        table.tablename = f"{table.role}_{number}"
        if draw(st.booleans()):
            table.class_name = f"{table.class_name}{number}"


RENAMES = (rename_column, rename_table)
CHANGES = (
    add_column,
    drop_column,
    change_kind,
    change_rules,
    change_aggregates,
    change_hyper,
    change_index,
    change_check,
    change_reference,
    change_readings,
    change_tables,
)
# Where an index can be built while others go on.
MORE_CHANGES = (*CHANGES, change_declared_index)
