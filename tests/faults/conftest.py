"""A server process, and a look behind its back, for the tests of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.client import ServiceClient
from tests.conftest import make_database
from tests.faults.postgres import OwnPostgres, run_postgres
from tests.faults.processes import POOL, ServiceProcess, register, run_process
from tests.test_ingest import Connection, reading
from tests.test_intake import at


@pytest.fixture(scope="module")
async def url(server_url: str, template: str) -> AsyncIterator[str]:
    async with make_database(server_url, template) as url:
        yield url


@pytest.fixture(scope="module")
async def process(url: str) -> AsyncIterator[ServiceProcess]:
    """A server process with a small pool, which one connection that is kept would soon exhaust."""
    async with run_process(url, AURUM_POOL_SIZE=str(POOL)) as process:
        await register(process, "PRESS-1", "PROBE")
        async with ServiceClient(process.url) as client:
            await client.ingest([reading("PROBE", at(second)) for second in range(5_000)])
        yield process


@pytest.fixture
async def database(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
        await connection.execute("DELETE FROM raw_measurements WHERE machine_id = 'PRESS-1'")
    finally:
        await connection.close()


@pytest.fixture
async def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnPostgres]:
    async with run_postgres(tmp_path_factory.mktemp("own-postgres")) as postgres:
        yield postgres
