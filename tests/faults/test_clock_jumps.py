"""The clock jumps by an hour while everything goes on: nothing that was acknowledged is lost, and nothing waits for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.client import ServiceClient
from tests.faults.clock import WallClock, make_clock
from tests.faults.load import Load, check_stored_at
from tests.faults.postgres import OwnPostgres, run_postgres
from tests.faults.processes import needs_proc, register, run_process
from tests.keys import PRODUCTION
from tests.scrape import scrape, wait_for_scrape
from tests.test_ingest import Connection, reading
from tests.test_tokens import SECRET, sign

pytestmark = needs_proc

HOUR = timedelta(hours=1)
MACHINES = ["PRESS-1", "PRESS-2"]
EVENTS = "subscription { measurements { measurements { machineId } } }"
QUERY = "{ machines(first: 1) { totalCount } }"  # costs 101


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return make_clock(tmp_path)


async def send_now(client: ServiceClient) -> Any:
    return await client.ingest(reading("NOW", datetime.now(UTC).isoformat()))


async def check_durations(client: ServiceClient, log: list[dict[str, Any]]) -> None:
    """None has a jump in it, in what is counted and in what is told of requests."""
    found = await scrape(client)
    names = ("http_request", "ingest_commit")
    sums = [value for name in names for _, value in found.list_samples(f"aurumai_{name}_duration_seconds_sum")]
    told = [line["seconds"] for line in log if "seconds" in line]
    assert len(sums) > 2
    assert len(told) > 30
    assert all(0 <= seconds < 900 for seconds in (*sums, *told))


async def test_a_service_whose_clock_jumps_goes_on_and_tells_by_the_readings_that_it_refuses(
    database_url: str, connection: Connection, clock: WallClock, tmp_path: Path
) -> None:
    async with (
        run_process(database_url, log=tmp_path / "log", AURUM_LOG_LEVEL="debug", **clock.environ) as process,
        ServiceClient(process.url) as client,
    ):
        await register(process, "NOW", *MACHINES)
        load = Load(process.url, MACHINES)
        async with client.subscribe(EVENTS) as events, load.run():
            for jump, expected in ((HOUR, {}), (-HOUR, {"FUTURE_TIMESTAMP": 1}), (timedelta(0), {})):
                clock.jump(jump)
                answer = await send_now(client)
                assert Counter(each["code"] for each in answer["rejected"]) == expected
                assert answer["accepted"] == 1 - sum(expected.values())
                await load.wait_for(10)
                while "PRESS-1" not in {each["machineId"] for each in (await events.next())["measurements"]}:
                    pass
                assert (await client.http.get("/health/ready")).status_code == 200
        assert load.sent_again == 0
        await check_durations(client, process.read_log())
        found = await scrape(client)
        assert found.read_all("aurumai_ingest_rejected_readings_total", "code") == {"FUTURE_TIMESTAMP": 1}
    await connection.execute("DELETE FROM raw_measurements WHERE machine_id = 'NOW'")
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == len(load.acknowledged)


async def test_a_token_that_was_refused_by_a_wrong_clock_is_let_in_by_the_right_one(
    database_url: str, connection: Connection, clock: WallClock
) -> None:
    half_an_hour = sign({"sub": "ana", "exp": int(time.time()) + 1800, "roles": ["viewer"]})
    over = sign({"sub": "ana", "exp": int(time.time()) - 1800, "roles": ["viewer"]})
    variables = {**PRODUCTION, "AURUM_JWT_SECRET": SECRET, **clock.environ}

    async def wait_for_status(token: str, status: int) -> None:
        async with ServiceClient(process.url, token) as client, asyncio.timeout(60):
            # What was found out of a token holds for some seconds.
            while (await client.http.post("/graphql", json={"query": QUERY})).status_code != status:  # noqa: ASYNC110 - as said
                await asyncio.sleep(0.1)

    async with (
        run_process(database_url, log=None, **variables) as process,
        ServiceClient(process.url, half_an_hour) as client,
    ):
        await wait_for_status(half_an_hour, 200)
        await wait_for_status(over, 401)
        async with client.subscribe(EVENTS) as events:
            clock.jump(HOUR)
            await wait_for_status(half_an_hour, 401)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await events.next_message()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403
        clock.jump(timedelta(0))
        await wait_for_status(half_an_hour, 200)
        async with client.subscribe(EVENTS) as events:
            clock.jump(-HOUR)
            await wait_for_status(over, 200)  # by that clock it isn't over
            await events.expect_silence()
        clock.jump(timedelta(0))
        await wait_for_status(over, 401)


@pytest.fixture
async def wrong_postgres(tmp_path: Path, clock: WallClock) -> AsyncIterator[OwnPostgres]:
    """A PostgreSQL that goes by that clock."""
    async with run_postgres(tmp_path / "postgres", clock) as postgres:
        yield postgres


async def ask_until_answered(client: ServiceClient) -> None:
    """Asks, and again when it's told to, which is soon."""
    async with asyncio.timeout(60):
        while (answer := await client.http.post("/graphql", json={"query": QUERY})).status_code != 200:
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            await asyncio.sleep(0.1)


async def test_a_clock_that_jumps_with_that_of_the_database_loses_nothing_and_locks_nobody_out(
    wrong_postgres: OwnPostgres, clock: WallClock, tmp_path: Path
) -> None:
    """All that was spent comes back within a second."""
    variables = {"AURUM_LOG_LEVEL": "debug", "AURUM_QUERY_ALLOWANCE": "60600", "AURUM_QUERY_BURST": "1010"}
    async with (
        run_process(wrong_postgres.url, log=tmp_path / "log", **variables, **clock.environ) as process,
        ServiceClient(process.url) as client,
    ):
        await register(process, *MACHINES)
        load = Load(process.url, MACHINES)
        async with client.subscribe(EVENTS) as events, load.run():
            for jump in (timedelta(0), HOUR, -HOUR, timedelta(0)):
                clock.jump(jump)
                await load.wait_for(10)
                while "PRESS-1" not in {each["machineId"] for each in (await events.next())["measurements"]}:
                    pass
                for _ in range(20):
                    await ask_until_answered(client)
                assert (await client.http.get("/health/ready")).status_code == 200
                found = await wait_for_scrape(client, "aurumai_database_up", 1)
                assert found.read("aurumai_outbox_lag_seconds") >= 0
                assert found.read("aurumai_outbox_oldest_event_age_seconds") >= 0
        assert load.sent_again == 0
        await check_durations(client, process.read_log())
    await check_stored_at(wrong_postgres.url, load.acknowledged)
