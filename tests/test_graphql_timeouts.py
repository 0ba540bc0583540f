"""Operations that take too long, and clients that hang up: the database is told to stop as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from tests.client import ServiceClient
from tests.conftest import run_service
from tests.test_ingest import Connection

# Where a table is locked, whoever reads it waits: a statement that takes as long as the test wants.
WAITING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
TOO_LATE = (
    "The operation took longer than AURUM_GRAPHQL_TIMEOUT and was stopped: ask for less at a time. "
    "What a mutation had changed by then stays changed."
)


@pytest.fixture(autouse=True)
def _without_chores(monkeypatch: pytest.MonkeyPatch) -> None:
    """They look at machines and readings as well, and would be counted among those who wait."""
    monkeypatch.setattr("app.main.list_chores", lambda *_: ())


@asynccontextmanager
async def lock(url: str, *tables: str) -> AsyncIterator[None]:
    connection: Connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            for table in tables:
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def wait_for(connection: Connection, waiting: int) -> None:
    async with asyncio.timeout(30):
        while await connection.fetchval(WAITING) != waiting:
            await connection.fetchval("SELECT pg_sleep(0.01)")


@pytest.fixture
async def hasty(database_url: str, connection: Connection) -> AsyncIterator[ServiceClient]:
    """The service on two machines with a reading each, and nothing in the outbox; what waits for no lock has time enough."""
    await connection.execute(
        """
        INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x'), ('B', 'press', 'x');
        INSERT INTO raw_measurements (machine_id, timestamp, metrics) SELECT machine_id, 'epoch', '{"a": 1}' FROM machines
        """
    )
    async with run_service(database_url, AURUM_GRAPHQL_TIMEOUT="PT2S", AURUM_POOL_SIZE="3") as service:
        yield service


@pytest.mark.parametrize(
    "query",
    [
        "{ machines { totalCount } }",
        "{ measurements { nodes { metrics } } }",
        "{ machines { nodes { latest { metrics } measurements { nodes { metrics } } } } }",
        '{ series(machineIds: ["A"], from: "2020-01-01T00:00:00Z") { values } }',
        '{ machine(machineId: "A") { latest { timestamp } } a: machine(machineId: "A") { lastSeenAt } fleet { live } }',
        'mutation { updateMachine(machineId: "A", input: {location: "x"}) { latest { metrics } } }',
    ],
)
async def test_what_takes_too_long_is_answered_and_stopped_in_the_database(
    hasty: ServiceClient, connection: Connection, database_url: str, query: str
) -> None:
    async with lock(database_url, "raw_measurements", *(["machines"] if "totalCount" in query else [])):
        answer = await hasty.post_graphql(query)
        assert answer["data"] is None
        assert answer["errors"] == [{"message": TOO_LATE, "extensions": {"code": "QUERY_TIMEOUT"}}]
        await wait_for(connection, 0)
    # More of them than the pool has connections: each was given back.
    answers = await asyncio.gather(*[hasty.ask("{ machines { totalCount } }") for _ in range(6)])
    assert answers == [{"machines": {"totalCount": 2}}] * 6


async def test_what_takes_too_long_is_stopped_over_a_websocket_too(
    hasty: ServiceClient, connection: Connection, database_url: str
) -> None:
    async with (
        lock(database_url, "machines"),
        hasty.subscribe("{ machines { totalCount } }") as subscription,
    ):
        message = await subscription.next_message()
        assert message["payload"]["errors"][0]["message"] == TOO_LATE
        assert message["payload"]["errors"][0]["extensions"]["code"] == "QUERY_TIMEOUT"
        await wait_for(connection, 0)


async def test_a_subscription_may_last_longer_than_an_operation(hasty: ServiceClient) -> None:
    async with hasty.subscribe("subscription { measurements { measurements { metrics } } }") as subscription:
        await subscription.expect_silence(2.5)
        await hasty.ingest({"machine_id": "A", "timestamp": 1, "metrics": {"a": 2}})
        assert await subscription.next() == {"measurements": [{"metrics": {"a": 2.0}}]}


@pytest.mark.parametrize("query", ["{ machines { totalCount } }", '{ machine(machineId: "A") { latest { metrics } } }'])
async def test_a_query_whose_client_hangs_up_is_stopped_in_the_database(
    service: ServiceClient, connection: Connection, database_url: str, query: str
) -> None:
    await service.register("A")
    async with lock(database_url, "machines", "raw_measurements"):
        async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as http:
            asking = asyncio.create_task(http.post("/graphql", json={"query": query}))
            await wait_for(connection, 1)
            asking.cancel()
        await wait_for(connection, 0)
    assert await service.ask("{ machines { totalCount } }") == {"machines": {"totalCount": 1}}


async def test_a_query_is_stopped_when_its_websocket_goes(
    service: ServiceClient, connection: Connection, database_url: str
) -> None:
    async with lock(database_url, "machines"):
        async with service.subscribe("{ machines { totalCount } }"):
            await wait_for(connection, 1)
        await wait_for(connection, 0)


async def test_a_mutation_whose_client_hangs_up_is_done_all_the_same(
    service: ServiceClient, connection: Connection, database_url: str
) -> None:
    await service.register("A")
    mutation = 'mutation { retireMachine(machineId: "A") { operational } }'
    async with lock(database_url, "machines"):
        async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as http:
            asking = asyncio.create_task(http.post("/graphql", json={"query": mutation}))
            await wait_for(connection, 1)
            asking.cancel()
        await connection.fetchval("SELECT pg_sleep(0.2)")  # in which a query would have been stopped
        assert await connection.fetchval(WAITING) == 1
    async with asyncio.timeout(30):  # no longer waits, which is not yet that it is done
        while await connection.fetchval("SELECT operational FROM machines"):
            await connection.fetchval("SELECT pg_sleep(0.01)")


@pytest.mark.parametrize(
    ("table", "query", "data", "path"),
    [
        ("predictions", "{ a: predictions { nodes { machineId } } machines { totalCount } }", None, ["a"]),
        ("predictions", "{ ...Read } fragment Read on Query { predictions { totalCount } }", None, ["predictions"]),
        ("machines", '{ machine(machineId: "A") { machineId } }', {"machine": None}, ["machine"]),
    ],
)
async def test_a_statement_that_takes_too_long_is_answered_alike_the_long_way_and_the_short_one(
    database_url: str, table: str, query: str, data: object, path: list[str]
) -> None:
    async with run_service(database_url, AURUM_STATEMENT_TIMEOUT="PT3S") as service:
        await service.register("A")
        for _ in range(3):
            await service.ask(query)
        async with lock(database_url, table):
            answer = await service.post_graphql(query)
            (error,) = answer["errors"]
            assert error["extensions"]["code"] == "QUERY_TIMEOUT"
            assert (answer["data"], error["path"]) == (data, path)
            assert error["locations"]
