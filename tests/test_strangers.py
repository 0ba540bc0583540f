"""Whoever says wrongly or not at all who sends a request: how often that is answered, and that it's in nobody else's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.access import entrance, strangers
from app.access.keys import find_holder
from app.access.roles import Role
from app.access.strangers import ATTEMPTS, KEPT, Strangers
from app.errors import RateLimited
from app.ops import health
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.keys import PRODUCTION, make
from tests.scrape import scrape
from tests.test_access_ends import begin
from tests.test_network import exchange, read_error

LIMITED = (
    "Too many requests from this address said wrongly who sends them, or not at all: try again in 2 s, and send "
    "Authorization: Bearer with an API key or a token, or X-API-Key."
)
TOLD = {
    "code": "RATE_LIMITED",
    "retryAfter": 2,
    "allowance": {"unit": "attempts", "perMinute": 30, "burst": 60, "asked": 1},
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the database to answer whoever asks for the health, on a busy machine as well."""
    monkeypatch.setattr(health, "PATIENCE", 30.0)


def guess(number: int) -> str:
    return f"aurum_{number:08x}_" + "0" * 64


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still until it's moved."""
    made = Clock()
    monkeypatch.setattr(strangers, "time", made)
    return made


@pytest.fixture
async def closed(database_url: str, connection: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[ServiceClient]:
    """A service in production; its client says nothing of itself."""
    await make(connection, Role.ADMIN)
    async with run_service(database_url, **PRODUCTION) as service:
        yield service


async def spend(service: ServiceClient) -> None:
    """All attempts of this machine's address."""
    answers = await asyncio.gather(*(service.http.post("/ingest", json=[]) for _ in range(ATTEMPTS)))
    assert {answer.status_code for answer in answers} == {401}


def test_attempts_are_counted_by_address_and_come_back(clock: Clock) -> None:
    counted = Strangers()
    here, there = {"client": ("192.0.2.7", 5000)}, {"client": ("192.0.2.8", 5000)}
    for _ in range(ATTEMPTS):
        counted.count(here)
    for _ in range(3):
        with pytest.raises(RateLimited) as limited:
            counted.count({"client": ("::ffff:192.0.2.7", 1)})
    assert (limited.value.wait, limited.value.http_headers) == (2.0, {"Retry-After": "2"})
    counted.count(there)
    clock.now += 2
    counted.count(here)
    with pytest.raises(RateLimited):
        counted.count(here)
    assert (counted.refused, counted.limited) == (ATTEMPTS + 2, 4)
    clock.now += 3_600
    for _ in range(ATTEMPTS):
        counted.count(here)


def test_the_addresses_of_one_ipv6_network_count_together_and_a_unix_socket_has_none(clock: Clock) -> None:
    counted = Strangers()
    for number in range(ATTEMPTS):
        counted.count({"client": (f"2001:db8:1:2::{number:x}", 0)})
        counted.count({"client": None})
    with pytest.raises(RateLimited):
        counted.count({"client": ("2001:db8:1:2:ffff::1", 0)})
    counted.count({"client": ("2001:db8:1:3::1", 0)})
    counted.count({"client": None})
    counted.count({"client": ("unknown", 0)})


def test_however_many_addresses_there_are_memory_is_bounded() -> None:
    counted = Strangers()
    for number in range(3 * KEPT):
        counted.count({"client": (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)})
    assert len(counted._full_at) <= KEPT


async def test_beyond_its_attempts_an_address_is_told_to_wait_whatever_it_asks(
    closed: ServiceClient, clock: Clock
) -> None:
    await spend(closed)
    for headers in ({}, {"x-api-key": guess(1)}, {"authorization": "Basic YTpi"}):
        refused = await closed.http.post("/ingest", json=[], headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert refused.json() == {**TOLD, "message": LIMITED}
        refused = await closed.http.post("/graphql", json={"query": "{ __typename }"}, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert refused.json() == {"errors": [{"message": LIMITED, "extensions": TOLD}]}
    assert (await closed.http.get("/metrics")).status_code == 429
    # What is for anybody stays so: a proxy that asks for the health has the address of all its clients.
    assert (await closed.http.get("/health/ready")).json() == {"status": "ready"}
    assert (await closed.http.get("/health/live")).status_code == 200
    clock.now += 2
    assert (await closed.http.post("/ingest", json=[])).status_code == 401
    assert (await closed.http.post("/ingest", json=[])).status_code == 429


async def test_good_keys_of_the_same_address_go_on_those_that_are_new_as_well(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, new = await make(connection, Role.ADMIN), await make(connection, Role.ADMIN)
    async with ServiceClient(closed.url, known) as client, ServiceClient(closed.url, new) as other:
        assert (await client.ingest([]))["accepted"] == 0
        await spend(closed)
        monkeypatch.setattr(entrance, "HOLDS", 0.0)  # each time looked up anew
        for _ in range(ATTEMPTS):
            assert (await client.ingest([]))["accepted"] == 0
        assert (await other.ingest([]))["accepted"] == 0
        assert await other.ask("{ __typename }") == {"__typename": "Query"}
        found = await scrape(other)
    assert found.read_all("aurumai_unauthenticated_requests_total", "result") == {"refused": ATTEMPTS}


async def test_guesses_beyond_the_attempts_take_one_connection_and_a_bounded_line(
    closed: ServiceClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, most, looked_up = 0, 0, 0
    all_but_the_line = asyncio.Event()

    async def find_slowly(connection: asyncpg.Connection[asyncpg.Record], key: str) -> object:
        nonlocal at_once, most, looked_up
        at_once, looked_up = at_once + 1, looked_up + 1
        most = max(most, at_once)
        try:
            await all_but_the_line.wait()
            return await find_holder(connection, key)
        finally:
            at_once -= 1

    await spend(closed)
    monkeypatch.setattr(entrance, "find_holder", find_slowly)
    requests = [
        asyncio.create_task(closed.http.post("/ingest", json=[], headers={"x-api-key": guess(number)}))
        for number in range(50)
    ]
    async with asyncio.timeout(30):
        while sum(request.done() for request in requests) < 50 - strangers.MOST_IN_LINE:  # noqa: ASYNC110 - of tasks
            await asyncio.sleep(0.005)
    all_but_the_line.set()
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {429}
    assert most == 1
    assert looked_up == strangers.MOST_IN_LINE


async def test_addresses_behind_a_trusted_proxy_have_attempts_each(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record], clock: Clock
) -> None:
    await make(connection, Role.ADMIN)

    async def ask(service: ServiceClient, address: str) -> int:
        headers = {"x-forwarded-for": address}
        return (await service.http.post("/ingest", json=[], headers=headers)).status_code

    async with run_service(database_url, **PRODUCTION, AURUM_TRUSTED_PROXIES="127.0.0.1") as service:
        assert [await ask(service, "192.0.2.7") for _ in range(ATTEMPTS)] == [401] * ATTEMPTS
        assert [await ask(service, address) for address in ("192.0.2.7", "192.0.2.8")] == [429, 401]
    async with run_service(database_url, **PRODUCTION) as service:
        # Whoever isn't trusted can't be somebody else each time.
        assert [await ask(service, f"192.0.2.{n}") for n in range(ATTEMPTS)] == [401] * ATTEMPTS
        assert await ask(service, "192.0.2.99") == 429


async def test_websockets_count_as_well_and_are_told_to_try_again_later(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record], clock: Clock
) -> None:
    await spend(closed)
    for payload in (None, {"apiKey": guess(1)}, {"apiKey": 7}):
        code, reason = (await begin(closed, payload))[1]
        assert (code, reason) == (1013, LIMITED[:123])
    socket, answer = await begin(closed, {"apiKey": await make(connection, Role.VIEWER)})
    assert answer == {"type": "connection_ack"}
    await socket.close()


async def test_nothing_of_an_operation_is_waited_for_before_it_says_who_sends_it(closed: ServiceClient) -> None:
    head = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    status, _, _ = read_error(await exchange(closed, head + b"Content-Length: 16000000\r\n\r\n{"))
    assert status == 401


async def test_where_nobody_is_asked_nothing_is_counted(service: ServiceClient) -> None:
    for _ in range(ATTEMPTS + 1):
        assert (await service.http.post("/ingest", json=[], headers={"x-api-key": guess(1)})).status_code == 200
