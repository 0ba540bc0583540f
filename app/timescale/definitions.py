"""What defines the objects of a schema, in the server's own words. Reads only.

Names are written as in SQL ("timestamp" has its quotes); what belongs to a table comes after the table's name and a point.
The name of the schema is left out of definitions, so that the same tables in two schemas are described alike. Who owns
what, grants, comments and storage parameters are the operator's and not part of it, nor is what an extension brought.
"""

from __future__ import annotations

from typing import TypeAlias

from app.database import Connection
from app.timescale.tape import write_literal
from app.timescale.tokens import Kind, Token, read_tokens, replace_places

# (kind, name) of an object, and what defines it. Columns come in their order, views after those they stand on.
Catalogue: TypeAlias = dict[tuple[str, str], str]

# Tables that no migration declares: Piccolo's bookkeeping and ours, and what aggregates left behind.
OURS = r"\A(migration|migration_journal|migration_progress|migration_step|.*__archive(_\d+)?)\Z"

# What a migration writes on an aggregate that it left with its own rows alone (see transitions).
STORED_ROWS_ALONE = "shows what is stored in it and doesn't look at newer rows"
# What it writes on one that has from an archive what no row tells any more; a time follows.
KNOWS_UNTIL = "knows from an archive what was before "


async def read_catalogue(
    connection: Connection, schema: str, *, hypertables: bool, live: str | None = None
) -> Catalogue:
    """All that the schema holds; `hypertables` with what TimescaleDB, which must be there, adds to it.

    `live` is the schema in whose place this one was made: its name is left out too.
    """
    rows = await connection.fetch(_PLAIN, schema, OURS)
    if hypertables:
        rows += await connection.fetch(_HYPERTABLES, schema, OURS)
    catalogue = {
        (row["kind"], row["name"]): _strip_schemas(row["definition"], {schema, live or schema})
        for row in sorted(rows, key=lambda row: (row["place"], row["kind"], row["name"]))
        if row["definition"] is not None  # of something that is being dropped just now
    }
    for kind, name in list(catalogue):
        if kind == "aggregate":
            del catalogue["view", name]  # which is how PostgreSQL sees it
    return catalogue


def _strip_schemas(definition: str, schemas: set[str]) -> str:
    """A definition without the names of these schemas where they qualify others; what a text says stays as it is."""
    tokens = read_tokens(definition)
    places = []
    for before, token, following, last in zip([None, *tokens], tokens, tokens[1:], [*tokens[2:], None], strict=False):
        is_name = token.kind in {Kind.WORD, Kind.QUOTED} and token.value in schemas
        if is_name and _is(following, ".") and not _is(before, "."):
            places.append((token.start, following.end, ""))
        elif token.kind is Kind.STRING and _is(following, "::") and last and last.value in _OF_NAMES:
            name = _strip_schemas(token.value, schemas)
            if name != token.value:
                places.append((token.start, token.end, write_literal(name)))
    return replace_places(definition, places)


# The types whose values are names of objects, written with their schema unless search_path leads to it.
_OF_NAMES = {"regclass", "regproc", "regprocedure", "regtype", "regoper", "regoperator", "regcollation", "regconfig"}


def _is(token: Token | None, symbol: str) -> bool:
    return token is not None and token.kind is Kind.SYMBOL and token.value == symbol


def unquote(name: str) -> str:
    """A name as it is, of one as in SQL."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


_PLAIN = r"""
WITH here AS (SELECT oid AS schema FROM pg_namespace WHERE nspname = $1::text),
borrowed AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
relations AS (
  SELECT pg_class.*, pg_class.oid AS relation, quote_ident(relname) AS name FROM pg_class JOIN here ON relnamespace = schema
  WHERE relkind IN ('r', 'p', 'v', 'm') AND relname !~ $2::text
    AND ('pg_class'::regclass, oid) NOT IN (SELECT classid, objid FROM borrowed)
),
tables AS (SELECT * FROM relations WHERE relkind IN ('r', 'p')),
-- A chunk has no foreign key or index by itself: it gets its own of each, by which rows are kept or found.
chunks AS (
  SELECT inhparent AS hypertable, pg_class.oid AS chunk, relname AS chunk_name FROM pg_inherits
  JOIN pg_class ON pg_class.oid = inhrelid
  WHERE relkind = 'r' AND relnamespace = to_regnamespace('_timescaledb_internal')
),
-- Without their conditions and expressions: of those, a chunk's index has its own words.
indexes AS (
  SELECT indexrelid AS index, indrelid AS of, indisvalid AS valid, (
    indisunique, relam, indnkeyatts, indclass, indcollation, indoption, indpred IS NULL, ARRAY(
      SELECT attname FROM unnest(indkey) WITH ORDINALITY AS keys (number, place)
      LEFT JOIN pg_attribute ON attrelid = indrelid AND attnum = number ORDER BY place
    )
  ) AS made
  FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
),
torn AS (
  SELECT index, format(', missing on %s of %s chunks (%s)', count(*) FILTER (WHERE NOT there), count(*),
                       min(chunk_name) FILTER (WHERE NOT there)) AS said
  FROM indexes JOIN tables ON of = relation JOIN chunks ON hypertable = relation
  CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM indexes AS own WHERE own.of = chunk AND own.valid AND own.made = indexes.made)) AS found (there)
  GROUP BY index HAVING NOT bool_and(there)
)
SELECT 'table' AS kind, name,
       concat_ws(' ', CASE relpersistence WHEN 'u' THEN 'an unlogged table' ELSE 'a table' END,
                 'partitioned by ' || pg_get_partkeydef(relation), pg_get_expr(relpartbound, relation)) AS definition,
       0 AS place
FROM tables
UNION ALL
SELECT 'replica identity', name, CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || (
         SELECT quote_ident(relname) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
         WHERE indrelid = relation AND indisreplident) END, 0
FROM tables WHERE relreplident <> 'd'
UNION ALL
SELECT 'row level security', name, CASE WHEN relforcerowsecurity THEN 'forced' ELSE 'enabled' END, 0
FROM tables WHERE relrowsecurity
UNION ALL
SELECT 'column', format('%s.%I', name, attname),
       concat_ws(' ', format_type(atttypid, atttypmod),
                 CASE WHEN attcollation <> typcollation THEN 'COLLATE ' || attcollation::regcollation END,
                 CASE WHEN attnotnull THEN 'NOT NULL' END,
                 CASE WHEN attgenerated = '' THEN 'DEFAULT ' || pg_get_expr(adbin, adrelid) END,
                 CASE WHEN attgenerated <> '' THEN format('GENERATED ALWAYS AS (%s) %s', pg_get_expr(adbin, adrelid),
                                                          CASE attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END) END,
                 CASE attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY'
                                  WHEN 'd' THEN 'GENERATED BY DEFAULT AS IDENTITY' END),
       attnum
FROM tables JOIN pg_attribute ON attrelid = relation AND attnum > 0 AND NOT attisdropped
JOIN pg_type ON pg_type.oid = atttypid
LEFT JOIN pg_attrdef ON adrelid = relation AND adnum = attnum
UNION ALL
-- NOT NULL is said by the columns: only PostgreSQL 18 lists it here.
SELECT 'constraint', format('%s.%I', name, conname),
       concat(pg_get_constraintdef(pg_constraint.oid), CASE WHEN contype IN ('p', 'u', 'x') THEN said END), 0
FROM tables JOIN pg_constraint ON conrelid = relation AND contype NOT IN ('n', 't') LEFT JOIN torn ON index = conindid
UNION ALL
-- Both sides have triggers, which DISABLE TRIGGER ALL switches off, on a chunk too.
SELECT 'foreign key', format('%s.%I', name, conname),
       'switched off on ' || string_agg(DISTINCT quote_ident(off.relname), ', ' ORDER BY quote_ident(off.relname)), 0
FROM (SELECT name, relation AS part FROM tables UNION ALL
      SELECT name, chunk FROM tables JOIN chunks ON hypertable = relation) AS parts
JOIN pg_constraint ON conrelid = part AND contype = 'f'
JOIN pg_trigger ON tgconstraint = pg_constraint.oid AND tgenabled IN ('D', 'R') JOIN pg_class AS off ON off.oid = tgrelid
GROUP BY name, conname
UNION ALL
SELECT 'index', format('%s.%I', name, made.relname),
       concat(pg_get_indexdef(indexrelid), CASE WHEN NOT indisvalid THEN ' INVALID' END, said), 0
FROM relations JOIN pg_index ON indrelid = relation JOIN pg_class AS made ON made.oid = indexrelid
LEFT JOIN torn ON index = indexrelid
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = indrelid AND conindid = indexrelid AND contype <> 'f')
UNION ALL
SELECT 'trigger', format('%s.%I', name, tgname),
       concat_ws('; ', pg_get_triggerdef(pg_trigger.oid), 'ALTER TABLE ' || name || CASE tgenabled
         WHEN 'D' THEN ' DISABLE' WHEN 'R' THEN ' ENABLE REPLICA' WHEN 'A' THEN ' ENABLE ALWAYS' END
         || ' TRIGGER ' || quote_ident(tgname)), 0
FROM relations JOIN pg_trigger ON tgrelid = relation AND NOT tgisinternal
JOIN pg_proc ON pg_proc.oid = tgfoid JOIN pg_namespace ON pg_namespace.oid = pronamespace
WHERE nspname !~ '\A_timescaledb_'
UNION ALL
SELECT 'rule', format('%s.%I', name, rulename),
       concat_ws('; ', rtrim(pg_get_ruledef(pg_rewrite.oid), ';'), 'ALTER TABLE ' || name || CASE ev_enabled
         WHEN 'D' THEN ' DISABLE' WHEN 'R' THEN ' ENABLE REPLICA' WHEN 'A' THEN ' ENABLE ALWAYS' END
         || ' RULE ' || quote_ident(rulename)), 0
FROM relations JOIN pg_rewrite ON ev_class = relation AND rulename <> '_RETURN'
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, name, rtrim(pg_get_viewdef(relation), ';'),
       relation::int8
FROM relations WHERE relkind IN ('v', 'm')
UNION ALL
SELECT 'sequence', concat_ws('.', quote_ident(owner.relname), quote_ident(made.relname)),
       concat_ws(' ', 'AS ' || format_type(seqtypid, NULL),
                 'INCREMENT BY ' || nullif(seqincrement, 1), 'MINVALUE ' || nullif(seqmin, 1),
                 'MAXVALUE ' || nullif(seqmax, (2::numeric ^ (8 * typlen - 1) - 1)::int8),
                 'START WITH ' || nullif(seqstart, 1), 'CACHE ' || nullif(seqcache, 1), CASE WHEN seqcycle THEN 'CYCLE' END,
                 'OWNED BY ' || quote_ident(owner.relname) || '.' || quote_ident(attname)), 0
FROM pg_sequence JOIN pg_class AS made ON made.oid = seqrelid JOIN here ON relnamespace = schema
JOIN pg_type ON pg_type.oid = seqtypid
LEFT JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = seqrelid AND refobjsubid > 0 AND deptype IN ('a', 'i')
LEFT JOIN pg_class AS owner ON owner.oid = refobjid
LEFT JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
-- The sequence of an identity column is a part of it.
WHERE deptype IS DISTINCT FROM 'i' AND coalesce(owner.relname !~ $2::text, true)
  AND ('pg_class'::regclass, seqrelid) NOT IN (SELECT classid, objid FROM borrowed)
UNION ALL
SELECT 'type', quote_ident(typname),
       format('ENUM (%s)', string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)), 0
FROM pg_type JOIN here ON typnamespace = schema JOIN pg_enum ON enumtypid = pg_type.oid
WHERE ('pg_type'::regclass, pg_type.oid) NOT IN (SELECT classid, objid FROM borrowed) GROUP BY typname
UNION ALL
SELECT 'type', quote_ident(relname), format('(%s)', string_agg(
         concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
                   CASE WHEN attcollation <> made.typcollation THEN 'COLLATE ' || attcollation::regcollation END),
         ', ' ORDER BY attnum)), 0
FROM pg_class JOIN here ON relnamespace = schema
LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_type AS made ON made.oid = atttypid
WHERE relkind = 'c' AND ('pg_type'::regclass, reltype) NOT IN (SELECT classid, objid FROM borrowed)
GROUP BY relname
UNION ALL
SELECT 'type', quote_ident(typname), format('RANGE (%s)', concat_ws(', ', 'SUBTYPE = ' || format_type(rngsubtype, NULL),
         'SUBTYPE_DIFF = ' || nullif(rngsubdiff::oid, 0)::regproc, 'CANONICAL = ' || nullif(rngcanonical::oid, 0)::regproc)), 0
FROM pg_type JOIN here ON typnamespace = schema JOIN pg_range ON rngtypid = pg_type.oid
WHERE ('pg_type'::regclass, pg_type.oid) NOT IN (SELECT classid, objid FROM borrowed)
UNION ALL
SELECT 'domain', quote_ident(typname),
       concat_ws(' ', format_type(typbasetype, typtypmod), 'DEFAULT ' || typdefault, CASE WHEN typnotnull THEN 'NOT NULL' END,
         (SELECT string_agg(format('CONSTRAINT %I %s', conname, pg_get_constraintdef(pg_constraint.oid)), ' ' ORDER BY conname)
          FROM pg_constraint WHERE contypid = pg_type.oid AND contype = 'c')), 0
FROM pg_type JOIN here ON typnamespace = schema
WHERE typtype = 'd' AND ('pg_type'::regclass, pg_type.oid) NOT IN (SELECT classid, objid FROM borrowed)
UNION ALL
SELECT 'aggregate function', format('%I(%s)', proname, pg_get_function_identity_arguments(pg_proc.oid)),
       concat_ws(', ', 'SFUNC = ' || aggtransfn, 'STYPE = ' || format_type(aggtranstype, NULL),
                 'FINALFUNC = ' || nullif(aggfinalfn::oid, 0)::regproc, 'COMBINEFUNC = ' || nullif(aggcombinefn::oid, 0)::regproc,
                 'INITCOND = ' || quote_literal(agginitval), 'PARALLEL = ' || CASE proparallel WHEN 's' THEN 'SAFE'
                 WHEN 'r' THEN 'RESTRICTED' END), 0
FROM pg_proc JOIN here ON pronamespace = schema JOIN pg_aggregate ON aggfnoid = pg_proc.oid
WHERE ('pg_proc'::regclass, pg_proc.oid) NOT IN (SELECT classid, objid FROM borrowed)
UNION ALL
-- Those of a range belong to its type.
SELECT 'function', format('%I(%s)', proname, pg_get_function_identity_arguments(pg_proc.oid)),
       rtrim(pg_get_functiondef(pg_proc.oid)), 0
FROM pg_proc JOIN here ON pronamespace = schema
WHERE prokind IN ('f', 'p', 'w') AND ('pg_proc'::regclass, pg_proc.oid) NOT IN (
  SELECT classid, objid FROM borrowed
  UNION ALL SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_type'::regclass AND deptype = 'i')
"""

# How a person or another version writes an interval, or that there is none, makes no other policy: 48:00:00 is 2 days for
# whoever looks back from now, as far as hours and days go. A month has no length in days, and stays one.
_HYPERTABLES = rf"""
WITH jobs AS (
  SELECT jobs.*, concat_ws('.', quote_ident(coalesce(view_name, jobs.hypertable_name)), proc_name) AS job, CASE
           WHEN proc_schema !~ '\A_timescaledb_' THEN config ELSE (
             SELECT coalesce(jsonb_object_agg(key, CASE
               WHEN key = ANY ('{{drop_after,compress_after,start_offset,end_offset}}') AND jsonb_typeof(value) = 'string'
               THEN to_jsonb(justify_hours((value #>> '{{}}')::interval)::text) ELSE value END), '{{}}')
             FROM jsonb_each(config) WHERE jsonb_typeof(value) <> 'null' AND key NOT IN ('hypertable_id', 'mat_hypertable_id')
           ) END AS said
  FROM timescaledb_information.jobs LEFT JOIN timescaledb_information.continuous_aggregates AS aggregates
    ON materialization_hypertable_schema = jobs.hypertable_schema AND materialization_hypertable_name = jobs.hypertable_name
  WHERE coalesce(view_schema, jobs.hypertable_schema, proc_schema) = $1::text
)
SELECT 'hypertable' AS kind, quote_ident(hypertable_name) AS name,
       string_agg(CASE WHEN num_partitions IS NULL THEN format('chunks of %s by %I', time_interval, column_name)
                       ELSE format('%s partitions by %I', num_partitions, column_name) END,
                  ', ' ORDER BY dimension_number) AS definition, 0 AS place
FROM timescaledb_information.dimensions WHERE hypertable_schema = $1::text AND hypertable_name !~ $2::text
GROUP BY hypertable_name
UNION ALL
SELECT 'compression', quote_ident(hypertable_name), coalesce(string_agg(
         CASE WHEN segmentby_column_index IS NOT NULL THEN format('segment %s by %I', segmentby_column_index, attname)
              WHEN attname IS NOT NULL
              THEN format('order %s by %I %s %s', orderby_column_index, attname,
                          CASE WHEN orderby_asc THEN 'asc' ELSE 'desc' END,
                          CASE WHEN orderby_nullsfirst THEN 'nulls first' ELSE 'nulls last' END) END,
         ', ' ORDER BY segmentby_column_index, orderby_column_index), 'in an order of TimescaleDB''s choice'), 0
FROM timescaledb_information.hypertables
LEFT JOIN timescaledb_information.compression_settings USING (hypertable_schema, hypertable_name)
WHERE hypertable_schema = $1::text AND hypertable_name !~ $2::text AND compression_enabled GROUP BY hypertable_name
UNION ALL
SELECT 'aggregate', quote_ident(view_name), concat_ws(', ', rtrim(view_definition, ';'),
       CASE WHEN materialized_only AND obj_description(format('%I.%I', view_schema, view_name)::regclass, 'pg_class')
                                       IS DISTINCT FROM '{STORED_ROWS_ALONE.replace("'", "''")}'
            THEN 'materialized only' END,
       CASE WHEN compression_enabled THEN 'compressed' END), 0
FROM timescaledb_information.continuous_aggregates WHERE view_schema = $1::text
UNION ALL
SELECT 'policy', job, concat_ws(', ', format('every %s %s', justify_hours(schedule_interval), said),
                                CASE WHEN NOT scheduled THEN 'switched off' END), 0
FROM jobs
UNION ALL
SELECT 'policy settings', job, format('%s, at most %s attempts again, each %s after, and %s long', CASE
         WHEN fixed_schedule THEN 'at fixed times' ELSE 'whenever it is due' END, max_retries, retry_period, max_runtime), 0
FROM jobs
"""
