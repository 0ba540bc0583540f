"""What a schema holds, as the live catalogue says it, and how two of them differ. Reads only.

Names of schemas are left out of definitions, so that the same tables in two schemas are described alike.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from app.database import Connection, Edition

# (kind, name) of an object, and what defines it.
Catalogue: TypeAlias = dict[tuple[str, str], str]

# Tables that no migration declares: Piccolo's bookkeeping and ours, and what aggregates left behind.
OURS = r"\A(migration|migration_journal|migration_progress|migration_step|.*__archive)\Z"


class Difference(msgspec.Struct, frozen=True):
    """An object that isn't what the migrations say: `expected` None where they say nothing, `actual` None where it isn't."""

    kind: str
    name: str
    expected: str | None
    actual: str | None

    def __str__(self) -> str:
        if self.actual is None:
            return f"{self.kind} {self.name} is missing: {self.expected}"
        if self.expected is None:
            return f"{self.kind} {self.name} is not in the migrations: {self.actual}"
        return f"{self.kind} {self.name} is {self.actual}, and the migrations say {self.expected}"


def find_differences(expected: Catalogue, actual: Catalogue) -> list[Difference]:
    """The objects that are missing, extra or other, by kind and name; of a table that is missing or extra, only the table."""
    return [
        Difference(kind, name, expected.get((kind, name)), actual.get((kind, name)))
        for kind, name in sorted(expected.keys() | actual.keys())
        if expected.get((kind, name)) != actual.get((kind, name))
        and not _is_of_other_table(kind, name, expected, actual)
    ]


def _is_of_other_table(kind: str, name: str, expected: Catalogue, actual: Catalogue) -> bool:
    table = ("table", name.split(".", maxsplit=1)[0])
    return kind != "table" and (table in expected) != (table in actual) and table in expected.keys() | actual.keys()


async def read_catalogue(connection: Connection, schema: str, edition: Edition) -> Catalogue:
    """All that defines the tables of a schema: columns, constraints, indexes, and on TimescaleDB what hypertables have."""
    catalogue: Catalogue = {}
    for query in (_PLAIN, *((_HYPERTABLES,) if edition.has_hypertables else ())):
        for row in await connection.fetch(query, schema, OURS):
            catalogue[row["kind"], row["name"]] = " ".join(row["definition"].replace(f"{schema}.", "").split())
    return catalogue


_PLAIN = """
WITH tables AS (
  SELECT oid, relname FROM pg_class
  WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'p') AND relname !~ $2::text
)
SELECT 'table' AS kind, relname::text AS name, 'a table' AS definition FROM tables
UNION ALL
SELECT 'column', format('%s.%s', relname, attname),
       concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END,
                 'default ' || pg_get_expr(adbin, adrelid))
FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = tables.oid AND adnum = attnum
UNION ALL
SELECT 'constraint', format('%s.%s', relname, conname), pg_get_constraintdef(pg_constraint.oid)
FROM tables JOIN pg_constraint ON conrelid = tables.oid WHERE contype <> 'n'
UNION ALL
SELECT 'index', format('%s.%s', relname, indexname), indexdef
FROM tables JOIN pg_indexes ON schemaname = $1::text AND tablename = relname
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = tables.oid AND conname = indexname)
"""

_HYPERTABLES = """
SELECT 'hypertable' AS kind, hypertable_name::text AS name,
       format('chunks of %s by %s', time_interval, column_name) AS definition
FROM timescaledb_information.dimensions WHERE hypertable_schema = $1::text AND hypertable_name !~ $2::text
UNION ALL
SELECT 'compression', hypertable_name::text, string_agg(
         CASE WHEN segmentby_column_index IS NOT NULL THEN format('segment %s by %s', segmentby_column_index, attname)
              ELSE format('order %s by %s %s %s', orderby_column_index, attname,
                          CASE WHEN orderby_asc THEN 'asc' ELSE 'desc' END,
                          CASE WHEN orderby_nullsfirst THEN 'nulls first' ELSE 'nulls last' END) END,
         ', ' ORDER BY segmentby_column_index, orderby_column_index)
FROM timescaledb_information.compression_settings WHERE hypertable_schema = $1::text AND hypertable_name !~ $2::text
GROUP BY hypertable_name
UNION ALL
SELECT 'aggregate', view_name::text, view_definition
FROM timescaledb_information.continuous_aggregates WHERE view_schema = $1::text
UNION ALL
SELECT 'policy', format('%s.%s', coalesce(view_name, jobs.hypertable_name), proc_name),
       format('every %s %s', schedule_interval, config - 'hypertable_id' - 'mat_hypertable_id')
FROM timescaledb_information.jobs LEFT JOIN timescaledb_information.continuous_aggregates AS aggregates
  ON materialization_hypertable_schema = jobs.hypertable_schema AND materialization_hypertable_name = jobs.hypertable_name
WHERE coalesce(view_schema, jobs.hypertable_schema) = $1::text
"""
