"""Operations that nobody would write, thousands of them, by schemathesis. AURUM_TEST_CASES says how many: 200 by default."""

from __future__ import annotations

import asyncio
import gc
import json
import os

import asyncpg
import pytest

from benchmarks.scene import Process
from tests.client import ServiceClient
from tests.clients.environment import PROGRAMS, find_python
from tests.clients.program import run_program
from tests.seed import IDS

CASES = int(os.environ.get("AURUM_TEST_CASES", "200"))
SECONDS = 120 + CASES * 1.0
MOST_GAINED = 100.0  # MB, of which a cache of documents may have 32, and one of what is planned of them as much
READINGS = """
    INSERT INTO raw_measurements (machine_id, timestamp, metrics)
    SELECT 'A', '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute', '{"rpm": 1.5, "temperature": 20}'
    FROM generate_series(0, 500) AS n
"""
FREE_IDS = (
    "SELECT setval(pg_get_serial_sequence('alerts', 'id'), max(id)) FROM alerts"  # the seed's alerts bring theirs
)
CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
BUSY = f"{CONNECTIONS} AND state <> 'idle'"
MOST_CONNECTIONS = 10 + 1  # the pool's, and the listener's


@pytest.mark.timeout(2 * SECONDS + 60)
async def test_no_operation_breaks_the_service_or_stays_in_it(
    seeded: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await connection.execute(READINGS)
    await connection.fetchval(FREE_IDS)
    known = json.dumps(["A", "B", "C", "1", "2", *IDS])
    command = (find_python(), PROGRAMS / "fuzz.py", f"{seeded.url}/graphql")
    async with run_program(*command, "30", known) as program:
        await program.read(SECONDS)  # what a first use needs is there from then on
    gc.collect()
    memory = Process(0, os.getpid()).read_memory()
    async with run_program(*command, str(CASES), known) as program:
        told = await program.read(SECONDS)
    print(json.dumps({name: told[name] for name in ("cases", "answered", "slowest", "codes")}))  # noqa: T201 - for who runs many
    assert told["bad"] == []
    assert told["cases"] >= CASES
    assert told["answered"] >= CASES / 20, "what is refused as a whole proves little"
    gc.collect()
    assert await connection.fetchval(CONNECTIONS) <= MOST_CONNECTIONS
    async with asyncio.timeout(30):
        # A chore may be at work; nothing that was asked stays under way.
        while await connection.fetchval(BUSY):  # noqa: ASYNC110 - a database tells nobody
            await asyncio.sleep(0.02)
    assert Process(0, os.getpid()).read_memory() - memory < MOST_GAINED
    assert (await seeded.ask('{ machine(machineId: "A") { machineId } }')) == {"machine": {"machineId": "A"}}
