"""How large the tables of a live database are, and which tables a lock leads to. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from app.database import Connection
from app.timescale.steps import Hold, Reach, sum_holds


class Extent(msgspec.Struct, frozen=True):
    """A table with its indexes and, of a hypertable or a partitioned table, its `chunks`, which are None for any other.

    `rows` are PostgreSQL's estimate, None where it has none yet; of `uncounted` chunks that have rows it has none either.
    """

    rows: int | None
    size_bytes: int
    chunks: int | None
    uncounted: int


# Of $1, the oid of a table: the tables that its foreign keys refer to, those that refer to it, and its views with theirs.
# $2 is a constraint or a column that must have part in it, or empty. What is a part of another table isn't named.
_NAMED = """
SELECT DISTINCT CASE WHEN pg_table_is_visible(oid) THEN '' ELSE relnamespace::regnamespace::text || '.' END || relname
FROM pg_class WHERE oid <> $1::oid AND NOT relispartition AND oid NOT IN (SELECT inhrelid FROM pg_inherits) AND oid IN
"""
_KEYS = """
SELECT conrelid, confrelid FROM pg_constraint AS key
WHERE contype = 'f' AND ($2::text = '' OR conname = $2 OR conindid IN (SELECT oid FROM pg_class WHERE relname = $2)
   OR EXISTS (SELECT FROM pg_attribute WHERE attname = $2 AND attrelid = $1::oid
              AND attnum = ANY (CASE WHEN conrelid = $1::oid THEN conkey ELSE confkey END)))
"""
_VIEWS = """
WITH RECURSIVE views (view, source) AS (
  SELECT ev_class, refobjid FROM pg_rewrite JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
  WHERE refclassid = 'pg_class'::regclass AND refobjid <> ev_class
), found (oid) AS (SELECT view FROM views WHERE source = $1::oid UNION SELECT view FROM views JOIN found ON source = oid)
SELECT oid FROM found
"""
_REACHES = {
    Reach.INDEXED: "(SELECT indrelid FROM pg_index WHERE indexrelid = $1::oid AND $2::text = '')",
    Reach.REFERRED: f"(SELECT confrelid FROM ({_KEYS}) AS keys WHERE conrelid = $1::oid)",
    Reach.TIED: (
        f"(SELECT confrelid FROM ({_KEYS}) AS keys WHERE conrelid = $1::oid "
        f"UNION SELECT conrelid FROM ({_KEYS}) AS keys WHERE confrelid = $1::oid)"
    ),
    Reach.DEPENDENT: f"(SELECT conrelid FROM ({_KEYS}) AS keys WHERE confrelid = $1::oid UNION ({_VIEWS}))",
}


async def resolve_holds(connection: Connection, holds: Iterable[Hold]) -> tuple[Hold, ...]:
    """The holds with the tables that they lead to in this database; what a table that isn't there leads to stays as it is."""
    resolved: list[Hold] = []
    for hold in holds:
        oid = None if hold.reach is Reach.TABLE else await _find(connection, hold.table)
        if oid is None:
            resolved.append(hold)
        else:
            rows = await connection.fetch(_NAMED + _REACHES[hold.reach], oid, hold.part)
            resolved += [replace(hold, table=row[0], reach=Reach.TABLE, part="") for row in rows]
    return sum_holds(resolved)


async def measure_tables(connection: Connection, tables: Iterable[str]) -> dict[str, Extent]:
    """The extent of each of these tables that is there."""
    timescale = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')")
    found: dict[str, Extent] = {}
    for table in sorted(set(tables)):
        oid = await _find(connection, table)
        if oid is None:
            continue
        row = await connection.fetchrow(_HYPERTABLE, oid) if timescale else None
        row = row or await connection.fetchrow(_TABLE, oid)
        if row is not None:
            found[table] = Extent(*row)
    return found


async def _find(connection: Connection, table: str) -> int | None:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in table.split("."))
    oid: int | None = await connection.fetchval("SELECT to_regclass($1)::oid", quoted)
    return oid


# A hypertable, or the hypertable that an aggregate is stored in. Compressed chunks have their rows counted by TimescaleDB,
# which takes those that were never analyzed for empty.
_HYPERTABLE = """
WITH stored AS (
  SELECT format('%I.%I', hypertable_schema, hypertable_name)::regclass AS table, num_chunks
  FROM timescaledb_information.hypertables
  WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = coalesce(
    (SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)::regclass
     FROM timescaledb_information.continuous_aggregates
     WHERE format('%I.%I', view_schema, view_name)::regclass = $1::oid::regclass),
    $1::oid::regclass)
)
SELECT CASE WHEN uncounted = 0 OR uncounted < filled THEN approximate_row_count(stored.table) END AS rows,
       hypertable_size(stored.table) AS size_bytes, num_chunks AS chunks, uncounted
FROM stored CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE NOT is_compressed AND reltuples < 0 AND pg_relation_size(pg_class.oid) > 0) AS uncounted,
         count(*) FILTER (WHERE is_compressed OR pg_relation_size(pg_class.oid) > 0) AS filled
  FROM timescaledb_information.chunks JOIN pg_class ON pg_class.oid = format('%I.%I', chunk_schema, chunk_name)::regclass
  WHERE format('%I.%I', hypertable_schema, hypertable_name)::regclass = stored.table
) AS parts
"""
_TABLE = """
SELECT CASE WHEN relkind = 'p' THEN parts.rows WHEN reltuples >= 0 THEN reltuples::bigint END AS rows,
       CASE WHEN relkind = 'p' THEN parts.size_bytes ELSE pg_total_relation_size(oid) END AS size_bytes,
       CASE WHEN relkind = 'p' THEN parts.chunks END AS chunks,
       CASE WHEN relkind = 'p' THEN parts.uncounted ELSE 0 END AS uncounted
FROM pg_class CROSS JOIN LATERAL (
  SELECT sum(nullif(leaf.reltuples, -1))::bigint AS rows, coalesce(sum(pg_total_relation_size(leaf.oid)), 0)::bigint AS size_bytes,
         count(*) AS chunks, count(*) FILTER (WHERE leaf.reltuples < 0 AND pg_relation_size(leaf.oid) > 0) AS uncounted
  FROM pg_partition_tree(pg_class.oid) JOIN pg_class AS leaf ON leaf.oid = relid WHERE isleaf
) AS parts
WHERE oid = $1::oid AND relkind IN ('r', 'p', 'm')
"""
