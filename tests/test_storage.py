"""What `storage` says of chunks, compression, policies and migrations, on every edition."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.database import EditionName, probe_edition
from app.graphql.storage import Hypertable, Policy
from app.migrations.state import list_migrations
from app.timescale.catalogue import HypertableState, PolicyState, read_hypertables, read_policies
from tests.client import ServiceClient
from tests.timescale.conftest import project as project  # noqa: PLC0414 - a fixture, found by its name here
from tests.timescale.project import COMPRESSION, MEAN, RETENTION, Project, daily, declare, step, stop_jobs

DAY = timedelta(days=1)

# Four days; the two before the last are compressed. Its workers don't run here, so the runs are written down as they do.
READINGS = """
    INSERT INTO machines VALUES ('A');
    INSERT INTO readings SELECT 'A', at, 1
    FROM generate_series('2026-01-01'::timestamptz, '2026-01-04 23:59:00+00', '1 minute') AS at
"""
COMPRESS = "SELECT compress_chunk(chunk) FROM show_chunks('readings', older_than => '2026-01-03'::timestamptz) AS chunk"
RUNS = """
    INSERT INTO _timescaledb_internal.bgw_job_stat (
      job_id, last_start, last_finish, next_start, last_successful_finish, last_run_success, total_runs, total_duration,
      total_duration_failures, total_successes, total_failures, total_crashes, consecutive_failures, consecutive_crashes, flags
    )
    SELECT job_id, '2026-01-05 01:00+00', '2026-01-05 01:01+00', '2026-01-06 01:00+00', {succeeded},
           {success}, 3, '1 s', '0', 2, 1, 0, 0, 0, 0
    FROM timescaledb_information.jobs WHERE proc_name = '{job}'
"""


async def test_compression_and_policies_are_told_with_their_last_runs(project: Project) -> None:
    await stop_jobs(project)
    await step(project, declare(daily(COMPRESSION + RETENTION + MEAN)))
    connection: asyncpg.Connection[asyncpg.Record] = await project.engine.get_new_connection()
    try:
        edition = await probe_edition(connection, timescale="auto")
        await connection.execute(READINGS)
        if edition.name is EditionName.COMMUNITY:
            await connection.execute(COMPRESS)
            runs = (
                ("policy_retention", "true", "'2026-01-05 01:01+00'"),
                ("policy_compression", "false", "'-infinity'"),
            )
            for job, success, succeeded in runs:
                await connection.execute(RUNS.format(job=job, success=success, succeeded=succeeded))
        hypertables = await read_hypertables(connection, edition)
        policies = await read_policies(connection, edition)
    finally:
        await connection.close()
    if edition.name is EditionName.NONE:
        assert (hypertables, policies) == ([], [])
        return
    (readings,) = hypertables
    assert (readings.table, readings.time_column, readings.chunk_interval) == ("readings", "timestamp", DAY)
    assert readings.chunks == 4
    assert readings.size_bytes > 200_000
    if edition.name is EditionName.APACHE:
        assert (readings.compressed_chunks, policies) == (None, [])
        return
    assert readings.compressed_chunks == 2
    assert readings.before_bytes > 2 * readings.after_bytes > 0
    started, again = datetime(2026, 1, 5, 1, tzinfo=UTC), datetime(2026, 1, 6, 1, tzinfo=UTC)
    hour = timedelta(hours=1)
    assert policies == [
        PolicyState("policy_compression", "readings", DAY / 2, True, started, None, "Failed", again, 3, 1),
        PolicyState("policy_retention", "readings", DAY, True, started, started + hour / 60, "Success", again, 3, 1),
        PolicyState("policy_refresh_continuous_aggregate", "readings_hourly", hour, True, None, None, None, None, 0, 0),
    ]
    assert Policy.view(policies[1]).last_status == "Success"


@pytest.mark.parametrize(
    ("compressed", "before", "after", "shown"),
    [(None, 0, 0, None), (0, 0, 0, (0, None)), (2, 900, 300, (2, 3.0))],
)
def test_the_ratio_of_compression_is_of_what_is_compressed(
    compressed: int | None, before: int, after: int, shown: tuple[int, float | None] | None
) -> None:
    state = HypertableState("readings", "timestamp", DAY, 4, 5000, compressed, before, after)
    compression = Hypertable.view(state).compression
    assert (None if compression is None else (compression.chunks, compression.ratio)) == shown


async def test_a_client_sees_the_chunks_that_readings_made_and_the_migrations(
    service: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await service.register("PRESS-1")
    await service.ingest(
        [
            {"machine_id": "PRESS-1", "timestamp": f"2026-01-0{day}T12:00:00Z", "metrics": {"a": day}}
            for day in (1, 2, 3)
        ]
    )
    newest = list_migrations()[-1]
    await connection.execute("DELETE FROM migration WHERE name = $1", newest)
    storage = (
        await service.ask(
            """{ storage {
                edition policies { job lastStatus nextStartAt } migrations { applied pending }
                hypertables { table chunks sizeBytes compression { chunks ratio } }
            } }"""
        )
    )["storage"]
    assert storage["policies"] == []
    assert storage["migrations"] == {"applied": list(list_migrations()[:-1]), "pending": [newest]}
    tables = {each["table"]: each for each in storage["hypertables"]}
    if storage["edition"] == "NONE":
        assert tables == {}
    else:
        raw = tables["raw_measurements"]
        assert (raw["chunks"], raw["compression"]) == (3, None)
        assert raw["sizeBytes"] >= 3 * 8192
        assert tables["features"]["chunks"] == 0
