"""What a database holds, in a form that two databases can be compared by: rows and checksums of tables, chunks, policies.

A checksum is the sum of a 64-bit hash of each row's text, so it depends on every value of every row and on no order, and
is the same on every edition and version of the server. Rows of hypertables are read through them, compressed or not.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from app.console import Bar
from app.database import Connection, Edition, EditionName
from app.migrations.state import MARKER, list_migrations, read_state


class TableSum(msgspec.Struct, frozen=True):
    """A table, schema and name as SQL writes them, how many rows it has, and their checksum."""

    name: str
    rows: int
    checksum: str

    def __str__(self) -> str:
        return f"{self.rows:,} rows with the checksum {self.checksum}"


class Hypertables(msgspec.Struct, frozen=True):
    """How many chunks a database's hypertables have, and how many of these are compressed; its aggregates and policies."""

    chunks: int
    compressed_chunks: int
    aggregates: int
    policies: int

    def __str__(self) -> str:
        return (
            f"{self.chunks:,} chunks ({self.compressed_chunks:,} of them compressed), {self.aggregates:,} aggregates "
            f"and {self.policies:,} policies"
        )


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """A database as it was at `taken_at`."""

    taken_at: datetime
    database: str
    encoding: str
    edition: EditionName
    postgres_version: str
    timescale_version: str | None
    migrations: tuple[str, ...]
    owners: tuple[str, ...]
    roles: tuple[str, ...]  # those with rights on something that they don't own
    tables: tuple[TableSum, ...]
    hypertables: Hypertables | None

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


class DatabaseObject(msgspec.Struct, frozen=True):
    """Something that a person made in a database: its kind and name as SQL writes them, and the role that owns it."""

    kind: str
    name: str
    owner: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


async def read_contents(session: Connection, edition: Edition, show: Bar) -> Contents:
    """What the database holds; `show` is told of tables. Raises what asyncpg does, and what `read_state` does."""
    state = await read_state(session, list_migrations())
    (row,) = await session.fetch(
        "SELECT statement_timestamp(), current_database()::text, current_setting('server_encoding')"
    )
    return Contents(
        taken_at=row[0],
        database=row[1],
        encoding=row[2],
        edition=edition.name,
        postgres_version=edition.postgres_version,
        timescale_version=edition.timescale_version,
        migrations=tuple(sorted((*state.applied, *state.unknown))),
        owners=tuple(sorted({each.owner for each in await list_objects(session)})),
        roles=tuple(await list_roles(session)),
        tables=tuple(await sum_tables(session, edition, show)),
        hypertables=await count_hypertables(session, edition),
    )


async def list_objects(session: Connection) -> list[DatabaseObject]:
    """What is in the database that PostgreSQL and its extensions did not put there, tables first; chunks are tables too."""
    return [DatabaseObject(*row) for row in await session.fetch(_OBJECTS)]


async def list_roles(session: Connection) -> list[str]:
    """The roles that have rights or policies on something in the database without owning it."""
    rows = await session.fetch(
        """
        SELECT DISTINCT rolname::text AS name FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND refclassid = 'pg_authid'::regclass AND deptype IN ('a', 'r') ORDER BY 1
        """
    )
    return [row["name"] for row in rows]


async def sum_tables(session: Connection, edition: Edition, show: Bar) -> list[TableSum]:
    """Every table that has rows of its own, by name; of a hypertable, itself and not its chunks."""
    names = await session.fetch(_HYPERTABLES if edition.has_hypertables else _TABLES + "ORDER BY 1", MARKER)
    sums = []
    for done, (name, whole) in enumerate(names):
        show(done, len(names))
        (row,) = await session.fetch(
            # A row's name must be no column's.
            f'SELECT count(*), coalesce(sum(hashtextextended("the row"::text COLLATE "C", 0)), 0)::text '
            f'FROM {"" if whole else "ONLY"} {name} AS "the row"'
        )
        sums.append(TableSum(name, *row))
    show(len(names), len(names))
    return sums


async def count_hypertables(session: Connection, edition: Edition) -> Hypertables | None:
    """None where there is no TimescaleDB."""
    if not edition.has_hypertables:
        return None
    (row,) = await session.fetch(
        """
        SELECT count(*), count(*) FILTER (WHERE is_compressed),
               (SELECT count(*) FROM timescaledb_information.continuous_aggregates),
               (SELECT count(*) FROM timescaledb_information.jobs WHERE job_id >= 1000)
        FROM timescaledb_information.chunks
        """
    )
    return Hypertables(*row)


_OBJECTS = """
SELECT type, identity, pg_get_userbyid(owner)::text
FROM (
  SELECT 'pg_class'::regclass AS classid, oid AS objid, relnamespace AS namespace, relowner AS owner
  FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proowner FROM pg_proc
  UNION ALL SELECT 'pg_type'::regclass, pg_type.oid, typnamespace, typowner
    FROM pg_type LEFT JOIN pg_class ON pg_class.oid = typrelid WHERE typtype IN ('e', 'd', 'r') OR relkind = 'c'
  UNION ALL SELECT 'pg_namespace'::regclass, oid, oid, nspowner FROM pg_namespace WHERE nspname <> 'public'
) AS objects
JOIN pg_namespace ON pg_namespace.oid = namespace
CROSS JOIN pg_identify_object(classid, objid, 0)
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE pg_depend.classid = objects.classid
                  AND pg_depend.objid = objects.objid AND deptype = 'e')
ORDER BY type <> 'table', nspname = '_timescaledb_internal', type, identity
"""

# (name, whether its rows are read with those of the tables that inherit from it)
_TABLES = """
SELECT format('%I.%I', nspname, relname), false
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND relname <> $1
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""

_HYPERTABLES = f"""
WITH hypertables AS (
  SELECT format('%I.%I', hypertable_schema, hypertable_name) AS name FROM timescaledb_information.hypertables
  UNION SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
        FROM timescaledb_information.continuous_aggregates
), others AS (
  {_TABLES} AND nspname <> '_timescaledb_internal'
  EXCEPT SELECT format('%I.%I', chunk_schema, chunk_name), false FROM timescaledb_information.chunks
)
SELECT name, true FROM hypertables
UNION ALL SELECT * FROM others WHERE format NOT IN (SELECT name FROM hypertables)
ORDER BY 1
"""
