"""From what a table was to what it becomes: the steps, in order, for any two declarations. Pure.

The same function serves forwards and backwards: going back from `new` to `old` is going from `new` to `old`.

No history is lost on the way. An aggregate that goes leaves its rows in the table `NAME__archive`; one that comes takes
them back where it has the same bucket and grouping, so an aggregate can change although its raw rows are dropped. A
hypertable that becomes a plain table takes its rows along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from app.timescale.definitions import STORED_ROWS_ALONE
from app.timescale.hypertable import Compression, ContinuousAggregate, Hypertable
from app.timescale.steps import Hold, Lock, Needs, Reach, Step, Work, guard


def format_interval(span: timedelta) -> str:
    """A PostgreSQL interval literal of exactly that many microseconds."""
    return f"INTERVAL '{span // timedelta(microseconds=1)} microseconds'"


def plan_transition(table: str, old: Hypertable | None, new: Hypertable | None, *, dropped: bool = False) -> list[Step]:
    """The steps that make `table`, which is as `old` says, as `new` says; None is a plain table.

    A table that is `dropped` right afterwards needn't become a plain one first.
    """
    if dropped and old is not None and new is None:
        return [_archive_aggregate(table, aggregate) for aggregate in reversed(old.aggregates)]
    return list(_plan(table, old, new))


def plan_catching_up(table: str, declared: Hypertable) -> list[Step]:
    """The steps that give a table whatever it lacks of its declaration: what an edition could not do when it was migrated.

    They may run on a table that lacks nothing.
    """
    return [*_plan(table, None, declared), _set_chunk_interval(table, declared.chunk_interval)]


def _plan(table: str, old: Hypertable | None, new: Hypertable | None) -> Iterator[Step]:
    if new is None:
        if old is not None:
            yield from (_archive_aggregate(table, aggregate) for aggregate in reversed(old.aggregates))
            if old.compression is not None:
                yield _stop_compression(table)
            yield _make_plain(table)
        return
    if old is None:
        yield _make_hypertable(table, new)
        old = Hypertable(new.time_column, new.chunk_interval, new.default_indexes)
    elif (old.time_column, old.default_indexes) != (new.time_column, new.default_indexes):
        # Chunks are cut by the time column when the hypertable is made: the way leads over a plain table.
        yield from _plan(table, old, None)
        yield from _plan(table, None, new)
        return
    if old.chunk_interval != new.chunk_interval:
        yield _set_chunk_interval(table, new.chunk_interval)
    kept = [aggregate for aggregate in old.aggregates if _find(new.aggregates, aggregate) is not None]
    yield from (_archive_aggregate(table, gone) for gone in reversed(old.aggregates) if gone not in kept)
    yield from _plan_compression(table, old, new)
    for aggregate in new.aggregates:
        before = _find(old.aggregates, aggregate)
        if before is None:
            yield _add_aggregate(table, new.time_column, aggregate)
            yield _fill_aggregate(table, new.time_column, aggregate)
        if before is None or before.refresh != aggregate.refresh:
            yield _set_refresh(aggregate)
    if old.retention != new.retention:
        yield _set_retention(table, new.retention)


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
  create_default_indexes => {"true" if declared.default_indexes else "false"}, if_not_exists => true, migrate_data => true
);"""
    # Each chunk that the rows come into gets the foreign keys of the table.
    holds = (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(table, Lock.SHARE_ROW_EXCLUSIVE, Reach.REFERRED))
    return Step(guard(Needs.HYPERTABLES, body), holds, Needs.HYPERTABLES, work=Work.GROWS)


def _set_chunk_interval(table: str, interval: timedelta) -> Step:
    body = f"PERFORM set_chunk_time_interval('\"{table}\"'::regclass, {format_interval(interval)});"
    return Step(guard(Needs.HYPERTABLES, body), (Hold(table, Lock.NONE),), Needs.HYPERTABLES)


def _make_plain(table: str) -> Step:
    """TimescaleDB has no way back: the rows move to a plain table, which gets the keys, indexes and grants of the old."""
    body = f"""
DECLARE
  statement text;
  statements text[];
BEGIN
  LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE;
  CREATE TABLE "{table}__plain" (LIKE "{table}" INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMMENTS);
  INSERT INTO "{table}__plain" SELECT * FROM "{table}";
  SELECT array_agg(made.statement ORDER BY made.place, made.statement) INTO statements FROM (
    SELECT 1 AS place, format('ALTER TABLE "{table}" ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) AS statement
    FROM pg_constraint WHERE conrelid = '"{table}"'::regclass AND contype IN ('p', 'u', 'c', 'f')
    UNION ALL
    SELECT 2, indexdef FROM pg_indexes
    WHERE schemaname = current_schema() AND tablename = '{table}'
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = '"{table}"'::regclass AND conname = indexname)
    UNION ALL
    SELECT 3, format(
      'GRANT %s ON "{table}" TO %s', privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
    )
    FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) WHERE pg_class.oid = '"{table}"'::regclass
  ) AS made;
  DROP TABLE "{table}";
  ALTER TABLE "{table}__plain" RENAME TO "{table}";
  FOREACH statement IN ARRAY statements LOOP
    EXECUTE statement;
  END LOOP;
END;"""
    holds = (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(table, Lock.ACCESS_EXCLUSIVE, Reach.REFERRED))
    return Step(guard(Needs.HYPERTABLES, body), holds, Needs.HYPERTABLES, work=Work.GROWS)


def _set_retention(table: str, retention: timedelta | None) -> Step:
    lines = [f"PERFORM remove_retention_policy('\"{table}\"'::regclass, if_exists => true);"]
    if retention is not None:
        lines.append(f"PERFORM add_retention_policy('\"{table}\"'::regclass, {format_interval(retention)});")
    # Said, or a preview would promise that rows stay which the service drops.
    instead = None if retention is None else "the service drops what is too old"
    return Step(guard(Needs.COMMUNITY, "\n".join(lines)), (Hold(table, Lock.NONE),), Needs.COMMUNITY, instead=instead)


# --- compression --------------------------------------------------------------------------------------------------


def _plan_compression(table: str, old: Hypertable, new: Hypertable) -> Iterator[Step]:
    if old.compression == new.compression:
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
        options.append(f"timescaledb.compress_segmentby = '{', '.join(compression.segment_by)}'")
    order = ", ".join(compression.order_by) or f"{time_column} DESC"
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


# --- continuous aggregates ----------------------------------------------------------------------------------------


def _sign(aggregate: ContinuousAggregate) -> str:
    """What the archive of an aggregate says of itself: rows may go back into an aggregate of the same sign alone."""
    microseconds = aggregate.bucket // timedelta(microseconds=1)
    return f"buckets of {microseconds} microseconds by {', '.join(aggregate.group_by) or 'nothing'}"


def _archive_aggregate(table: str, aggregate: ContinuousAggregate) -> Step:
    name = aggregate.name
    body = f"""
CREATE TABLE "{name}__archive" AS SELECT * FROM "{name}";
COMMENT ON TABLE "{name}__archive" IS '{_sign(aggregate)}';
DROP MATERIALIZED VIEW "{name}";"""
    # The table too: TimescaleDB takes its trigger from it.
    holds = (
        Hold(name, Lock.ACCESS_EXCLUSIVE),
        Hold(table, Lock.ACCESS_EXCLUSIVE),
        Hold(f"{name}__archive", Lock.NEW),
    )
    return Step(guard(Needs.COMMUNITY, body), holds, Needs.COMMUNITY, work=Work.GROWS)


def _add_aggregate(table: str, time_column: str, aggregate: ContinuousAggregate) -> Step:
    name = aggregate.name
    columns = [
        f'time_bucket({format_interval(aggregate.bucket)}, "{time_column}") AS bucket',
        *(f'"{column}"' for column in aggregate.group_by),
        *(f'{expression} AS "{column}"' for column, expression in aggregate.columns),
    ]
    grouping = ", ".join(str(place) for place in range(1, len(aggregate.group_by) + 2))
    body = f"""
DECLARE
  columns text;
  stored regclass;
BEGIN
  CREATE MATERIALIZED VIEW IF NOT EXISTS "{name}" WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
  SELECT {", ".join(columns)}
  FROM "{table}" GROUP BY {grouping} WITH NO DATA;
  IF obj_description(to_regclass(format('%I.%I', current_schema(), '{name}__archive')), 'pg_class') = '{_sign(aggregate)}' THEN
    SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass INTO stored
    FROM timescaledb_information.continuous_aggregates
    WHERE view_schema = current_schema() AND view_name = '{name}';
    SELECT string_agg(quote_ident(old.attname), ', ') INTO columns
    FROM pg_attribute AS old JOIN pg_attribute AS new USING (attname)
    WHERE old.attrelid = '"{name}__archive"'::regclass AND new.attrelid = stored AND old.attnum > 0 AND new.attnum > 0;
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM "{name}__archive"', stored, columns, columns);
    DROP TABLE "{name}__archive";
    IF NOT EXISTS (SELECT FROM "{table}") THEN
      -- Without a row there is nothing to refresh, and up to the first refresh a view that looks at the rows shows no other.
      ALTER MATERIALIZED VIEW "{name}" SET (timescaledb.materialized_only = true);
      COMMENT ON VIEW "{name}" IS '{STORED_ROWS_ALONE.replace("'", "''")}';
    END IF;
  END IF;
END;"""
    holds = (Hold(name, Lock.NEW), Hold(table, Lock.SHARE_ROW_EXCLUSIVE))
    return Step(guard(Needs.COMMUNITY, body), holds, Needs.COMMUNITY, work=Work.GROWS)


def _set_refresh(aggregate: ContinuousAggregate) -> Step:
    refresh = aggregate.refresh
    start = "NULL" if refresh.start_offset is None else format_interval(refresh.start_offset)
    body = f"""
PERFORM remove_continuous_aggregate_policy('"{aggregate.name}"'::regclass, if_exists => true);
PERFORM add_continuous_aggregate_policy(
  '"{aggregate.name}"'::regclass,
  start_offset => {start}, end_offset => {format_interval(refresh.end_offset)}, schedule_interval => {format_interval(refresh.every)}
);"""
    return Step(guard(Needs.COMMUNITY, body), (Hold(aggregate.name, Lock.NONE),), Needs.COMMUNITY)


def _fill_aggregate(table: str, time_column: str, aggregate: ContinuousAggregate) -> Step:
    """Refreshes what raw rows there are, from their first whole bucket on: to refresh where they are gone would empty it.

    A refresh can't run in a transaction, nor in a DO block: `values` finds the bounds, which the statement names.
    """
    bucket = format_interval(aggregate.bucket)
    values = f"""
SELECT quote_nullable(time_bucket({bucket}, min("{time_column}") + {bucket} - INTERVAL '1 microsecond')) AS first,
       quote_nullable(time_bucket({bucket}, max("{time_column}")) + {bucket}) AS last
FROM "{table}"
HAVING time_bucket({bucket}, min("{time_column}") + {bucket} - INTERVAL '1 microsecond') <= time_bucket({bucket}, max("{time_column}"))"""
    return Step(
        f"CALL refresh_continuous_aggregate('\"{aggregate.name}\"', :first, :last)",
        (Hold(aggregate.name, Lock.EXCLUSIVE), Hold(table, Lock.ACCESS_SHARE)),
        Needs.COMMUNITY,
        transactional=False,
        work=Work.GROWS,
        values=values.strip(),
    )
