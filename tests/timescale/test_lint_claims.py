"""What migrate-lint says that TimescaleDB refuses: the servers of the tests refuse it."""

from __future__ import annotations

import asyncpg
import pytest

from tests.test_lint import CASES, REAL, TABLES, Case
from tests.timescale.project import Project, is_community

MORE = (
    "ALTER TABLE readings ADD CONSTRAINT known CHECK (value >= 0) NOT VALID",
    "ALTER TABLE packed ADD CONSTRAINT known CHECK (value >= 0) NOT VALID",
    'CREATE UNIQUE INDEX one_index ON readings ("timestamp", value)',
    "CREATE UNIQUE INDEX size_index ON machines (size)",
    "INSERT INTO machines (machine_id) VALUES ('A')",
    *(
        f"INSERT INTO {table} SELECT 'A', '2026-01-01'::timestamptz + n * interval '1 hour', n FROM generate_series(0, 99) AS n"
        for table in ("readings", "packed", "summed")
    ),
)
COMPRESS = "SELECT compress_chunk(chunk) FROM show_chunks('packed') AS chunk"


async def prepare(project: Project) -> None:
    if await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'") == []:
        pytest.skip("the server has no TimescaleDB")
    project.declare(TABLES.format(packed=REAL))
    await project.generate()
    await project.forwards()
    for statement in MORE:
        await project.fetch(statement)


async def test_what_it_says_that_timescaledb_refuses_is_refused_and_its_neighbour_is_not(project: Project) -> None:
    await prepare(project)
    community = await is_community(project)
    if community:
        await project.fetch(COMPRESS)
    connection: asyncpg.Connection[asyncpg.Record] = await project.engine.get_new_connection()
    try:
        for case in CASES:
            if case.refused is not None and (community or not case.community):
                await refuse(connection, case)
    finally:
        await connection.close()


async def refuse(connection: asyncpg.Connection[asyncpg.Record], case: Case) -> None:
    assert case.refused is not None
    said = await answer(connection, case.broken, transactional=case.transactional)
    assert case.refused in said, f"{case.broken}: {said}"
    if case.transactional:  # TimescaleDB in WebAssembly has no CONCURRENTLY
        assert await answer(connection, case.fine, transactional=True) == "done", case.fine


async def answer(connection: asyncpg.Connection[asyncpg.Record], sql: str, *, transactional: bool) -> str:
    """What the server says to a statement, which is undone again."""
    if transactional:
        await connection.execute("BEGIN")
    try:
        await connection.execute(sql)
    except asyncpg.PostgresError as error:
        return str(error)
    else:
        return "done"
    finally:
        if transactional:
            await connection.execute("ROLLBACK")


async def test_rows_that_move_into_chunks_are_locked_against_everyone(project: Project) -> None:
    await prepare(project)
    await project.fetch("CREATE TABLE more AS SELECT * FROM readings")
    connection = await project.engine.get_new_connection()
    try:
        await connection.execute("BEGIN")
        await connection.execute("SELECT create_hypertable('more', by_range('timestamp'), migrate_data => true)")
        locks = await connection.fetch("SELECT mode FROM pg_locks WHERE relation = 'more'::regclass")
        assert "AccessExclusiveLock" in {row["mode"] for row in locks}
    finally:
        await connection.close()


async def test_not_null_default_null_leaves_nulls_in_compressed_rows(project: Project) -> None:
    await prepare(project)
    if not await is_community(project):
        pytest.skip("compression is Community's")
    await project.fetch(COMPRESS)
    await project.fetch("ALTER TABLE packed ADD COLUMN note text NOT NULL DEFAULT null")
    assert await project.fetch("SELECT count(*), count(note || '') FROM packed") == [(100, 0)]


async def test_a_retention_shorter_than_the_refresh_window_spoils_the_aggregate(project: Project) -> None:
    await prepare(project)
    if not await is_community(project):
        pytest.skip("policies are Community's")
    ((hour,),) = await project.fetch("SELECT quote_literal(time_bucket('1 hour', now() - interval '15 days'))")
    hour = f"{hour}::timestamptz"  # the same one in every statement, whatever the clock says by then
    await project.fetch(
        f"INSERT INTO summed SELECT 'A', {hour} + n * interval '1 minute', n FROM generate_series(1, 9) AS n"
    )
    await project.fetch("CALL refresh_continuous_aggregate('summed_hourly', NULL, NULL)")
    mean = f"SELECT mean FROM summed_hourly WHERE bucket = {hour}"
    assert await project.fetch(mean) == [(5.0,)]
    await project.fetch("SELECT add_retention_policy('summed', INTERVAL '7 days')")
    jobs = dict(await project.fetch("SELECT proc_name::text, job_id FROM timescaledb_information.jobs"))
    await project.fetch(f"CALL run_job({jobs['policy_retention']})")
    assert await project.fetch(mean) == [(5.0,)]
    await project.fetch(f"INSERT INTO summed VALUES ('A', {hour} + interval '10 minutes', 100)")
    await project.fetch(f"CALL run_job({jobs['policy_refresh_continuous_aggregate']})")
    assert await project.fetch(mean) == [(100.0,)]
