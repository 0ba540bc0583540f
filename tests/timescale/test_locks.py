"""What is said of a statement's locks and work, against a server that runs it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from app.migrations.extent import resolve_holds
from app.timescale.hypertable import Compression, ContinuousAggregate, Hypertable, Refresh
from app.timescale.locks import describe_statement, settle_new
from app.timescale.retypes import refuse_changes
from app.timescale.steps import ANYTHING, Lock, Step, Work, describe_step
from app.timescale.tokens import split_statements
from app.timescale.transitions import plan_transition
from tests.conftest import make_database
from tests.timescale.project import Project, is_community

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
CREATE SCHEMA s;
CREATE TABLE parent (id int PRIMARY KEY, name text);
CREATE TABLE child (id int PRIMARY KEY, parent_id int REFERENCES parent, n int);
CREATE TABLE plain (id int NOT NULL, n int, label varchar(20), other int);
ALTER TABLE plain ADD CONSTRAINT n_known CHECK (n >= 0) NOT VALID;
ALTER TABLE plain ADD CONSTRAINT plain_fk FOREIGN KEY (other) REFERENCES parent NOT VALID;
CREATE INDEX plain_n ON plain (n);
CREATE UNIQUE INDEX plain_id ON plain (id);
CREATE TABLE side (id int);
CREATE VIEW v AS SELECT id FROM side;
CREATE MATERIALIZED VIEW mv AS SELECT id FROM side;
CREATE UNIQUE INDEX mv_id ON mv (id);
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE high (id int);
CREATE SEQUENCE counter;
CREATE TYPE mood AS ENUM ('good');
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER tr BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION f();
CREATE POLICY p ON plain;
CREATE RULE r AS ON UPDATE TO plain WHERE false DO INSTEAD NOTHING;
INSERT INTO parent VALUES (1, 'a');
INSERT INTO child VALUES (1, 1, 1);
INSERT INTO plain VALUES (1, 1, 'x', 1);
INSERT INTO side VALUES (7);
INSERT INTO high VALUES (12);
"""

# What it does to the rows, and the statements that do it: all that Piccolo writes, and what raw steps usually are.
STATEMENTS: dict[Work, list[str]] = {
    Work.NOTHING: [
        'CREATE TABLE "fresh" ("id" BIGSERIAL PRIMARY KEY NOT NULL, "name" TEXT NOT NULL DEFAULT null)',
        'CREATE TABLE "fresh" ("id" INTEGER REFERENCES "parent" ("id") ON DELETE RESTRICT ON UPDATE CASCADE DEFAULT null)',
        "CREATE TABLE IF NOT EXISTS fresh (id int, FOREIGN KEY (id) REFERENCES parent (id))",
        "CREATE TABLE fresh (id int PRIMARY KEY, up int REFERENCES fresh)",
        "CREATE TABLE fresh (LIKE plain INCLUDING ALL, more int)",
        "CREATE TABLE fresh (more int, LIKE plain)",
        "CREATE TABLE fresh () INHERITS (side)",
        "CREATE TABLE fresh PARTITION OF parted FOR VALUES FROM (20) TO (30)",
        "CREATE UNLOGGED TABLE fresh (id int)",
        'ALTER TABLE "plain" ADD COLUMN "x" INTEGER DEFAULT null',
        'ALTER TABLE "plain" ADD COLUMN "x" INTEGER NOT NULL DEFAULT 3',
        'ALTER TABLE "plain" ADD COLUMN "x" TEXT NOT NULL DEFAULT \'a, b\'',
        'ALTER TABLE "plain" ADD COLUMN "x" TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, ADD y numeric(5, 2)',
        "ALTER TABLE plain ADD COLUMN x timestamptz DEFAULT now()",
        "ALTER TABLE plain ADD COLUMN x int REFERENCES parent",
        'ALTER TABLE "plain" DROP COLUMN "n"',
        'ALTER TABLE "child" DROP COLUMN "parent_id"',
        'ALTER TABLE "plain" RENAME COLUMN "n" TO "m"',
        "ALTER TABLE plain RENAME TO plane",
        "ALTER TABLE plain RENAME CONSTRAINT n_known TO known",
        'ALTER TABLE "plain" SET SCHEMA "s"',
        'ALTER TABLE "plain" ALTER COLUMN "n" SET DEFAULT 5',
        'ALTER TABLE "plain" ALTER COLUMN "n" DROP DEFAULT',
        'ALTER TABLE "plain" ALTER COLUMN "id" DROP NOT NULL',
        "ALTER TABLE plain ALTER n SET STATISTICS 100",
        "ALTER TABLE plain ALTER COLUMN n SET (n_distinct = 5)",
        "ALTER TABLE plain ALTER COLUMN n SET STATISTICS 100, ALTER COLUMN n DROP DEFAULT",
        "ALTER TABLE plain ALTER COLUMN label SET STORAGE plain",
        "ALTER TABLE plain ALTER COLUMN label SET COMPRESSION pglz",
        "ALTER TABLE plain ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE plain ADD CONSTRAINT c CHECK (n > 0) NOT VALID",
        "ALTER TABLE plain ADD CONSTRAINT c FOREIGN KEY (n) REFERENCES parent NOT VALID",
        "ALTER TABLE plain ADD CONSTRAINT c UNIQUE USING INDEX plain_id",
        'ALTER TABLE "plain" DROP CONSTRAINT IF EXISTS n_known',
        'ALTER TABLE "plain" DROP CONSTRAINT "plain_fk"',
        "ALTER TABLE parent DROP CONSTRAINT parent_pkey CASCADE",
        "ALTER TABLE plain ALTER CONSTRAINT plain_fk DEFERRABLE",
        "ALTER TABLE plain OWNER TO current_user",
        "ALTER TABLE plain SET (fillfactor = 70, autovacuum_enabled = false)",
        "ALTER TABLE plain RESET (fillfactor)",
        "ALTER TABLE plain SET (user_catalog_table = true)",
        "ALTER TABLE plain DISABLE TRIGGER tr",
        "ALTER TABLE plain ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE plain DISABLE RULE r",
        "ALTER TABLE plain REPLICA IDENTITY FULL",
        "ALTER TABLE plain CLUSTER ON plain_n",
        "ALTER TABLE high INHERIT side",
        "ALTER TABLE parted DETACH PARTITION low",
        "ALTER INDEX plain_n RENAME TO plain_m",
        "ALTER SEQUENCE counter OWNED BY plain.id",
        "ALTER VIEW v RENAME TO w",
        "ALTER MATERIALIZED VIEW mv RENAME TO w",
        "ALTER TYPE mood ADD VALUE 'bad'",
        "ALTER TRIGGER tr ON plain RENAME TO tr2",
        "ALTER POLICY p ON plain TO PUBLIC",
        "CREATE VIEW w AS SELECT * FROM plain JOIN side USING (id)",
        "CREATE OR REPLACE VIEW v AS SELECT id FROM plain",
        "CREATE MATERIALIZED VIEW w AS SELECT * FROM plain WITH NO DATA",
        "CREATE TRIGGER tr2 BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE RULE r2 AS ON DELETE TO plain DO INSTEAD NOTHING",
        "CREATE POLICY p2 ON plain",
        "CREATE STATISTICS st ON id, n FROM plain",
        "CREATE SEQUENCE more OWNED BY plain.id",
        "CREATE TYPE other AS ENUM ('x')",
        'CREATE SCHEMA IF NOT EXISTS "s2"',
        "CREATE OR REPLACE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        'DROP TABLE "child"',
        'DROP TABLE "parent" CASCADE',
        "DROP TABLE side, child CASCADE",
        "DROP INDEX IF EXISTS plain_n",
        "DROP VIEW v",
        "DROP MATERIALIZED VIEW mv",
        "DROP TRIGGER tr ON plain",
        "DROP POLICY p ON plain",
        "DROP RULE r ON plain",
        "DROP SEQUENCE counter",
        "DROP TYPE mood",
        "DROP SCHEMA s",
        "TRUNCATE side",
        "TRUNCATE TABLE parent RESTART IDENTITY CASCADE",
        "LOCK TABLE plain",
        "LOCK plain IN SHARE UPDATE EXCLUSIVE MODE",
        "COMMENT ON TABLE plain IS 'it''s; -- plain'",
        "COMMENT ON COLUMN plain.n IS 'x'",
        "COMMENT ON CONSTRAINT n_known ON plain IS 'x'",
        "COMMENT ON INDEX plain_n IS 'x'",
        "GRANT USAGE ON SCHEMA s TO PUBLIC",
        "INSERT INTO side VALUES (2), (3)",
        "INSERT INTO side (id) VALUES (2) ON CONFLICT DO NOTHING",
        "SET LOCAL work_mem = '10MB'",
        "SELECT setval('counter', 5)",
        "SHOW work_mem",
    ],
    Work.READS: [
        str(refuse_changes("plain", "n", "INTEGER", "REAL")),
        'ALTER TABLE "plain" ADD COLUMN "x" INTEGER REFERENCES "parent" ("id") ON DELETE CASCADE DEFAULT null',
        'ALTER TABLE "plain" ADD COLUMN "x" INTEGER NOT NULL DEFAULT 1 REFERENCES "parent" ("id")',
        "ALTER TABLE plain ADD COLUMN x int CHECK (x > 0)",
        'ALTER TABLE "plain" ALTER COLUMN "n" SET NOT NULL',
        'ALTER TABLE "plain" ADD CONSTRAINT "c" CHECK (n > 0)',
        "ALTER TABLE plain ADD CHECK (n > 0)",
        'ALTER TABLE "plain" ADD CONSTRAINT "c" FOREIGN KEY ("n") REFERENCES "parent" ("id") ON DELETE CASCADE',
        "ALTER TABLE plain ADD FOREIGN KEY (n) REFERENCES plain (id)",
        "ALTER TABLE plain VALIDATE CONSTRAINT n_known",
        "ALTER TABLE plain VALIDATE CONSTRAINT plain_fk",
        "ALTER TABLE parted ATTACH PARTITION high FOR VALUES FROM (10) TO (20)",
    ],
    Work.INDEXES: [
        "CREATE INDEX i ON plain USING btree (n)",
        "CREATE UNIQUE INDEX IF NOT EXISTS i ON ONLY plain (id) WHERE n > 0",
        "ALTER TABLE plain ADD COLUMN x int UNIQUE",
        'ALTER TABLE "plain" ADD COLUMN "x" INTEGER PRIMARY KEY NOT NULL DEFAULT 1',
        'ALTER TABLE "plain" ADD CONSTRAINT "c" UNIQUE NULLS NOT DISTINCT ("n", "label")',
        'ALTER TABLE "plain" ADD UNIQUE ("n")',
        'ALTER TABLE "plain" ADD CONSTRAINT plain_pkey PRIMARY KEY ("id", "n")',
        "ALTER TABLE plain ADD CONSTRAINT c EXCLUDE USING btree (n WITH =)",
        "REINDEX TABLE plain",
        "REINDEX INDEX plain_n",
    ],
    Work.REWRITES: [
        'ALTER TABLE "plain" ADD COLUMN "x" UUID NOT NULL DEFAULT gen_random_uuid()',
        "ALTER TABLE plain ADD COLUMN x timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE plain ADD COLUMN x bigserial",
        "ALTER TABLE plain ADD COLUMN x int GENERATED ALWAYS AS (n * 2) STORED",
        "ALTER TABLE plain ADD COLUMN x int GENERATED BY DEFAULT AS IDENTITY",
        "CLUSTER plain USING plain_n",
    ],
    Work.GROWS: [
        "CREATE TABLE fresh AS SELECT * FROM plain",
        "CREATE MATERIALIZED VIEW w AS SELECT n::text, count(*) FROM plain GROUP BY 1",
        "REFRESH MATERIALIZED VIEW mv",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY mv",
        "INSERT INTO side SELECT n FROM plain",
        "INSERT INTO child SELECT 2, 1, n FROM plain",
        "UPDATE plain SET n = 2",
        "UPDATE plain SET n = side.id FROM side WHERE side.id <> plain.id",
        "DELETE FROM plain USING side WHERE side.id <> plain.id",
        "WITH gone AS (DELETE FROM side RETURNING id) INSERT INTO plain (id) SELECT id FROM gone",
        "MERGE INTO high USING side ON side.id <> high.id WHEN MATCHED THEN UPDATE SET id = 1",
        "SELECT * FROM plain",
        "SELECT * FROM plain FOR UPDATE",
        "SELECT setval('counter', (SELECT count(*) FROM plain))",
    ],
}
# Whether these write the rows anew depends on what the table is, which the statement doesn't say.
UNSURE = {
    'ALTER TABLE "plain" ALTER COLUMN "label" TYPE TEXT': False,
    'ALTER TABLE "plain" ALTER COLUMN "label" TYPE VARCHAR(30)': False,
    'ALTER TABLE "plain" ALTER COLUMN "label" TYPE VARCHAR(10)': True,
    'ALTER TABLE "plain" ALTER COLUMN "n" TYPE BIGINT USING n::BIGINT': True,
    "ALTER TABLE child ALTER parent_id SET DATA TYPE bigint": True,
    "ALTER TABLE parent ALTER COLUMN id TYPE bigint": True,
    "ALTER TABLE plain SET UNLOGGED": True,
    "ALTER TABLE plain SET LOGGED": False,
    "ALTER TABLE plain ADD COLUMN x text DEFAULT repeat('a', 3)": False,
}

RELATIONS = """
SELECT oid::int, oid::regclass::text AS name, relfilenode::int AS file FROM pg_class
WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace::regnamespace::text IN ('public', 's')
"""
# A PostgreSQL in WebAssembly has one process, the number of which it doesn't know.
LOCKS = """
SELECT relation::int AS oid, mode FROM pg_locks
WHERE locktype = 'relation' AND granted AND (pid = $1 OR $1 = 0)
"""
READS = "SELECT coalesce(sum(seq_tup_read), 0)::int FROM pg_stat_xact_user_tables WHERE relname IN ('plain', 'high', 'side')"


@pytest.fixture(scope="module")
async def connection(server_url: str) -> AsyncIterator[Connection]:
    async with make_database(server_url) as url:
        opened = await asyncpg.connect(url)
        await opened.execute(TABLES)
        yield opened
        await opened.close()


def read_mode(mode: str) -> Lock:
    """AccessShareLock as pg_locks has it."""
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in mode.removesuffix("Lock"))
    return Lock[words[1:].upper()]


async def observe(connection: Connection, sql: str, pid: int) -> tuple[dict[str, Lock], bool]:
    """Runs it: the strongest lock on each table, NEW on one that it makes, and whether a table got another file."""
    before = {row["oid"]: row for row in await connection.fetch(RELATIONS)}
    await connection.execute(sql)
    after = {row["oid"]: row for row in await connection.fetch(RELATIONS)}
    found: dict[str, Lock] = {}
    for row in await connection.fetch(LOCKS, pid):
        known = before.get(row["oid"]) or after.get(row["oid"])
        if known is not None:
            lock = read_mode(row["mode"]) if row["oid"] in before else Lock.NEW
            found[known["name"]] = max(found.get(known["name"], Lock.NONE), lock)
    rewritten = any(before[oid]["file"] != after[oid]["file"] for oid in before.keys() & after.keys())
    return found, rewritten


async def check_locks(connection: Connection, step: Step, *, at_most: frozenset[str] = frozenset()) -> bool:
    """Runs a step in the transaction that is open, and compares the locks; whether it wrote a table anew.

    On the tables `at_most` they may be weaker than is said.
    """
    said = {hold.table: hold.lock for hold in await resolve_holds(connection, step.holds)}
    said = {table: lock for table, lock in said.items() if lock is not Lock.NONE}
    found, rewritten = await observe(connection, step.sql, await connection.fetchval("SELECT pg_backend_pid()"))
    # Only DDL waits for these, and a statement doesn't name the tables behind a view.
    weak = {Lock.ACCESS_SHARE, Lock.ROW_SHARE}
    found = {table: lock for table, lock in found.items() if lock not in weak or table in said}
    for table in at_most & found.keys() & said.keys():
        assert not said[table] < found[table]
        found[table] = said[table]
    assert found == said
    return rewritten


@pytest.mark.parametrize(
    ("work", "sql"), [(work, sql) for work, statements in STATEMENTS.items() for sql in statements]
)
async def test_a_statement_locks_and_does_what_is_said_of_it(connection: Connection, work: Work, sql: str) -> None:
    step = describe_statement(sql)
    assert step.work is work
    transaction = connection.transaction()
    await transaction.start()
    try:
        reads = await connection.fetchval(READS)
        rewritten = await check_locks(connection, step)
        reads = await connection.fetchval(READS) - reads
    finally:
        await transaction.rollback()
    assert rewritten is (work is Work.REWRITES or sql.startswith(("TRUNCATE", "REFRESH MATERIALIZED VIEW mv")))
    assert (reads > 0) is (work is not Work.NOTHING)


@pytest.mark.parametrize(("sql", "rewrites"), UNSURE.items())
async def test_what_depends_on_the_table_is_said_to(connection: Connection, sql: str, rewrites: bool) -> None:
    step = describe_statement(sql)
    assert step.work is Work.MAY_REWRITE
    transaction = connection.transaction()
    await transaction.start()
    try:
        assert await check_locks(connection, step) is rewrites
    finally:
        await transaction.rollback()


async def test_granting_on_a_table_locks_it_from_version_18_on(connection: Connection) -> None:
    step = describe_statement("GRANT SELECT ON plain TO PUBLIC")
    assert [(hold.table, hold.lock) for hold in step.holds] == [("plain", Lock.ACCESS_SHARE)]
    async with connection.transaction():
        found, _ = await observe(connection, step.sql, connection.get_server_pid())
    assert found == ({"plain": Lock.ACCESS_SHARE} if connection.get_server_version().major >= 18 else {})


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON side (id)",
        "DROP INDEX CONCURRENTLY side_id",
        "REINDEX INDEX CONCURRENTLY side_id",
        "REINDEX TABLE CONCURRENTLY side",
    ],
)
async def test_what_runs_beside_writes_lets_them_go_on(empty_database_url: str, sql: str) -> None:
    step = describe_statement(sql, transactional=False)
    writer, runner, onlooker = [await asyncpg.connect(empty_database_url) for _ in range(3)]
    try:
        await writer.execute("CREATE TABLE side (id int); CREATE INDEX side_id ON side (id)")
        said = {hold.table: hold.lock for hold in await resolve_holds(onlooker, step.holds)}
        assert said == {"side": Lock.SHARE_UPDATE_EXCLUSIVE}
        await writer.execute("BEGIN; INSERT INTO side VALUES (1)")
        running = asyncio.create_task(runner.execute(sql))
        held = f"SELECT mode FROM ({LOCKS}) AS locks WHERE oid = 'side'::regclass::int"
        while await onlooker.fetchval(held, runner.get_server_pid()) != "ShareUpdateExclusiveLock":  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)
        await writer.execute("INSERT INTO side VALUES (2); COMMIT")
        await running
    finally:
        for each in (writer, runner, onlooker):
            await each.close()


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ BEGIN DROP TABLE plain; END $$",
        "CALL something('plain')",
        "SELECT compress_chunk(chunk) FROM show_chunks('plain') AS chunk",
        "DROP SCHEMA s CASCADE",
        "DROP OWNED BY current_user",
        "ALTER DATABASE aurum SET timezone = 'UTC'",
        "UPDATE WHERE (",
        "",
    ],
)
def test_what_cannot_be_read_is_said_to_lock_anything(sql: str) -> None:
    step = describe_statement(sql)
    assert set(ANYTHING) <= set(step.holds)
    assert describe_step(step).startswith("-- any table: a lock that AurumAI can't tell")


def test_an_action_that_cannot_be_read_has_its_table_named() -> None:
    step = describe_statement("ALTER TABLE plain FLIP COLUMN n")
    assert [(hold.table, hold.lock) for hold in step.holds] == [("plain", Lock.UNKNOWN)]


def test_names_are_read_as_the_catalogue_has_them() -> None:
    step = describe_statement('ALTER TABLE /* no */ ONLY s."Mixed ""Case""" -- nor this: plain\n ADD COLUMN X int')
    assert [(hold.table, hold.lock) for hold in step.holds] == [('s.Mixed "Case"', Lock.ACCESS_EXCLUSIVE)]


def test_nobody_waits_for_a_table_that_the_transaction_made_itself() -> None:
    statements = [
        "CREATE TABLE a (id int REFERENCES parent)",
        "CREATE INDEX i ON a (id)",
        "INSERT INTO a SELECT id FROM parent",
        "CREATE INDEX j ON a (id)",
        "ALTER TABLE b ADD FOREIGN KEY (x) REFERENCES a",
    ]
    steps = settle_new([describe_statement(sql) for sql in statements])
    assert [describe_step(step) for step in steps] == [
        "-- parent: SHARE ROW EXCLUSIVE (reads go on, writes wait); a: new, nobody waits",
        "-- a: new, nobody waits",
        "-- parent: ACCESS SHARE (reads and writes go on); a: new, nobody waits",
        "-- a: new, nobody waits; builds an index over every row",
        "-- b: SHARE ROW EXCLUSIVE (reads go on, writes wait); a: new, nobody waits; reads every row",
    ]


def test_a_comment_says_what_else_a_lock_leads_to() -> None:
    assert describe_step(describe_statement('DROP TABLE "machines" CASCADE')) == (
        "-- machines, the tables that machines refers to, the tables and views that depend on machines: "
        "ACCESS EXCLUSIVE (reads and writes wait)"
    )
    assert describe_step(describe_statement("DROP INDEX i")) == (
        "-- the table of the index i: ACCESS EXCLUSIVE (reads and writes wait)"
    )


# --- our own steps ------------------------------------------------------------------------------------------------

READINGS = """
CREATE TABLE machines (machine_id text PRIMARY KEY);
CREATE TABLE readings (machine_id text NOT NULL REFERENCES machines, timestamp timestamptz NOT NULL, value real,
  PRIMARY KEY (machine_id, timestamp));
INSERT INTO machines VALUES ('A');
INSERT INTO readings SELECT 'A', '2026-01-01'::timestamptz + n * interval '10 minutes', n FROM generate_series(0, 999) AS n
"""
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


def make_aggregate(name: str, days: int = 30) -> ContinuousAggregate:
    return ContinuousAggregate(
        name, HOUR, ("machine_id",), (("readings", "count(*)"),), Refresh(HOUR, days * DAY, HOUR)
    )


def declare(**more: Any) -> Hypertable:
    return Hypertable("timestamp", **{"chunk_interval": DAY, **more})


SEGMENTED = Compression(7 * DAY, ("machine_id",), ("timestamp DESC",))
# From each to the next, with every kind of step on the way.
WAY = [
    None,
    declare(),
    declare(chunk_interval=2 * DAY),
    declare(chunk_interval=2 * DAY, compression=SEGMENTED),
    declare(chunk_interval=2 * DAY, compression=Compression(9 * DAY)),
    declare(chunk_interval=2 * DAY, compression=Compression(9 * DAY), retention=365 * DAY),
    declare(chunk_interval=2 * DAY, aggregates=(make_aggregate("hourly"),)),
    declare(chunk_interval=2 * DAY, aggregates=(make_aggregate("hourly", 20), make_aggregate("again"))),
    declare(chunk_interval=2 * DAY, aggregates=(make_aggregate("again"),)),
    declare(chunk_interval=2 * DAY),
    None,
]


# Where an aggregate comes or goes: from version 2.23 on TimescaleDB has no trigger for it on the table.
NO_TRIGGER = frozenset({"readings"})


async def test_our_own_steps_take_the_locks_that_are_said_of_them(project: Project) -> None:
    for statement in split_statements(READINGS):
        await project.fetch(statement)
    community = await is_community(project)
    hypertables = await project.fetch("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'") != []
    connection = await project.engine.get_new_connection()
    checked = 0
    try:
        for old, new in itertools.pairwise(WAY):
            if community and old is not None and old.compression is not None:
                await connection.execute("SELECT compress_chunk(chunk, true) FROM show_chunks('readings') AS chunk")
            for step in plan_transition("readings", old, new):
                if not step.transactional:
                    continue  # its locks come and go with its own transactions
                async with connection.transaction():
                    if community or (hypertables and step.needs.name == "HYPERTABLES"):
                        await check_locks(
                            connection, step, at_most=NO_TRIGGER if "MATERIALIZED VIEW" in step.sql else frozenset()
                        )
                        checked += 1
                    else:
                        await connection.execute(step.sql)
    finally:
        await connection.close()
    assert checked == (18 if community else 3 if hypertables else 0)


async def test_an_aggregate_of_a_raw_step_locks_its_table(project: Project) -> None:
    if not await is_community(project):
        pytest.skip("this edition has no aggregates")
    for statement in split_statements(READINGS):
        await project.fetch(statement)
    await project.fetch("SELECT create_hypertable('readings', by_range('timestamp'), migrate_data => true)")
    step = describe_statement(
        "CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS "
        "SELECT time_bucket('1 hour', timestamp) AS bucket, count(*) FROM readings GROUP BY 1 WITH NO DATA"
    )
    connection = await project.engine.get_new_connection()
    try:
        async with connection.transaction():
            await check_locks(connection, step, at_most=NO_TRIGGER)
    finally:
        await connection.close()
