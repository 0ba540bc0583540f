"""The steps of continuous aggregates: one comes, goes, is filled, is kept up to date. Pure.

What an aggregate says may be all that is left of rows that are dropped since. One that goes leaves its rows in an archive,
the table `NAME__archive`; one that comes takes back what it shows of all archives with the same buckets and groups. An
archive that holds anything besides stays where it is, for the way back or whoever looks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from textwrap import indent

from app.timescale.definitions import KNOWS_UNTIL, STORED_ROWS_ALONE
from app.timescale.hypertable import ContinuousAggregate, Hypertable
from app.timescale.steps import Hold, Lock, Needs, Step, Work, format_interval, guard
from app.timescale.tokens import quote_text


def rename_groups(table: str, declared: Hypertable | None, names: Mapping[str, str]) -> list[Step]:
    """The steps after columns of the table got other names: those of its aggregates that are called like them do too."""
    return [
        Step(
            guard(
                Needs.COMMUNITY,
                f'ALTER MATERIALIZED VIEW "{aggregate.name}" RENAME COLUMN "{column}" TO "{names[column]}";',
            ),
            (Hold(table, Lock.NONE), Hold(aggregate.name, Lock.ACCESS_EXCLUSIVE)),
            Needs.COMMUNITY,
        )
        for aggregate in (declared.aggregates if declared else ())
        for column in aggregate.group_by
        if column in names
    ]


def _sign(aggregate: ContinuousAggregate) -> str:
    """What the archive of an aggregate says of itself: rows may go back into an aggregate of the same sign alone."""
    microseconds = aggregate.bucket // timedelta(microseconds=1)
    return f"buckets of {microseconds} microseconds by {', '.join(aggregate.group_by) or 'nothing'}"


def archive_aggregate(table: str, aggregate: ContinuousAggregate) -> Step:
    name = aggregate.name
    notes = "".join(
        f"\n  EXECUTE format('COMMENT ON COLUMN %I.\"{column}\" IS %L', archive, {_quote(expression)});"
        for column, expression in aggregate.columns
    )
    body = f"""
DECLARE
  archive text := '{name}__archive';
  number int;
BEGIN
  FOR n IN 2..99 LOOP
    EXIT WHEN to_regclass(quote_ident(archive)) IS NULL; -- else it holds what no aggregate shows
    archive := '{name}__archive_' || n;
  END LOOP;
  -- Names are free again when their archive is taken back: which is the newest is told by a number.
  SELECT coalesce(max({_NUMBER}), 0) + 1 INTO number FROM pg_class WHERE {_is_archive(name)};
  EXECUTE format('CREATE TABLE %I AS SELECT * FROM "{name}"', archive);
  EXECUTE format('COMMENT ON TABLE %I IS %L', archive, {_quote(_sign(aggregate))} || ', number ' || number);{notes}
  DROP MATERIALIZED VIEW "{name}";
END;"""
    # The table too: TimescaleDB takes its trigger from it.
    holds = (
        Hold(name, Lock.ACCESS_EXCLUSIVE),
        Hold(table, Lock.ACCESS_EXCLUSIVE),
        Hold(f"{name}__archive", Lock.NEW),
    )
    return Step(guard(Needs.COMMUNITY, body), holds, Needs.COMMUNITY, work=Work.GROWS)


def add_aggregate(table: str, time_column: str, aggregate: ContinuousAggregate) -> Step:
    """Makes it, and puts back what is in archives of the same buckets and groups, of columns that still say the same.

    A refresh begins behind what only archives know, and with a bucket that has all its rows (see `fill_aggregate`). What
    rows there are before that, one that came late or those of a first bucket that has lost others, are shown from here on,
    unless an archive knows their bucket.
    """
    name, bucket = aggregate.name, format_interval(aggregate.bucket)
    terms = [
        ("bucket", f'time_bucket({bucket}, "{time_column}")', ""),
        *((column, f'"{column}"', "") for column in aggregate.group_by),
        *((column, expression, expression) for column, expression in aggregate.columns),
    ]
    selected = ", ".join(f'{expression} AS "{column}"' for column, expression, _ in terms)
    grouping = ", ".join(str(place) for place in range(1, len(aggregate.group_by) + 2))
    cut = f'time_bucket({bucket}, "{time_column}")'
    gone = quote_text(f' EXCEPT SELECT {cut} FROM "{table}") AS gone', "gone")
    before = quote_text(
        f""" ({", ".join(f'"{column}"' for column, _, _ in terms)})
    SELECT {selected}
    FROM "{table}" WHERE "{time_column}" < $1 AND NOT EXISTS (
      SELECT FROM """,
        "fill",
    )
    after = quote_text(f" AS held WHERE held.bucket = {cut}\n    ) GROUP BY {grouping} ", "fill")
    body = f"""
DECLARE
  archive regclass;
  archives regclass[];
  known_until timestamptz;
  lossless boolean;
  since timestamptz;
  stored regclass;
  way record;
BEGIN
  CREATE MATERIALIZED VIEW IF NOT EXISTS "{name}" WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
  SELECT {selected}
  FROM "{table}" GROUP BY {grouping} WITH NO DATA;
  SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass INTO stored
  FROM timescaledb_information.continuous_aggregates
  WHERE view_schema = current_schema() AND view_name = '{name}';
  SELECT time_bucket({bucket}, min("{time_column}") + {bucket} - INTERVAL '1 microsecond') INTO since FROM "{table}";
{indent(_take_back(aggregate), "  ")}
  IF archives IS NOT NULL THEN
    EXECUTE 'SELECT max(bucket) FROM (SELECT bucket FROM ' || stored || {gone} INTO known_until;
    known_until := known_until + {bucket};
    since := greatest(since, known_until);
    EXECUTE format('COMMENT ON VIEW "{name}" IS %L', '{KNOWS_UNTIL}' || (known_until AT TIME ZONE 'UTC')::text || '+00');
  END IF;
  IF archives IS NOT NULL AND NOT EXISTS (SELECT FROM "{table}" WHERE "{time_column}" >= since) THEN
    -- There is nothing to refresh, and up to the first refresh a view that looks at the rows shows nothing else.
    ALTER MATERIALIZED VIEW "{name}" SET (timescaledb.materialized_only = true);
    COMMENT ON VIEW "{name}" IS '{STORED_ROWS_ALONE.replace("'", "''")}';
  END IF;
  EXECUTE 'INSERT INTO ' || stored || {before} || stored || {after} USING since;
END;"""
    holds = (Hold(name, Lock.NEW), Hold(table, Lock.SHARE_ROW_EXCLUSIVE))
    return Step(guard(Needs.COMMUNITY, body), holds, Needs.COMMUNITY, work=Work.GROWS)


# Of an archive: which number it has among those of its aggregate, the newest the highest. Old ones have none.
_NUMBER = "coalesce(substring(obj_description(oid, 'pg_class') FROM ', number ([0-9]+)$')::int, 0)"


def _is_archive(name: str) -> str:
    return (
        f"relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname ~ '^{name}__archive(_[0-9]+)?$'"
    )


def _take_back(aggregate: ContinuousAggregate) -> str:
    """PL/pgSQL that fills `stored` from the archives, the oldest first, and drops those that have nothing else to tell.

    A newer archive knows better, but where its value is the older one's in a type that holds less.
    """
    known = [("bucket", ""), *((column, "") for column in aggregate.group_by), *aggregate.columns]
    pairs = ", ".join(f"({_quote(column)}, {_quote(said)})" for column, said in known)
    return f"""
SELECT array_agg(oid::regclass ORDER BY {_NUMBER}) INTO archives FROM pg_class
WHERE {_is_archive(aggregate.name)}
  AND regexp_replace(obj_description(oid, 'pg_class'), ', number [0-9]+$', '') = {_quote(_sign(aggregate))};
FOREACH archive IN ARRAY coalesce(archives, '{{}}') LOOP
  SELECT string_agg(format('%I', attname), ', ' ORDER BY place) AS columns,
         string_agg(format('held.%I::%s', attname, new_type), ', ' ORDER BY place) AS taken,
         string_agg(format('stored.%1$I IS NOT DISTINCT FROM held.%1$I::%2$s', attname, new_type), ' AND ')
           FILTER (WHERE said = '' AND attname <> 'bucket') AS same_group,
         string_agg(format(
           '%1$I = CASE WHEN stored.%1$I::%2$s::text IS NOT DISTINCT FROM held.%1$I::text THEN stored.%1$I ELSE held.%1$I::%3$s END',
           attname, old_type, new_type
         ), ', ') FILTER (WHERE said <> '') AS newer,
         string_agg(format('held.%1$I::%3$s::%2$s::text IS DISTINCT FROM held.%1$I::text', attname, old_type, new_type), ' OR ')
           AS changed,
         count(*) = (SELECT count(*) FROM pg_attribute WHERE attrelid = archive AND attnum > 0 AND NOT attisdropped) AS all_known
  INTO way FROM (
    SELECT attname, new.attnum AS place, format_type(old.atttypid, old.atttypmod) AS old_type,
           format_type(new.atttypid, new.atttypmod) AS new_type, coalesce(col_description(archive, old.attnum), '') AS said
    FROM pg_attribute AS old JOIN pg_attribute AS new USING (attname)
    WHERE old.attrelid = archive AND new.attrelid = stored AND old.attnum > 0 AND new.attnum > 0
  ) AS both_have WHERE (attname::text, said) IN ({pairs});
  way.same_group := concat_ws(' AND ', 'stored.bucket = held.bucket', way.same_group);
  IF way.newer IS NOT NULL THEN
    EXECUTE format('UPDATE %s AS stored SET %s FROM %s AS held WHERE %s', stored, way.newer, archive, way.same_group);
  END IF;
  EXECUTE format(
    'INSERT INTO %s (%s) SELECT %s FROM %s AS held WHERE NOT EXISTS (SELECT FROM %s AS stored WHERE %s)',
    stored, way.columns, way.taken, archive, stored, way.same_group
  );
  EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s AS held WHERE %s)', archive, way.changed) INTO lossless;
  IF way.all_known AND lossless THEN
    EXECUTE format('DROP TABLE %s', archive);
  END IF;
END LOOP;""".strip()


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def set_refresh(aggregate: ContinuousAggregate) -> Step:
    refresh = aggregate.refresh
    start = "NULL" if refresh.start_offset is None else format_interval(refresh.start_offset)
    body = f"""
PERFORM remove_continuous_aggregate_policy('"{aggregate.name}"'::regclass, if_exists => true);
PERFORM add_continuous_aggregate_policy(
  '"{aggregate.name}"'::regclass,
  start_offset => {start}, end_offset => {format_interval(refresh.end_offset)}, schedule_interval => {format_interval(refresh.every)}
);"""
    return Step(guard(Needs.COMMUNITY, body), (Hold(aggregate.name, Lock.NONE),), Needs.COMMUNITY)


def fill_aggregate(table: str, time_column: str, aggregate: ContinuousAggregate) -> Step:
    """Refreshes from where all raw rows are there on: to refresh where some are gone would empty it.

    A refresh can't run in a transaction, nor in a DO block: `values` finds the bounds, which the statement names.
    """
    bucket = format_interval(aggregate.bucket)
    whole = f"""time_bucket({bucket}, min("{time_column}") + {bucket} - INTERVAL '1 microsecond')"""
    said = f"""obj_description('"{aggregate.name}"'::regclass, 'pg_class')"""
    since = f"greatest({whole}, substring({said} FROM '^{KNOWS_UNTIL}(.*)$')::timestamptz)"
    values = f"""
SELECT quote_nullable({since}) AS first,
       quote_nullable(time_bucket({bucket}, max("{time_column}")) + {bucket}) AS last
FROM "{table}"
HAVING {since} <= time_bucket({bucket}, max("{time_column}"))"""
    return Step(
        f"CALL refresh_continuous_aggregate('\"{aggregate.name}\"', :first, :last)",
        (Hold(aggregate.name, Lock.EXCLUSIVE), Hold(table, Lock.ACCESS_SHARE)),
        Needs.COMMUNITY,
        transactional=False,
        work=Work.GROWS,
        values=values.strip(),
    )
