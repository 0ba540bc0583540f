"""What everybody may ask for in a time: the share of a process alone, the bucket in the database, and the service with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

import asyncpg
import httpx
import msgspec
import pytest

from app.access.allowance import Allowance, Kind
from app.access.bucket import Purse, Rate
from app.access.principal import Principal, PrincipalKind
from app.access.roles import Role
from app.database import Database
from app.errors import DatabaseUnavailable, RateLimited
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.keys import PRODUCTION, make
from tests.ports import find_free_port
from tests.test_startup import start, wait_until_ready

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ANA = Principal("user:ana", PrincipalKind.USER, frozenset())
BO = Principal("user:bo", PrincipalKind.USER, frozenset())
SLOW = Rate(per_minute=1, burst=100)  # of which nothing comes back within a test
FIRST = "{ machines(first: 1) { totalCount } }"  # which costs 101


# --- A process's purse ----------------------------------------------------------------------------------------------


def test_a_purse_gives_what_is_in_it_and_no_more() -> None:
    purse = Purse()
    assert not purse.take(1)
    purse.put(10)
    assert purse.take(7)
    assert not purse.take(4)
    assert purse.take(3)
    assert purse.held == 0


def test_what_was_refused_is_not_asked_for_again_before_it_can_be_there() -> None:
    purse = Purse()
    purse.put(2)
    purse.note_refusal(12, until=130.0)
    assert purse.find_wait(12, now=100.0) == 30.0
    assert purse.find_wait(20, now=129.5) == 0.5
    assert purse.find_wait(11, now=100.0) == 0.0  # less may be there
    assert purse.find_wait(12, now=130.0) == 0.0
    purse.put(5)
    assert purse.find_wait(12, now=100.0) == 0.0  # less of it is lacking now
    assert purse.find_wait(17, now=100.0) == 30.0


def test_a_share_is_a_tenth_of_the_burst_and_at_least_a_unit() -> None:
    assert [Rate(60, burst).share for burst in (1, 9, 20, 100_000)] == [1, 1, 2, 10_000]
    assert Rate(90, 10).per_second == 1.5


# --- The bucket in the database -------------------------------------------------------------------------------------


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    opened = Database(timescale="auto", pool_size=4, statement_timeout=timedelta(seconds=20))
    await opened.open(url)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as opened:
        yield opened


async def count_left(connection: Connection, holder: str, rate: Rate) -> int:
    """Units that are in the bucket, as if nothing came back since the last were taken."""
    spent: float = await connection.fetchval(
        "SELECT extract(epoch FROM full_at - now())::float8 FROM allowances WHERE holder = $1", holder
    )
    return round(rate.burst - spent * rate.per_second)


def check_wait(told: object, seconds: int, began: float) -> None:
    """That many seconds were told, less those that have gone by since units began to be spent."""
    assert isinstance(told, int)
    assert seconds - (time.monotonic() - began) <= told <= seconds


async def test_units_are_taken_out_of_the_bucket_by_shares(database: Database, connection: Connection) -> None:
    allowance = Allowance(database, Kind.QUERY, SLOW)
    await allowance.spend(ANA, 1)
    assert await count_left(connection, "cost user:ana", SLOW) == 90
    for _ in range(9):
        await allowance.spend(ANA, 1)
    assert await count_left(connection, "cost user:ana", SLOW) == 90
    await allowance.spend(ANA, 1)
    assert await count_left(connection, "cost user:ana", SLOW) == 80
    await allowance.spend(ANA, 40)  # 9 are held, so 31 are lacking
    assert await count_left(connection, "cost user:ana", SLOW) == 49
    await allowance.spend(BO, 1)
    assert await count_left(connection, "cost user:bo", SLOW) == 90


async def test_all_of_the_burst_can_be_spent_and_then_it_is_told_when_more_is_there(database: Database) -> None:
    allowance = Allowance(database, Kind.QUERY, Rate(per_minute=6, burst=25))
    began = time.monotonic()
    for _ in range(25):
        await allowance.spend(ANA, 1)
    with pytest.raises(RateLimited) as refused:
        await allowance.spend(ANA, 3)
    wait = refused.value.extensions["retryAfter"]
    check_wait(wait, 30, began)
    assert str(refused.value) == (
        f"user:ana may spend 6 units of cost in a minute, and at most 25 at once: try again in {wait} s, or ask for less."
    )
    assert refused.value.extensions == {
        "code": "RATE_LIMITED",
        "retryAfter": wait,
        "allowance": {"unit": "cost", "perMinute": 6, "burst": 25, "asked": 3},
    }
    assert refused.value.http_headers == {"Retry-After": str(wait)}


async def test_units_come_back_with_the_clock_of_the_database(database: Database, connection: Connection) -> None:
    rate = Rate(per_minute=1, burst=20)
    allowance = Allowance(database, Kind.INGEST, rate)
    await allowance.spend(ANA, 20)
    assert await count_left(connection, "bytes user:ana", rate) == 0
    await connection.execute("UPDATE allowances SET full_at = full_at - interval '5 minutes'")
    other = Allowance(database, Kind.INGEST, rate)  # of another process, say
    with pytest.raises(RateLimited):
        await other.spend(ANA, 6)
    await other.spend(ANA, 5)
    assert await count_left(connection, "bytes user:ana", rate) == 0
    await connection.execute("UPDATE allowances SET full_at = full_at - interval '9 days'")
    await Allowance(database, Kind.INGEST, rate).spend(ANA, 20)  # and no more than the burst
    assert await count_left(connection, "bytes user:ana", rate) == 0


async def test_a_clock_that_was_ahead_when_units_were_spent_takes_no_more_than_the_burst(
    database: Database, connection: Connection
) -> None:
    rate = Rate(per_minute=1, burst=20)
    await Allowance(database, Kind.QUERY, rate).spend(ANA, 1)
    await connection.execute("UPDATE allowances SET full_at = full_at + interval '9 days'")
    began = time.monotonic()
    with pytest.raises(RateLimited) as refused:
        await Allowance(database, Kind.QUERY, rate).spend(ANA, 5)
    check_wait(refused.value.extensions["retryAfter"], 300, began)
    assert await count_left(connection, "cost user:ana", rate) == 0
    await connection.execute("UPDATE allowances SET full_at = full_at - interval '300 seconds'")
    await Allowance(database, Kind.QUERY, rate).spend(ANA, 5)
    assert await count_left(connection, "cost user:ana", rate) == 0


async def test_what_is_more_than_the_burst_takes_all_of_it(database: Database) -> None:
    allowance = Allowance(database, Kind.QUERY, SLOW)
    await allowance.spend(ANA, 5_000)
    with pytest.raises(RateLimited):
        await allowance.spend(ANA, 1)


async def test_of_many_at_once_as_many_get_something_as_there_is(database_url: str) -> None:
    async with open_database(database_url) as first, open_database(database_url) as second:
        allowances = [Allowance(database, Kind.QUERY, SLOW) for database in (first, second)]
        asked = [allowance.spend(ANA, 1) for _ in range(100) for allowance in allowances]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(answer is None for answer in answers) == 100
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 100


async def test_a_database_that_is_away_is_missed_only_when_a_share_is_spent(database_url: str) -> None:
    async with open_database(database_url) as database:
        allowance = Allowance(database, Kind.QUERY, SLOW)
        await allowance.spend(ANA, 1)
        await database.close()
        for _ in range(9):
            await allowance.spend(ANA, 1)
        with pytest.raises(DatabaseUnavailable):
            await allowance.spend(ANA, 1)


async def test_keys_of_one_name_have_an_allowance_each(database: Database, connection: Connection) -> None:
    allowance = Allowance(database, Kind.QUERY, SLOW)
    for key_id in (1, 2):
        key = Principal("key:plant", PrincipalKind.KEY, frozenset(), key_id=key_id)
        await allowance.spend(key, 100)
    rows = await connection.fetch("SELECT holder FROM allowances ORDER BY 1")
    assert [row["holder"] for row in rows] == ["cost key 1", "cost key 2"]


# --- The service ----------------------------------------------------------------------------------------------------


async def post_query(client: ServiceClient, query: str) -> httpx.Response:
    return await client.http.post("/graphql", json={"query": query})


async def test_graphql_is_counted_by_its_cost_on_the_short_way_and_on_the_long(database_url: str) -> None:
    async with run_service(database_url, AURUM_QUERY_ALLOWANCE="1", AURUM_QUERY_BURST="400") as client:
        began = time.monotonic()
        for _ in range(3):  # the first goes the long way, as every document when it's new
            answer = (await post_query(client, FIRST)).json()
            cost = answer["extensions"]["cost"]["estimated"]
            assert cost == 101
        refused = await post_query(client, FIRST)
        assert refused.status_code == 429
        check_wait(int(refused.headers["retry-after"]), 240, began)  # 303 are spent, so 4 are lacking
        (error,) = refused.json()["errors"]
        assert error["extensions"]["code"] == "RATE_LIMITED"
        assert error["extensions"]["allowance"] == {"unit": "cost", "perMinute": 1, "burst": 400, "asked": 101}
        assert str(error["extensions"]["retryAfter"]) == refused.headers["retry-after"]
        # What costs less goes on.
        assert "errors" not in (await post_query(client, '{ machine(machineId: "A") { machineId } }')).json()


async def test_mutations_and_operations_over_websockets_are_counted_too(database_url: str) -> None:
    async with run_service(database_url, AURUM_QUERY_ALLOWANCE="1", AURUM_QUERY_BURST="2") as client:
        await client.register("A")
        query = "subscription { measurements { cursor } }"
        async with client.subscribe(query), client.subscribe(query) as refused:
            message = await refused.next_message()
    assert message["type"] == "error"
    assert message["payload"][0]["extensions"]["code"] == "RATE_LIMITED"
    assert message["payload"][0]["extensions"]["allowance"]["perMinute"] == 1


async def test_readings_are_counted_by_their_bytes_decompressed(database_url: str) -> None:
    body = msgspec.json.encode({"machine_id": "A", "timestamp": "2026-01-31T12:00:00Z", "metrics": {"heat": 1}})
    variables = {"AURUM_INGEST_ALLOWANCE": "1", "AURUM_INGEST_BURST": str(3 * len(body))}
    async with run_service(database_url, **variables) as client:
        await client.register("A")
        for _ in range(3):
            assert (await client.http.post("/ingest", content=body)).status_code == 200
        refused = await client.http.post("/ingest", content=body)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == str(refused.json()["retryAfter"])
        assert refused.json()["allowance"] == {
            "unit": "bytes",
            "perMinute": 1,
            "burst": 3 * len(body),
            "asked": len(body),
        }
        mutation = """mutation { ingest(measurements: [
            {machineId: "A", timestamp: "2026-01-31T12:00:00Z", metrics: {heat: 1}}]) { accepted } }"""
        assert (await client.refuse(mutation))["extensions"]["code"] == "RATE_LIMITED"


def write_lines(count: int) -> bytes:
    lines = [
        msgspec.json.encode({"machine_id": "A", "timestamp": 1_769_860_800_000 + n, "metrics": {"heat": n}})
        for n in range(count)
    ]
    return b"\n".join(lines)


NDJSON = {"content-type": "application/x-ndjson"}


async def test_a_stream_that_has_spent_its_bytes_is_cut_and_says_how_far_it_came(
    database_url: str, connection: Connection
) -> None:
    variables = {"AURUM_INGEST_ALLOWANCE": "1", "AURUM_INGEST_BURST": "600000"}
    async with run_service(database_url, **variables) as client:
        await client.register("A")
        response = await client.http.post("/ingest", content=write_lines(20_000), headers=NDJSON)
    assert response.status_code == 429
    told = response.json()
    assert told["code"] == "RATE_LIMITED"
    assert told["allowance"]["perMinute"] == 1
    assert response.headers["retry-after"] == str(told["retryAfter"])
    stored = await connection.fetchval("SELECT count(*) FROM raw_measurements")
    assert told["durable"]["lines"] == told["durable"]["accepted"] == stored
    assert 0 < stored < 20_000


async def test_a_stream_is_slowed_where_its_bytes_come_back_soon(database_url: str) -> None:
    # Two batches at once, and then one in 0.5 s.
    variables = {"AURUM_INGEST_ALLOWANCE": str(60 * 524_288), "AURUM_INGEST_BURST": "524288"}
    async with run_service(database_url, **variables) as client:
        await client.register("A")
        answer = await client.http.post("/ingest", content=write_lines(20_000), headers=NDJSON)
    assert answer.status_code == 200
    assert answer.json()["accepted"] == 20_000


async def test_two_processes_share_one_allowance_for_each_key(database_url: str, connection: Connection) -> None:
    keys = [await make(connection, Role.ADMIN, name=name) for name in ("a", "b")]
    variables = {**PRODUCTION, "DATABASE_URL": database_url, "AURUM_QUERY_ALLOWANCE": "1", "AURUM_QUERY_BURST": "40"}
    ports = [find_free_port(), find_free_port()]
    command = ["uvicorn", "--factory", "app.main:create_app", "--port", "PORT"]
    commands = [[str(port) if word == "PORT" else word for word in command] for port in ports]
    with start(commands[0], ports[0], **variables), start(commands[1], ports[1], **variables):
        for port in ports:
            assert (await wait_until_ready(port)).status_code == 200
        for key in keys:
            answers = []
            async with httpx.AsyncClient(headers={"x-api-key": key}, timeout=30, trust_env=False) as http:
                for number in range(60):
                    url = f"http://127.0.0.1:{ports[number % 2]}/graphql"
                    body = {"query": '{ machine(machineId: "A") { machineId } }'}
                    answers.append((await http.post(url, json=body)).status_code)
            assert answers == [200] * 40 + [429] * 20


async def test_without_a_setting_nothing_is_counted(service: ServiceClient, connection: Connection) -> None:
    await service.register("A")
    await service.ingest({"machine_id": "A", "timestamp": "2026-01-31T12:00:00Z", "metrics": {"heat": 1}})
    assert await connection.fetchval("SELECT count(*) FROM allowances") == 0
