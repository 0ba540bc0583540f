"""More than one process: nobody notices which of them answers, nor that they are restarted one after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http.client import HTTPConnection
from typing import Any

import httpx
import msgspec
import pytest
import websockets

from tests.client import ServiceClient
from tests.cluster import Cluster, Member, run_cluster, run_simple_cluster
from tests.faults.load import Load
from tests.faults.processes import needs_proc
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count
from tests.test_sse import listen

pytestmark = [needs_proc, pytest.mark.timeout(600)]

FOLLOW = "subscription ($after: String) { measurements(after: $after) { cursor dropped measurements { metrics } } }"
RAISE = "mutation ($input: RaiseAlertInput!) { raiseAlert(input: $input) { alertId } }"


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    async with run_cluster(database_url) as cluster:
        yield cluster


async def test_readings_and_subscriptions_hold_across_processes(cluster: Cluster, connection: Connection) -> None:
    async with ServiceClient(cluster.url) as client:
        await client.register("PRESS-1")
        followers = [client.subscribe(FOLLOW) for _ in range(6)]
        streams = [listen(client, FOLLOW) for _ in range(3)]
        subscriptions = [await each.__aenter__() for each in followers]
        sources = [await each.__aenter__() for each in streams]
        batches = [[reading(timestamp=at(second), rpm=second)] for second in range(60)]
        answers = await asyncio.gather(*(client.ingest(batch) for batch in batches))
        assert answers == [count(accepted=1)] * 60
        for subscription in subscriptions:
            assert sorted([value async for value in take(subscription.next, 60)]) == list(range(60))
        for source in sources:

            async def take_event(source: Any = source) -> Any:
                return msgspec.json.decode((await source.next())["data"])["data"]["measurements"]

            assert sorted([value async for value in take(take_event, 60)]) == list(range(60))
        for each in (*followers, *streams):
            await each.__aexit__(None, None, None)
    assert all([await member.count_requests("/ingest") > 0 for member in cluster.members])

    # The same batch at every process at once: each row is stored once, and counted so.
    rows = [reading(timestamp=at(second), rpm=second) for second in range(100, 400)]
    direct = [ServiceClient(member.url) for member in cluster.members]
    answers = await asyncio.gather(*(each.ingest(rows) for each in direct))
    assert sum(answer["accepted"] for answer in answers) == 300
    assert sum(answer["duplicates"] for answer in answers) == 600
    for one in direct:
        await one.http.aclose()
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 360

    asked = ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/%2Fmetrics", "/metrics?x=1"]
    assert [await asyncio.to_thread(ask_as_written, cluster.url, path) for path in asked] == [404] * len(asked)
    assert await asyncio.to_thread(ask_as_written, cluster.url, "/health/live") == 200


def ask_as_written(url: str, path: str) -> int:
    """The status of an answer to GET; the path is sent as it is."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


async def take(next_event: Callable[[], Awaitable[Any]], many: int) -> AsyncIterator[float]:
    """The values of so many readings, of one batch after the other."""
    taken = 0
    while taken < many:
        for each in (await next_event())["measurements"]:
            taken += 1
            yield each["metrics"]["rpm"]


async def test_what_one_may_ask_for_is_for_all_processes_together(database_url: str) -> None:
    # One unit comes back in a minute: more than 40 can't be had while this runs, whichever processes answer.
    allowance = {"AURUM_QUERY_ALLOWANCE": "1", "AURUM_QUERY_BURST": "40"}
    async with run_cluster(database_url, **allowance) as cluster, ServiceClient(cluster.url) as client:
        body = {"query": '{ machine(machineId: "A") { machineId } }'}
        answers = await asyncio.gather(*(client.http.post("/graphql", json=body) for _ in range(90)))
        statuses = [answer.status_code for answer in answers]
        # What one process had taken for itself, and nobody asked it for, is all that may be left over.
        assert statuses.count(429) == 90 - statuses.count(200)
        assert 40 - 2 * 4 <= statuses.count(200) <= 41
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
        assert int(refused.headers["retry-after"]) > 0
        assert [await member.count_requests("/graphql") > 0 for member in cluster.members] == [True] * 3


async def test_however_many_processes_are_told_of_a_cause_one_alert_is_open(
    cluster: Cluster, connection: Connection
) -> None:
    raised = {
        "machineId": "PRESS-1",
        "alertType": "ANOMALY",
        "cause": "overheating",
        "severity": "HIGH",
        "title": "Hot",
        "description": "Hot",
    }
    async with ServiceClient(cluster.url) as client:
        await client.register("PRESS-1")
        answers = await asyncio.gather(*(client.ask(RAISE, input=raised) for _ in range(30)))
    assert len({answer["raiseAlert"]["alertId"] for answer in answers}) == 1
    assert await connection.fetchval("SELECT count(*) FROM alerts") == 1


class Usage:
    """What clients do all the time that none of which may fail, and how often it was done."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.done = {"query": 0, "mutation": 0}
        self.failed: list[str] = []
        self.stopping = False

    async def keep_asking(self, kind: str, make: Callable[[int], dict[str, Any]], *, anew: bool) -> None:
        """One operation after the other; on a connection of its own for each, where `anew`."""
        for number in itertools.count():
            if self.stopping:
                return
            async with httpx.AsyncClient(base_url=self._url, timeout=30, trust_env=False) as http:
                for part in range(1 if anew else 50):
                    if not self.stopping:
                        await self._ask(http, kind, make(number * 50 + part))

    async def _ask(self, http: httpx.AsyncClient, kind: str, body: dict[str, Any]) -> None:
        try:
            response = await http.post("/graphql", json=body)
        except httpx.HTTPError as error:
            self.failed.append(f"{kind}: {error!r}")
            return
        if response.status_code != 200 or "errors" in response.json():
            self.failed.append(f"{kind}: {response.status_code} {response.text[:200]}")
        self.done[kind] += 1


class Follower:
    """Follows all readings, and when its process stops, goes on at another one by the cursor."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("http", "ws", 1) + "/graphql"
        self._cursor: str | None = None
        self.values: list[float] = []
        self.closed: list[int] = []
        self.is_up = asyncio.Event()

    async def follow(self) -> None:
        while True:
            protocols = [websockets.Subprotocol("graphql-transport-ws")]
            async with websockets.connect(self._url, subprotocols=protocols, proxy=None, open_timeout=30) as socket:
                try:
                    await self._listen(socket)
                except websockets.ConnectionClosed as error:
                    self.closed.append(error.rcvd.code if error.rcvd else 1006)

    async def _listen(self, socket: websockets.ClientConnection) -> None:
        await socket.send('{"type": "connection_init"}')
        payload = {"query": FOLLOW, "variables": {"after": self._cursor}}
        await socket.recv()
        await socket.send(msgspec.json.encode({"id": "1", "type": "subscribe", "payload": payload}).decode())
        await socket.send('{"type": "ping"}')
        async for text in socket:
            message = msgspec.json.decode(text)
            if message["type"] == "pong":
                self.is_up.set()
                continue
            assert message["payload"].get("data"), message
            batch = message["payload"]["data"]["measurements"]
            self._cursor = batch["cursor"]
            self.values += [each["metrics"]["rpm"] for each in batch["measurements"]]


@asynccontextmanager
async def running(*tasks: Any) -> AsyncIterator[None]:
    """Cancels them after the block; one that fails fails the test."""
    started = [asyncio.create_task(task) for task in tasks]
    try:
        yield
    finally:
        for task in started:
            task.cancel()
        for task in started:
            with suppress(asyncio.CancelledError):
                await task


async def test_a_rolling_restart_under_load_fails_no_request_and_loses_nothing(
    cluster: Cluster, connection: Connection
) -> None:
    machines = [f"PRESS-{number}" for number in range(4)]
    async with ServiceClient(cluster.url) as client:
        await client.register(*machines)
    followers = [Follower(cluster.url) for _ in range(3)]
    load, usage = Load(cluster.url, machines), Usage(cluster.url)

    def query(_: int) -> dict[str, Any]:
        return {"query": "{ machines { nodes { machineId latest { timestamp metrics } } } }"}

    def mutation(number: int) -> dict[str, Any]:
        machine = {"machineId": f"NEW-{number}", "machineType": "press", "location": "Hall 2"}
        text = "mutation ($input: RegisterMachineInput!) { registerMachine(input: $input) { machineId } }"
        return {"query": text, "variables": {"input": machine}}

    async with running(*(follower.follow() for follower in followers)):
        for follower in followers:
            await asyncio.wait_for(follower.is_up.wait(), 30)
        async with asyncio.TaskGroup() as group, load.run():
            for anew in (True, False):
                group.create_task(usage.keep_asking("query", query, anew=anew))
            group.create_task(usage.keep_asking("mutation", mutation, anew=False))
            await load.wait_for(50)
            for member in cluster.members:
                await member.stop()
                await member.start()
                await cluster.wait_until_up(3)
                await load.wait_for(20)
            usage.stopping = True
        expected = sorted(load.acknowledged.values())
        async with asyncio.timeout(60):
            while any(len(follower.values) < len(expected) for follower in followers):  # noqa: ASYNC110 - of others
                await asyncio.sleep(0.05)
    assert usage.failed == []
    assert load.sent_again == 0
    assert min(usage.done.values()) > 20
    stored = await connection.fetch("SELECT machine_id, timestamp FROM raw_measurements")
    assert len(stored) == len(load.acknowledged)
    assert (
        await connection.fetchval("SELECT count(*) FROM machines WHERE machine_id LIKE 'NEW-%'")
        == usage.done["mutation"]
    )
    for follower in followers:
        assert sorted(follower.values) == expected
        assert set(follower.closed) <= {1012}
    assert sum(len(follower.closed) for follower in followers) >= 3


async def ask_each_twice(cluster: Cluster) -> list[int]:
    """The statuses of two requests for each of two processes, which the proxy sends them in turn."""
    statuses = []
    for _ in range(4):
        async with httpx.AsyncClient(base_url=cluster.url, timeout=30, trust_env=False) as http:
            body = {"query": "{ machines { totalCount } }"}
            statuses.append((await http.post("/graphql", json=body)).status_code)
    return statuses


async def wait_until_gone(member: Member) -> None:
    """Until it takes no connection any more."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", member.port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_without_a_drain_a_proxy_that_has_not_noticed_fails_requests(database_url: str) -> None:
    async with run_simple_cluster(database_url, drain="PT0S", check="1h") as cluster:
        assert await ask_each_twice(cluster) == [200] * 4
        cluster.members[0].tell_to_stop()
        await wait_until_gone(cluster.members[0])
        assert sorted(await ask_each_twice(cluster)) == [200, 200, 503, 503]


async def test_with_a_drain_the_same_proxy_fails_none(database_url: str) -> None:
    async with run_simple_cluster(database_url, drain="PT1H", check="200ms") as cluster:
        leaving = cluster.members[0]
        leaving.tell_to_stop()
        async with httpx.AsyncClient(base_url=leaving.url, timeout=30, trust_env=False) as http, asyncio.timeout(30):
            while (await http.get("/health/ready")).status_code == 200:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
        assert await ask_each_twice(cluster) == [200] * 4  # whether it has been noticed or not
        await cluster.wait_until_up(1)
        leaving.tell_to_stop()  # the second time: at once
        await wait_until_gone(leaving)
        assert await ask_each_twice(cluster) == [200] * 4
