"""kill -9, of the service and of PostgreSQL: what was acknowledged is there, exactly once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress
from datetime import timedelta

import pytest

from tests.client import ServiceClient
from tests.faults import ROUNDS
from tests.faults.load import START, Load, check_stored, check_stored_at
from tests.faults.postgres import OwnPostgres
from tests.faults.processes import needs_proc, register, run_process
from tests.scrape import wait_for_scrape
from tests.test_ingest import Connection, reading

pytestmark = needs_proc

OTHERS = 'subscription { measurements(machineIds: ["OTHER"]) { measurements { metrics } } }'
MACHINES = [f"PRESS-{number}" for number in range(1, 7)]


@pytest.mark.timeout(270 + 30 * ROUNDS)
async def test_a_service_that_is_killed_has_lost_nothing_that_it_acknowledged(
    database_url: str, connection: Connection
) -> None:
    chance = random.Random(1)
    async with run_process(database_url) as process:
        await register(process, *MACHINES)
        load = Load(process.url, MACHINES)
        async with load.run():
            for _ in range(3 * ROUNDS):
                await load.wait_for(chance.randint(1, 60))
                process.kill()
                await process.start()
            await load.wait_for(10)
    assert load.sent_again
    await check_stored(connection, load.acknowledged)


@pytest.mark.timeout(270 + 30 * ROUNDS)
async def test_a_postgres_that_is_killed_has_lost_nothing_and_the_service_goes_on_by_itself(
    own_postgres: OwnPostgres,
) -> None:
    """By turns all of PostgreSQL is killed, and one of its processes, upon which it starts anew by itself."""
    chance = random.Random(2)
    # What is sent while it's away is to be stored once it's back, however long that takes here.
    async with (
        run_process(own_postgres.url, AURUM_INGEST_DEADLINE="PT50S") as process,
        ServiceClient(process.url) as client,
    ):
        await register(process, "OTHER", *MACHINES)
        pid = process.pid
        load = Load(process.url, MACHINES)
        async with client.subscribe(OTHERS) as events:
            await wait_for_scrape(client, "aurumai_subscriptions", 1, topic="measurements")
            async with load.run():
                for number in range(2 * ROUNDS):
                    await load.wait_for(chance.randint(1, 60))
                    if number % 2:
                        victim = chance.choice(own_postgres.list_backends())
                        with suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)
                    else:
                        own_postgres.kill()
                        await own_postgres.start()
                await load.wait_for(10)
            await process.wait_until_ready()
            assert (await client.ingest(reading("OTHER", START.isoformat(), rpm=-1.0)))["accepted"] == 1
            assert (await events.next())["measurements"] == [{"metrics": {"rpm": -1.0}}]
        assert process.pid == pid
        assert process.is_running
    await check_stored_at(own_postgres.url, {**load.acknowledged, ("OTHER", START): -1.0})


async def test_two_servers_take_the_same_batches_and_store_each_row_once(
    database_url: str, connection: Connection
) -> None:
    keys = {(name, START + timedelta(seconds=row)): float(row) for name in MACHINES[:2] for row in range(750)}
    rows = [reading(name, instant.isoformat(), rpm=value) for (name, instant), value in keys.items()]
    batches = [rows[start : start + 100] for start in range(0, len(rows), 100)]
    async with run_process(database_url) as first, run_process(database_url) as second:
        await register(first, *MACHINES)
        async with ServiceClient(first.url) as one, ServiceClient(second.url) as other:
            answers = await asyncio.gather(
                *(client.ingest(batch) for batch in batches for client in (one, other)),
                *(other.ingest(batch[::-1]) for batch in batches),
            )
    by_one, by_other = (
        answers[: 2 * len(batches) : 2],
        [*answers[1 : 2 * len(batches) : 2], *answers[2 * len(batches) :]],
    )
    for told, sent in ((by_one, len(rows)), (by_other, 2 * len(rows))):
        assert sum(answer["accepted"] + answer["duplicates"] for answer in told) == sent
    assert sum(answer["accepted"] for answer in answers) == len(rows)
    assert sum(answer["conflicts"] + answer["rejectedCount"] for answer in answers) == 0
    await check_stored(connection, keys)
