"""What TimescaleDB has otherwise than the migrations made it: chunks, compression, policies, aggregates, each named."""

from __future__ import annotations

import pytest

from app.timescale.transitions import plan_catching_up
from tests.timescale.project import (
    COMPRESSION,
    MEAN,
    OTHER_COMPRESSION,
    PEAK,
    RETENTION,
    ROWS,
    Project,
    check,
    daily,
    declare,
    is_community,
    step,
    stop_jobs,
)

FULL = COMPRESSION + RETENTION + MEAN
ADDED = "is not in the migrations:"
SAID = "and the migrations say"
DAY = 'chunks of 1 day by "timestamp"'
SEGMENTED = 'segment 1 by machine_id, order 1 by "timestamp" desc nulls first'
COMPRESSING = 'policy readings.policy_compression {} every 12:00:00 {{"compress_after": "{}"}}'
RETAINING = 'policy readings.policy_retention {} every 1 day {{"drop_after": "{}"}}'
REFRESHING = (
    'policy readings_hourly.policy_refresh_continuous_aggregate {} every 01:00:00 {{"end_offset": "01:00:00", '
    '"start_offset": "{}"}}'
)
JOB = "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"


async def has_timescale(project: Project) -> bool:
    return await project.fetch("SELECT FROM pg_extension WHERE extname = 'timescaledb'") != []


async def require_community(project: Project) -> None:
    if not await is_community(project):
        pytest.skip("this edition has no policies")


async def test_every_declaration_is_in_step_once_it_is_applied(project: Project) -> None:
    declarations = ["None", daily(), daily(FULL), daily(OTHER_COMPRESSION + RETENTION + PEAK), daily(), "None"]
    for hypertable in declarations:
        await step(project, declare(hypertable))
        assert await check(project) == (0, [])
        await project.fetch("INSERT INTO machines VALUES ('A') ON CONFLICT DO NOTHING")
        await project.fetch(ROWS + "ON CONFLICT DO NOTHING")
    schemas = await project.fetch("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'aurum_check%'")
    assert schemas == []


async def test_another_chunk_interval_and_another_dimension_are_named(project: Project) -> None:
    await step(project, declare(daily()))
    if not await has_timescale(project):
        pytest.skip("this edition has no hypertables")
    await project.fetch("SELECT set_chunk_time_interval('readings', INTERVAL '3 days')")
    assert await check(project) == (3, [f'hypertable readings is chunks of 3 days by "timestamp", {SAID} {DAY}'])
    await project.fetch("SELECT set_chunk_time_interval('readings', INTERVAL '1 day')")
    await project.fetch("SELECT add_dimension('readings', by_hash('machine_id', 4))")
    assert await check(project) == (3, [f"hypertable readings is {DAY}, 4 partitions by machine_id, {SAID} {DAY}"])


async def test_a_table_that_is_no_hypertable_and_one_that_should_be_none_are_named(project: Project) -> None:
    await step(project, declare(daily()))
    if not await has_timescale(project):
        assert await check(project) == (0, [])
        return
    await project.fetch("CREATE TABLE plain (LIKE readings INCLUDING ALL)")
    await project.fetch("DROP TABLE readings")
    await project.fetch("ALTER TABLE plain RENAME TO readings")
    code, differences = await check(project)
    assert code == 3
    assert f"hypertable readings is missing: {DAY}" in differences
    await project.fetch("ALTER TABLE machines ADD COLUMN at timestamptz NOT NULL, DROP CONSTRAINT machines_pkey")
    await project.fetch("SELECT create_hypertable('machines', by_range('at'), create_default_indexes => false)")
    assert f"hypertable machines {ADDED} chunks of 7 days by at" in (await check(project))[1]


async def test_policies_that_are_missing_other_or_switched_off_are_named(project: Project) -> None:
    await step(project, declare(daily(FULL)))
    await require_community(project)
    await project.fetch("SELECT remove_compression_policy('readings')")
    await project.fetch("SELECT add_compression_policy('readings', INTERVAL '9 days')")
    await project.fetch(JOB)
    await project.fetch("SELECT remove_continuous_aggregate_policy('readings_hourly')")
    assert await check(project) == (
        3,
        [
            f'{COMPRESSING.format("is", "9 days")}, {SAID} every 12:00:00 {{"compress_after": "7 days"}}',
            f'{RETAINING.format("is", "365 days")}, switched off, {SAID} every 1 day {{"drop_after": "365 days"}}',
            REFRESHING.format("is missing:", "30 days"),
        ],
    )
    await project.fetch("SELECT remove_compression_policy('readings')")
    await project.fetch("SELECT remove_retention_policy('readings')")
    await project.fetch("SELECT add_retention_policy('readings', INTERVAL '30 days')")
    await project.fetch(
        "SELECT add_continuous_aggregate_policy('readings_hourly', INTERVAL '9 days', INTERVAL '1 hour', INTERVAL '1 hour')"
    )
    assert await check(project) == (
        3,
        [
            COMPRESSING.format("is missing:", "7 days"),
            f'{RETAINING.format("is", "30 days")}, {SAID} every 1 day {{"drop_after": "365 days"}}',
            f"{REFRESHING.format('is', '9 days')}, {SAID} every 01:00:00 "
            '{"end_offset": "01:00:00", "start_offset": "30 days"}',
        ],
    )


async def test_policies_and_compression_that_nobody_declared_are_named(project: Project) -> None:
    await step(project, declare(daily()))
    await require_community(project)
    await project.fetch("ALTER TABLE readings SET (timescaledb.compress)")
    await project.fetch("SELECT add_compression_policy('readings', INTERVAL '7 days')")
    await project.fetch("SELECT add_retention_policy('readings', INTERVAL '365 days')")
    await project.fetch("CREATE PROCEDURE tidy(job_id int, config jsonb) LANGUAGE sql AS 'SELECT 1'")
    await project.fetch("SELECT add_job('tidy', INTERVAL '2 hours')")
    code, differences = await check(project)
    assert code == 3
    assert [difference for difference in differences if not difference.startswith("function ")] == [
        f"compression readings {ADDED} in an order of TimescaleDB's choice",
        COMPRESSING.format(ADDED, "7 days"),
        RETAINING.format(ADDED, "365 days"),
        f"policy tidy {ADDED} every 02:00:00",
    ]


async def test_other_compression_and_none_are_named(project: Project) -> None:
    await step(project, declare(daily(COMPRESSION)))
    await require_community(project)
    await project.fetch("ALTER TABLE readings SET (timescaledb.compress, timescaledb.compress_segmentby = '')")
    assert await check(project) == (
        3,
        [f'compression readings is order 1 by "timestamp" desc nulls first, {SAID} {SEGMENTED}'],
    )
    await project.fetch("SELECT remove_compression_policy('readings')")
    await project.fetch("ALTER TABLE readings SET (timescaledb.compress = false)")
    assert await check(project) == (
        3,
        [f"compression readings is missing: {SEGMENTED}", COMPRESSING.format("is missing:", "7 days")],
    )


SHOWN = (
    "SELECT time_bucket('01:00:00'::interval, \"timestamp\") AS bucket, machine_id, "
    "count(*) AS readings{} FROM readings GROUP BY (time_bucket('01:00:00'::interval, \"timestamp\")), "
    "machine_id"
)
MEAN_SHOWN = SHOWN.format(", avg(value) AS mean")


async def test_an_aggregate_that_shows_something_else_or_nothing_new_is_named(project: Project) -> None:
    await step(project, declare(daily(MEAN)))
    await require_community(project)
    await project.fetch("ALTER MATERIALIZED VIEW readings_hourly SET (timescaledb.materialized_only = true)")
    assert await check(project) == (
        3,
        [f"aggregate readings_hourly is {MEAN_SHOWN}, materialized only, {SAID} {MEAN_SHOWN}"],
    )
    await project.fetch("DROP MATERIALIZED VIEW readings_hourly")
    assert await check(project) == (
        3,
        [f"aggregate readings_hourly is missing: {MEAN_SHOWN}", REFRESHING.format("is missing:", "30 days")],
    )
    for name in ("readings_hourly", "more"):
        await project.fetch(
            f"CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS "
            "SELECT time_bucket('1 hour', timestamp) AS bucket, machine_id, count(*) AS readings FROM readings "
            "GROUP BY 1, 2 WITH NO DATA"
        )
    assert await check(project) == (
        3,
        [
            f"aggregate more {ADDED} {SHOWN.format('')}",
            f"aggregate readings_hourly is {SHOWN.format('')}, {SAID} {MEAN_SHOWN}",
            REFRESHING.format("is missing:", "30 days"),
        ],
    )


async def test_history_that_a_migration_left_without_raw_rows_is_in_step(project: Project) -> None:
    await step(project, declare(daily(MEAN)))
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    if await is_community(project):
        await project.fetch("SELECT drop_chunks('readings', '2027-01-01'::timestamptz)")
    await step(project, declare(daily(PEAK)))
    if await is_community(project):
        stored = "SELECT materialized_only FROM timescaledb_information.continuous_aggregates"
        assert await project.fetch(stored) == [(True,)]
    assert await check(project) == (0, [])


async def test_catching_up_gives_what_is_lacking_and_changes_nothing_else(project: Project) -> None:
    await stop_jobs(project)
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


async def test_an_index_that_a_chunk_lacks_is_named(project: Project) -> None:
    await step(project, declare(daily()))
    if not await has_timescale(project):
        pytest.skip("this edition has no chunks")
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    assert await check(project) == (0, [])
    ((first, many),) = await project.fetch(
        "SELECT min(chunk::text), count(*)::int FROM show_chunks('readings') AS chunk"
    )
    ((index,),) = await project.fetch(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = $1::text::regclass AND NOT indisunique", first
    )
    await project.fetch(f"DROP INDEX {index}")
    assert await check(project) == (
        3,
        [
            f"index readings.readings_timestamp is {INDEX}, missing on 1 of {many} chunks "
            f"({first.partition('.')[2]}), {SAID} {INDEX}"
        ],
    )


INDEX = 'CREATE INDEX readings_timestamp ON readings USING btree ("timestamp")'


async def test_a_foreign_key_that_is_switched_off_on_a_chunk_is_named(project: Project) -> None:
    await step(project, declare(daily()))
    if not await has_timescale(project):
        pytest.skip("this edition has no chunks")
    await project.fetch("INSERT INTO machines VALUES ('A')")
    await project.fetch(ROWS)
    ((first, name),) = await project.fetch(
        "SELECT conrelid::regclass::text, quote_ident(conname) FROM pg_constraint WHERE contype = 'f' AND conrelid = "
        "(SELECT min(chunk::text) FROM show_chunks('readings') AS chunk)::regclass"
    )
    await project.fetch(
        "UPDATE pg_trigger SET tgenabled = 'D' WHERE tgisinternal AND tgrelid = $1::text::regclass", first
    )
    chunk = first.partition(".")[2]
    assert await check(project) == (3, [f"foreign key readings.{name} {ADDED} switched off on {chunk}"])


async def test_the_settings_of_a_policy_are_compared(project: Project) -> None:
    await step(project, declare(daily(RETENTION)))
    await require_community(project)
    await project.fetch(
        "SELECT alter_job(job_id, max_retries => 3) FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
    )
    assert await check(project) == (
        3,
        [
            "policy settings readings.policy_retention is whenever it is due, at most 3 attempts again, each 00:05:00 after, "
            f"and 00:05:00 long, {SAID} whenever it is due, at most -1 attempts again, each 00:05:00 after, and 00:05:00 long"
        ],
    )


async def test_the_same_time_in_other_words_is_the_same_policy_and_a_month_is_no_number_of_days(
    project: Project,
) -> None:
    await step(project, declare(daily(FULL)))
    await require_community(project)
    others = {
        "1 year": f'{RETAINING.format("is", "1 year")}, {SAID} every 1 day {{"drop_after": "365 days"}}',
        "365 days": None,
        "8760:00:00": None,
        "364 days 24:00:00": None,
        "365 days 00:00:01": f'{RETAINING.format("is", "365 days 00:00:01")}, {SAID} every 1 day {{"drop_after": "365 days"}}',
    }
    for span, said in others.items():
        await project.fetch("SELECT remove_retention_policy('readings')")
        await project.fetch("SELECT add_retention_policy('readings', $1::text::interval)", span)
        assert await check(project) == ((3, [said]) if said else (0, []))


@pytest.mark.parametrize("change", ["config - 'start_offset'", """config || '{"start_offset": null}'"""])
async def test_no_beginning_and_a_beginning_of_nothing_are_the_same(project: Project, change: str) -> None:
    await step(project, declare(daily(MEAN.replace("timedelta(days=30)", "None"))))
    await require_community(project)
    refresh = "FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'"
    await project.fetch(f"SELECT alter_job(job_id, config => {change}) {refresh}")
    assert await check(project) == (0, [])
    await project.fetch(f"""SELECT alter_job(job_id, config => config || '{{"start_offset": "9 days"}}') {refresh}""")
    assert await check(project) == (
        3,
        [
            f'{REFRESHING.format("is", "9 days")}, {SAID} every 01:00:00 {{"end_offset": "01:00:00"}}',
        ],
    )
