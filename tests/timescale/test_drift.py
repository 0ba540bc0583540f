"""`migrate-check`: what a live database has that the migrations didn't make, or lacks, on every edition."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import SchemaAhead
from app.migrations.check import check_database
from app.timescale.transitions import plan_catching_up
from tests.conftest import run_command, run_sql
from tests.timescale.project import (
    COMPRESSION,
    MEAN,
    OTHER_COMPRESSION,
    PEAK,
    RETENTION,
    ROWS,
    Project,
    daily,
    declare,
    is_community,
    step,
)

FULL = COMPRESSION + RETENTION + MEAN


async def check(project: Project) -> tuple[int, list[str]]:
    result = await check_database(project.engine, project.app)
    return result.exit_code, [str(difference) for difference in result.differences]


async def test_every_declaration_is_in_step_once_it_is_applied(project: Project) -> None:
    declarations = ["None", daily(), daily(FULL), daily(OTHER_COMPRESSION + RETENTION + PEAK), daily(), "None"]
    for hypertable in declarations:
        await step(project, declare(hypertable))
        assert await check(project) == (0, [])
        await project.fetch("INSERT INTO machines VALUES ('A') ON CONFLICT DO NOTHING")
        await project.fetch(ROWS + "ON CONFLICT DO NOTHING")
    schemas = await project.fetch("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'aurum_check%'")
    assert schemas == []


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("ALTER TABLE readings ADD COLUMN more int", "column readings.more is not in the migrations: integer"),
        (
            "ALTER TABLE readings ALTER COLUMN value DROP NOT NULL",
            "column readings.value is real, and the migrations say real not null",
        ),
        (
            "ALTER TABLE readings ALTER COLUMN value SET DEFAULT 7",
            "column readings.value is real not null default 7, and the migrations say real not null",
        ),
        (
            "ALTER TABLE readings DROP CONSTRAINT readings_value_known",
            "constraint readings.readings_value_known is missing: CHECK ((value >= (0)::double precision))",
        ),
        (
            "DROP INDEX readings_timestamp",
            'index readings.readings_timestamp is missing: CREATE INDEX readings_timestamp ON readings USING btree ("timestamp")',
        ),
        ("CREATE TABLE stranger (id int)", "table stranger is not in the migrations: a table"),
        ("DROP TABLE readings", "table readings is missing: a table"),
    ],
)
async def test_what_was_changed_by_hand_is_named(project: Project, statement: str, difference: str) -> None:
    await step(project, declare("None"))
    await project.fetch(statement)
    assert await check(project) == (3, [difference])


async def test_what_was_changed_of_a_hypertable_by_hand_is_named(project: Project) -> None:
    await step(project, declare(daily(FULL)))
    if not await is_community(project):
        pytest.skip("this edition has no policies")
    await project.fetch("SELECT set_chunk_time_interval('readings', INTERVAL '3 days')")
    await project.fetch("SELECT remove_retention_policy('readings')")
    await project.fetch("SELECT remove_compression_policy('readings')")
    await project.fetch("SELECT add_compression_policy('readings', INTERVAL '9 days')")
    await project.fetch("SELECT remove_continuous_aggregate_policy('readings_hourly')")
    code, differences = await check(project)
    assert code == 3
    assert [difference.split(" is ")[0] for difference in differences] == [
        "hypertable readings",
        "policy readings.policy_compression",
        "policy readings.policy_retention",
        "policy readings_hourly.policy_refresh_continuous_aggregate",
    ]
    assert "chunks of 3 days by timestamp, and the migrations say chunks of 1 day" in differences[0]
    await project.fetch("DROP MATERIALIZED VIEW readings_hourly")
    assert "aggregate readings_hourly is missing: " in (await check(project))[1][0]


async def test_catching_up_gives_what_is_lacking_and_changes_nothing_else(project: Project) -> None:
    await step(project, declare(daily(FULL)))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    if await is_community(project):
        await project.fetch("SELECT remove_retention_policy('readings')")
        await project.fetch("SELECT compress_chunk(chunk) FROM show_chunks('readings') AS chunk")
        assert (await check(project))[0] == 3
    for _ in range(2):
        for each in plan_catching_up("readings", project.find_declaration("readings")):
            if each.transactional:
                await project.fetch(each.sql)
        assert await check(project) == (0, [])
    assert await project.fetch("SELECT count(*) FROM readings") == [(1000,)]


async def test_what_is_to_be_applied_and_what_is_to_be_generated_are_told_apart(project: Project) -> None:
    await step(project, declare("None"))
    project.declare(declare(daily()))
    assert await check(project) == (4, [])
    draft = await project.generate()
    assert draft is not None
    result = await check_database(project.engine, project.app)
    assert (result.exit_code, result.pending, result.moved_on) == (2, [draft.migration_id], None)
    await project.forwards()
    assert await check(project) == (0, [])
    await project.fetch("INSERT INTO migration (name, app_name) VALUES ('2999-01-01T00:00:00:000000', 'app')")
    with pytest.raises(SchemaAhead):
        await check(project)


async def test_the_command_says_it_in_its_exit_code(empty_database_url: str) -> None:
    async def run(*options: str) -> tuple[int, str]:
        done = await asyncio.to_thread(
            run_command, "invoke", "migrate-check", *options, database_url=empty_database_url
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    code, output = await run()
    assert code == 2
    assert "is not applied: run invoke migrate." in output
    await asyncio.to_thread(run_command, "invoke", "migrate", database_url=empty_database_url)
    assert await run() == (0, "Migrations, database and tables are in step.\n")
    await run_sql(empty_database_url, "ALTER TABLE alerts ADD COLUMN extra int")
    assert await run() == (3, "column alerts.extra is not in the migrations: integer.\n")
    assert await run("--json") == (
        3,
        '{"pending":[],"differences":[{"kind":"column","name":"alerts.extra","expected":null,"actual":"integer"}],'
        '"moved_on":null,"exit_code":3}\n',
    )
