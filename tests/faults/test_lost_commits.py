"""A connection to PostgreSQL that breaks at COMMIT: the answer says what has become of the readings."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import httpx
import pytest

from tests.client import ServiceClient
from tests.conftest import run_service
from tests.faults import ROUNDS
from tests.faults.load import START, Key, check_stored
from tests.faults.processes import needs_proc, run_process
from tests.faults.proxy import Cut, run_proxy
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count

pytestmark = needs_proc

PATIENT = {"AURUM_INGEST_DEADLINE": "PT50S"}


@pytest.mark.parametrize("cut", Cut)
async def test_a_commit_whose_answer_was_lost_is_looked_up_and_counted_once(
    database_url: str, connection: Connection, cut: Cut
) -> None:
    expected: dict[Key, float] = {}
    # Once by COPY, and once by a merge, since the first of each pair is stored already.
    async with run_proxy(database_url) as proxy, run_service(proxy.url, **PATIENT) as service:
        await service.register("PRESS-1")
        for second in range(3):
            rows = [reading(timestamp=at(number), rpm=number) for number in range(second, second + 2)]
            expected |= {("PRESS-1", START + timedelta(seconds=number)): number for number in range(second, second + 2)}
            proxy.cuts.append(cut)
            assert await service.ingest(rows) == (count(accepted=1, duplicates=1) if second else count(accepted=2))
            assert not proxy.cuts
    await check_stored(connection, expected)


async def test_a_server_that_has_said_goodbye_and_not_hung_up_yet_is_an_outage(
    database_url: str, connection: Connection
) -> None:
    """As every process of a PostgreSQL does of which another one has crashed."""
    async with run_proxy(database_url) as proxy, run_service(proxy.url, **PATIENT) as service:
        await service.register("PRESS-1")
        for second in range(3):
            proxy.farewells = 1
            answers = await asyncio.gather(
                *(service.ingest(reading(timestamp=at(second * 10 + number), rpm=number)) for number in range(10))
            )
            assert answers == [count(accepted=1)] * 10
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 30


async def test_a_service_that_vanishes_before_commit_does_not_stop_the_others(
    database_url: str, connection: Connection
) -> None:
    """As a machine that loses its power: PostgreSQL hears nothing of it, and holds what the transaction has locked."""
    async with (
        run_proxy(database_url) as proxy,
        # After so long PostgreSQL ends a transaction of which it hears nothing; no statement of a start takes it.
        run_process(proxy.url, AURUM_STATEMENT_TIMEOUT="PT5S") as vanishing,
        run_service(database_url, **PATIENT) as service,
    ):
        await service.register("PRESS-1")
        async with ServiceClient(vanishing.url) as client:
            proxy.cuts.append(Cut.HALF)
            lost = asyncio.create_task(client.ingest(reading(timestamp=at(1))))
            await asyncio.wait_for(proxy.has_cut.wait(), 60)
            vanishing.kill()
            with pytest.raises(httpx.TransportError):
                await lost
        assert await service.ingest(reading(timestamp=at(2), rpm=2)) == count(accepted=1)
    await check_stored(connection, {("PRESS-1", START + timedelta(seconds=2)): 2.0})


@pytest.mark.timeout(270 + 30 * ROUNDS)
async def test_commits_that_are_lost_at_random_leave_each_reading_counted_once(
    database_url: str, connection: Connection
) -> None:
    chance = random.Random(3)
    expected: dict[Key, float] = {}
    async with run_proxy(database_url) as proxy, run_service(proxy.url, **PATIENT) as service:
        await service.register("PRESS-1")
        for turn in range(5 * ROUNDS):
            proxy.cuts.extend(chance.choices([Cut.BEFORE, Cut.AFTER, Cut.BETWEEN], k=2))
            numbers = range(turn * 100, turn * 100 + 100)
            expected |= {("PRESS-1", START + timedelta(seconds=number)): number for number in numbers}
            answers = await asyncio.gather(
                *(service.ingest(reading(timestamp=at(number), rpm=number)) for number in numbers)
            )
            assert answers == [count(accepted=1)] * 100
    await check_stored(connection, expected)
