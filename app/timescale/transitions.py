"""From what a table was to what it becomes: the steps, in order, for any two declarations. Pure.

The same function serves forwards and backwards: going back from `new` to `old` is going from `new` to `old`.

No history is lost on the way. An aggregate that goes leaves its rows in the table `NAME__archive`; one that comes takes
them back where it has the same bucket and grouping, so an aggregate can change although its raw rows are dropped. A
hypertable that becomes a plain table takes its rows along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from app.timescale.aggregates import add_aggregate, archive_aggregate, fill_aggregate, set_refresh
from app.timescale.expressions import quote_term
from app.timescale.hypertable import Compression, ContinuousAggregate, Hypertable
from app.timescale.plain import make_plain
from app.timescale.steps import Hold, Lock, Needs, Reach, Step, Work, format_interval, guard


def plan_transition(table: str, old: Hypertable | None, new: Hypertable | None, *, dropped: bool = False) -> list[Step]:
    """The steps that make `table`, which is as `old` says, as `new` says; None is a plain table.

    A table that is `dropped` right afterwards needn't become a plain one first.
    """
    if dropped and old is not None and new is None:
        return [archive_aggregate(table, aggregate) for aggregate in reversed(old.aggregates)]
    return list(_plan(table, old, new))


def plan_catching_up(table: str, declared: Hypertable) -> list[Step]:
    """The steps that give a table whatever it lacks of its declaration: what an edition could not do when it was migrated.

    They may run on a table that lacks nothing.
    """
    return [*_plan(table, None, declared), _set_chunk_interval(table, declared.chunk_interval)]


def _plan(table: str, old: Hypertable | None, new: Hypertable | None) -> Iterator[Step]:
    if new is None:
        if old is not None:
            yield from (archive_aggregate(table, aggregate) for aggregate in reversed(old.aggregates))
            if old.compression is not None:
                yield _stop_compression(table)
            if old.default_indexes:
                yield _drop_time_index(table, old.time_column)
            yield make_plain(table)
        return
    if old is None:
        yield _make_hypertable(table, new)
        old = Hypertable(new.time_column, new.chunk_interval)
    elif old.time_column != new.time_column:
        # Chunks are cut by the time column when the hypertable is made: the way leads over a plain table.
        yield from _plan(table, old, None)
        yield from _plan(table, None, new)
        return
    if old.default_indexes != new.default_indexes:
        yield (_add_time_index if new.default_indexes else _drop_time_index)(table, new.time_column)
    if old.chunk_interval != new.chunk_interval:
        yield _set_chunk_interval(table, new.chunk_interval)
    yield from (
        archive_aggregate(table, gone) for gone in reversed(old.aggregates) if _find(new.aggregates, gone) is None
    )
    yield from _plan_compression(table, old, new)
    yield from _plan_new_aggregates(table, old, new)
    if old.retention != new.retention:
        yield _set_retention(table, new.retention)


def _plan_new_aggregates(table: str, old: Hypertable, new: Hypertable) -> Iterator[Step]:
    for aggregate in new.aggregates:
        before = _find(old.aggregates, aggregate)
        if before is None:
            yield add_aggregate(table, new.time_column, aggregate)
            yield fill_aggregate(table, new.time_column, aggregate)
        if before is None or before.refresh != aggregate.refresh:
            yield set_refresh(aggregate)


def _find(aggregates: Sequence[ContinuousAggregate], wanted: ContinuousAggregate) -> ContinuousAggregate | None:
    """The one that shows the same, however it is kept up to date."""
    for aggregate in aggregates:
        if _shown(aggregate) == _shown(wanted):
            return aggregate
    return None


def _shown(aggregate: ContinuousAggregate) -> tuple[object, ...]:
    return aggregate.name, aggregate.bucket, aggregate.group_by, aggregate.columns


# --- the table ----------------------------------------------------------------------------------------------------


def _make_hypertable(table: str, declared: Hypertable) -> Step:
    body = f"""
PERFORM create_hypertable(
  '"{table}"'::regclass,
  by_range('{declared.time_column}', {format_interval(declared.chunk_interval)}),
  create_default_indexes => false, if_not_exists => true, migrate_data => true
);"""
    # Each chunk that the rows come into gets the foreign keys of the table.
    holds = (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(table, Lock.SHARE_ROW_EXCLUSIVE, Reach.REFERRED))
    return Step(guard(Needs.HYPERTABLES, body), holds, Needs.HYPERTABLES, work=Work.GROWS)


def _add_time_index(table: str, time_column: str) -> Step:
    """The one that TimescaleDB would add, if it found no other on time: whether there is one must depend on nothing else."""
    body = f'CREATE INDEX IF NOT EXISTS "{table}_{time_column}_idx" ON "{table}" ("{time_column}" DESC);'
    return Step(guard(Needs.HYPERTABLES, body), (Hold(table, Lock.SHARE),), Needs.HYPERTABLES, work=Work.INDEXES)


def _drop_time_index(table: str, time_column: str) -> Step:
    body = f'DROP INDEX IF EXISTS "{table}_{time_column}_idx";'
    return Step(guard(Needs.HYPERTABLES, body), (Hold(table, Lock.ACCESS_EXCLUSIVE),), Needs.HYPERTABLES)


def _set_chunk_interval(table: str, interval: timedelta) -> Step:
    body = f"PERFORM set_chunk_time_interval('\"{table}\"'::regclass, {format_interval(interval)});"
    return Step(guard(Needs.HYPERTABLES, body), (Hold(table, Lock.NONE),), Needs.HYPERTABLES)


def _set_retention(table: str, retention: timedelta | None) -> Step:
    lines = [f"PERFORM remove_retention_policy('\"{table}\"'::regclass, if_exists => true);"]
    if retention is not None:
        lines.append(f"PERFORM add_retention_policy('\"{table}\"'::regclass, {format_interval(retention)});")
    # Said, or a preview would promise that rows stay which the service drops.
    instead = None if retention is None else "the service drops what is too old"
    return Step(guard(Needs.COMMUNITY, "\n".join(lines)), (Hold(table, Lock.NONE),), Needs.COMMUNITY, instead=instead)


# --- compression --------------------------------------------------------------------------------------------------


def _plan_compression(table: str, old: Hypertable, new: Hypertable) -> Iterator[Step]:
    # TimescaleDB takes from the span of a chunk how often the policy runs, when it is added.
    if (old.compression, old.chunk_interval) == (new.compression, new.chunk_interval):
        return
    before, after = old.compression, new.compression
    if before is not None and (after is None or _settings(before) != _settings(after)):
        yield _stop_compression(table)
        before = None
    if after is None:
        return
    if before is None:
        yield _start_compression(table, new.time_column, after)
    lines = f"""
PERFORM remove_compression_policy('"{table}"'::regclass, if_exists => true);
PERFORM add_compression_policy('"{table}"'::regclass, {format_interval(after.after)});"""
    yield Step(guard(Needs.COMMUNITY, lines), (Hold(table, Lock.NONE),), Needs.COMMUNITY)


def _settings(compression: Compression) -> tuple[object, ...]:
    return compression.segment_by, compression.order_by


def _start_compression(table: str, time_column: str, compression: Compression) -> Step:
    options = ["timescaledb.compress"]
    if compression.segment_by:
        options.append(f"timescaledb.compress_segmentby = '{', '.join(map(quote_term, compression.segment_by))}'")
    order = ", ".join(map(quote_term, compression.order_by or (f"{time_column} DESC",)))
    options.append(f"timescaledb.compress_orderby = '{order}'")
    body = f'ALTER TABLE "{table}" SET ({", ".join(options)});'
    return Step(guard(Needs.COMMUNITY, body), (Hold(table, Lock.ACCESS_EXCLUSIVE),), Needs.COMMUNITY)


def _stop_compression(table: str) -> Step:
    body = f"""
PERFORM remove_compression_policy('"{table}"'::regclass, if_exists => true);
PERFORM decompress_chunk(chunk, true) FROM show_chunks('"{table}"'::regclass) AS chunk;
ALTER TABLE "{table}" SET (timescaledb.compress = false);"""
    holds = (Hold(table, Lock.ACCESS_EXCLUSIVE),)
    return Step(guard(Needs.COMMUNITY, body), holds, Needs.COMMUNITY, work=Work.GROWS)
