"""The mixin of every table of ours: takes `hypertable=` and `indexes=`, and refuses at import what can't work.

class RawMeasurement(Declared, CompositeKey, Table, tablename="raw_measurements", hypertable=Hypertable(...)):
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar, cast

from piccolo.columns import Timestamptz
from piccolo.constraints import Unique
from piccolo.table import Table

from app.timescale.expressions import ExpressionError, find_columns
from app.timescale.hypertable import Compression, ContinuousAggregate, DeclarationError, Hypertable
from app.timescale.indexes import Index

LONGEST_NAME = 63  # PostgreSQL cuts off what is longer
SHORTEST_CHUNK = timedelta(minutes=1)

_NAME = re.compile(r"\A[a-z_][a-z0-9_]*\Z")
_ORDER = re.compile(r"\A(\w+)(?: (?:ASC|DESC))?(?: NULLS (?:FIRST|LAST))?\Z")


class Declared:
    """Mixed in before Table. Raises DeclarationError, with every reason, when the class is made."""

    hypertable: ClassVar[Hypertable | None] = None
    declared_indexes: ClassVar[tuple[Index, ...]] = ()  # Piccolo has a method `indexes`

    def __init_subclass__(
        cls, hypertable: Hypertable | None = None, indexes: tuple[Index, ...] = (), **options: Any
    ) -> None:
        super().__init_subclass__(**options)
        cls.hypertable = hypertable
        cls.declared_indexes = indexes
        table = cast("type[Table]", cls)
        problems = [*_find_name_problems(table), *_find_reference_problems(table)]
        for index in indexes:
            problems.extend(f"index {index.name}: {it}" for it in _find_index_problems(table, hypertable, index))
        if hypertable is not None:
            problems.extend(_find_problems(table, hypertable))
        if problems:
            raise DeclarationError(f"{cls.__name__} can't be declared like this: {'; '.join(problems)}.")


def get_hypertable(table: type[Table]) -> Hypertable | None:
    """What a table declares, if it declares anything."""
    declared = getattr(table, "hypertable", None)
    return declared if isinstance(declared, Hypertable) else None


def find_hypertables(tables: Sequence[type[Table]]) -> dict[str, Hypertable]:
    """The declarations by table name, for the tables that have one. Raises DeclarationError when two share a name."""
    found = {table._meta.tablename: declared for table in tables if (declared := get_hypertable(table)) is not None}
    names = [aggregate.name for declared in found.values() for aggregate in declared.aggregates]
    names += {table._meta.tablename for table in tables}
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DeclarationError(
            f"Two tables or aggregates are named {doubled[0]}: a name stands for one in the whole schema."
        )
    return found


def find_indexes(tables: Iterable[type[Table]]) -> dict[str, tuple[Index, ...]]:
    """The declared indexes by table name, for the tables that have some. Raises DeclarationError when two share a name."""
    found = {
        table._meta.tablename: declared for table in tables if (declared := getattr(table, "declared_indexes", ()))
    }
    names = [index.name for declared in found.values() for index in declared]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DeclarationError(f"Two indexes are named {doubled[0]}: a name stands for one in the whole schema.")
    return found


def _find_index_problems(table: type[Table], hypertable: Hypertable | None, index: Index) -> Iterator[str]:
    columns = {column._meta.db_column_name for column in table._meta.columns}
    if not _NAME.match(index.name) or len(index.name) > LONGEST_NAME:
        yield f"it needs a name of up to {LONGEST_NAME} of a-z, 0-9 and _"
    if not _NAME.match(index.method):
        yield f'"{index.method}" is no method: say btree, gin, gist, brin or hash'
    named = []
    for term in index.columns:
        match = _ORDER.match(term)
        if match is None:
            yield f'it can\'t order by "{term}": say a column, and then ASC or DESC'
        else:
            named.append(match.group(1))
    if not index.columns:
        yield "it has no columns"
    try:
        used = {*named, *(find_columns(index.where) if index.where else ())}
    except ExpressionError as error:
        yield f"its condition can't be read: {error}"
    else:
        yield from (f"there is no column {name}" for name in sorted(used - columns))
    if index.unique and hypertable is not None and hypertable.time_column not in named:
        yield f"a unique one of a hypertable holds the time column {hypertable.time_column}"


def _find_name_problems(table: type[Table]) -> Iterator[str]:
    """Names that Piccolo writes without quotes, names made of names that PostgreSQL would cut off, texts that end too early."""
    tablename = table._meta.tablename
    if not _NAME.match(tablename) or len(tablename) > LONGEST_NAME - len("__plain"):
        yield f'"{tablename}" is no name for a table: use up to {LONGEST_NAME - len("__plain")} of a-z, 0-9 and _'
    for column in table._meta.columns:
        name = column._meta.db_column_name
        suffix = "_fkey" if column in table._meta.foreign_key_columns else "_key" if column._meta.unique else ""
        longest = len(f"{tablename}_{name}{suffix}") if suffix or column._meta.index else len(name)
        if not _NAME.match(name):
            yield f'"{name}" is no name for a column: use a-z, 0-9 and _'
        elif longest > LONGEST_NAME:
            yield f"{tablename} and {name} together are too long for the name of an index or a key: PostgreSQL cuts it off"
        default = getattr(column, "default", None)
        if isinstance(default, str) and "'" in default:
            yield f"the default of {name} has an apostrophe, which Piccolo takes for its end"


def _find_reference_problems(table: type[Table]) -> Iterator[str]:
    for column in table._meta.foreign_key_columns:
        name = column._meta.name
        reference = column._foreign_key_meta.references
        if not (isinstance(reference, type) and issubclass(reference, Table)):
            yield (
                f"{name} refers to its table by a text, which Piccolo takes for a change every time it looks: "
                "refer to the class"
            )
        elif get_hypertable(reference) is not None:
            yield f"{name} refers to the hypertable {reference.__name__}, which no foreign key may"


def _find_problems(table: type[Table], declared: Hypertable) -> Iterator[str]:
    columns = {column._meta.db_column_name: column for column in table._meta.columns}
    time = declared.time_column
    if time not in columns:
        yield f"there is no time column {time}"
    elif not isinstance(columns[time], Timestamptz):
        yield f"the time column {time} is no Timestamptz"
    if declared.chunk_interval < SHORTEST_CHUNK:
        yield f"a chunk interval of {declared.chunk_interval} makes far too many chunks: use hours or days"
    yield from _find_key_problems(table, time)
    if declared.retention is not None and declared.retention <= declared.chunk_interval:
        yield f"a retention of {declared.retention} is no longer than one chunk: its newest rows would go with it"
    if declared.compression is not None:
        yield from _find_compression_problems(declared, declared.compression, set(columns))
    names = [aggregate.name for aggregate in declared.aggregates]
    yield from (
        f"two aggregates are named {name}" for name in sorted({name for name in names if names.count(name) > 1})
    )
    for aggregate in declared.aggregates:
        yield from (
            f"aggregate {aggregate.name}: {it}" for it in _find_aggregate_problems(declared, aggregate, set(columns))
        )


def _find_key_problems(table: type[Table], time: str) -> Iterator[str]:
    constraints = [each for each in table._meta.constraints if isinstance(each, Unique)]
    for constraint in constraints:
        names: list[str] = constraint.get_column_names()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
        if time not in names:
            yield f"the key ({', '.join(names)}) lacks the time column {time}, and TimescaleDB takes no such key"
    in_constraints = {
        name
        for constraint in constraints
        for name in constraint.get_column_names()  # type: ignore[no-untyped-call]  # as above
    }
    for column in table._meta.columns:
        name = column._meta.db_column_name
        alone = column._meta.unique or (column._meta.primary_key and name not in in_constraints)
        if alone and name != time:
            yield f"the key ({name}) lacks the time column {time}, and TimescaleDB takes no such key"


def _find_compression_problems(declared: Hypertable, compression: Compression, columns: set[str]) -> Iterator[str]:
    ordered = []
    for term in compression.order_by:
        match = _ORDER.match(term)
        if match is None:
            yield f'compression can\'t order by "{term}": say a column, and then ASC or DESC'
        else:
            ordered.append(match.group(1))
    for name in (*compression.segment_by, *ordered):
        if name not in columns:
            yield f"compression names a column {name} that isn't there"
    if declared.time_column in compression.segment_by:
        yield f"compression can't segment by the time column {declared.time_column}"
    yield from (f"compression both segments and orders by {name}" for name in ordered if name in compression.segment_by)
    if compression.after <= timedelta(0):
        yield "compression must wait a while: `after` is longer than nothing"
    if declared.retention is not None and compression.after >= declared.retention:
        yield f"compression after {compression.after} comes too late: rows are dropped after {declared.retention}"


def _find_aggregate_problems(declared: Hypertable, aggregate: ContinuousAggregate, columns: set[str]) -> Iterator[str]:
    outputs = ["bucket", *aggregate.group_by, *(name for name, _ in aggregate.columns)]
    for name, longest in (
        (aggregate.name, LONGEST_NAME - len("__archive_99")),
        *((each, LONGEST_NAME) for each in outputs),
    ):
        if not _NAME.match(name) or len(name) > longest:
            yield f'"{name}" is no name: use up to {longest} of a-z, 0-9 and _'
    yield from (
        f"two columns are named {name}" for name in sorted({name for name in outputs if outputs.count(name) > 1})
    )
    yield from (f"there is no column {name} to group by" for name in aggregate.group_by if name not in columns)
    if not aggregate.columns:
        yield "it has no columns of its own"
    for name, expression in aggregate.columns:
        try:
            missing = sorted(find_columns(expression) - columns)
        except ExpressionError as error:
            yield f"{name} can't be read: {error}"
        else:
            yield from (f"{name} stands on a column {each} that isn't there" for each in missing)
    if aggregate.bucket <= timedelta(0):
        yield "its bucket must be longer than nothing"
    refresh = aggregate.refresh
    if refresh.every <= timedelta(0) or refresh.end_offset < timedelta(0):
        yield "its refresh must come every while, and end no later than now"
    if refresh.start_offset is not None and refresh.start_offset - refresh.end_offset < 2 * aggregate.bucket:
        yield "its refresh window must span two buckets at least"
    if declared.retention is not None and (refresh.start_offset is None or refresh.start_offset > declared.retention):
        yield (
            f"its refresh reaches back further than the rows, which are dropped after {declared.retention}: "
            "it would empty the buckets of dropped rows"
        )
