"""How long a process takes to stop where what it depends on hangs: supervisors wait for so long, and then kill."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.client import ServiceClient
from tests.faults.load import Load, check_stored_at
from tests.faults.postgres import OwnPostgres
from tests.faults.processes import needs_proc, register, run_process

pytestmark = needs_proc

MACHINES = [f"PRESS-{number}" for number in range(8)]

# compose.yaml gives 30 s, of which AURUM_DRAIN takes 3 there, and AURUM_INGEST_DEADLINE 8 more than here.
GRACE = 30 - 3 - 8


@pytest.fixture
def silence() -> Iterator[str]:
    """The URL of a collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_neither_a_database_nor_a_collector_that_hangs_keeps_a_process_from_its_end(
    own_postgres: OwnPostgres, silence: str
) -> None:
    async with run_process(own_postgres.url, AURUM_INGEST_DEADLINE="PT2S", AURUM_OTLP_ENDPOINT=silence) as process:
        await register(process, *MACHINES)
        load = Load(process.url, MACHINES)
        async with load.run():
            await load.wait_for(20)
            with own_postgres.hang():
                async with ServiceClient(process.url) as client:
                    assert (await client.http.get("/health/ready")).status_code == 503
                await asyncio.wait_for(asyncio.to_thread(process.kill, signal.SIGTERM), GRACE)
            await process.start()
        await check_stored_at(own_postgres.url, load.acknowledged)
