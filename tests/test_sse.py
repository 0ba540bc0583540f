"""Subscriptions over Server-Sent Events, as a browser's EventSource and graphql-sse's client use them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from app.events import fanout
from app.events.outbox import Topic
from app.graphql import sse
from tests.client import PATIENCE, ServiceClient
from tests.conftest import run_service
from tests.following import is_here, is_up

QUERY = "subscription ($after: String) { measurements(after: $after) { cursor dropped measurements { metrics } } }"
ACCEPT = {"accept": "text/event-stream"}


class EventSource:
    """The events of one response; comments aside, as a browser hands them on."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def wait_until_up(self) -> None:
        """Until the service in this process has the subscription: the answer begins before."""
        async with asyncio.timeout(PATIENCE):
            while not is_up(self.response.headers["x-request-id"]):  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)

    async def next_comment(self) -> str:
        """The next line, which must be a comment."""
        async with asyncio.timeout(PATIENCE):
            while not (line := await anext(self._lines)):
                pass
        assert line.startswith(":"), line
        return line[1:].strip()

    async def next(self, seconds: float = PATIENCE) -> dict[str, str]:
        """The fields of the next event."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                elif fields:
                    return fields
        raise AssertionError("the stream has ended")

    async def next_value(self) -> float:
        """The value in the next batch of one reading."""
        event = await self.next()
        assert event["event"] == "next"
        (reading,) = msgspec.json.decode(event["data"])["data"]["measurements"]["measurements"]
        value: float = reading["metrics"]["a"]
        return value


@asynccontextmanager
async def listen(
    service: ServiceClient, query: str = QUERY, headers: dict[str, str] | None = None, **variables: Any
) -> AsyncIterator[EventSource]:
    body = {"query": query, "variables": variables}
    async with service.http.stream("POST", "/graphql", json=body, headers={**ACCEPT, **(headers or {})}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        events = EventSource(response)
        if query == QUERY and is_here(service.url) and "last-event-id" not in (headers or {}):
            await events.wait_until_up()
        yield events


async def ingest(service: ServiceClient, second: int) -> None:
    await service.ingest({"machine_id": "A", "timestamp": second * 1000, "metrics": {"a": second}})


async def test_a_batch_arrives_as_an_event_whose_id_is_its_cursor(service: ServiceClient) -> None:
    await service.register("A")
    async with listen(service) as events:
        await ingest(service, 1)
        event = await events.next()
    data = msgspec.json.decode(event["data"])["data"]["measurements"]
    assert event["event"] == "next"
    assert event["id"] == data["cursor"]
    assert data["measurements"] == [{"metrics": {"a": 1.0}}]
    assert events.response.headers["cache-control"] == "no-cache, no-transform"


async def test_a_browser_subscribes_by_get(service: ServiceClient) -> None:
    await service.register("A")
    async with service.http.stream(
        "GET", "/graphql", params={"query": QUERY, "variables": "{}"}, headers=ACCEPT
    ) as response:
        assert response.status_code == 200
        events = EventSource(response)
        await events.wait_until_up()
        await ingest(service, 1)
        assert await events.next_value() == 1.0


async def test_a_browser_that_comes_back_goes_on_where_it_was(service: ServiceClient) -> None:
    await service.register("A")
    async with listen(service) as events:
        await ingest(service, 1)
        first = await events.next()
    for second in (2, 3):
        await ingest(service, second)
    async with listen(service, after=first["id"]) as events:
        assert await events.next_value() == 2.0
        last = (await events.next())["id"]
    await ingest(service, 4)
    # The id is newer than the argument, which a browser repeats as it was.
    async with listen(service, headers={"last-event-id": last}, after=first["id"]) as events:
        assert await events.next_value() == 4.0


async def test_an_id_that_is_no_cursor_is_refused_and_the_stream_ends(service: ServiceClient) -> None:
    async with listen(service, headers={"last-event-id": "x"}) as events:
        event = await events.next()
        (error,) = msgspec.json.decode(event["data"])["errors"]
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "after"}
        assert (await events.next())["event"] == "complete"


async def test_a_query_is_answered_with_one_event(service: ServiceClient) -> None:
    async with listen(service, "{ fleet { machines } }") as events:
        event = await events.next()
        assert event["event"] == "next"
        assert json.loads(event["data"])["data"] == {"fleet": {"machines": 0}}
        assert await events.next() == {"event": "complete", "data": ""}


async def test_get_changes_nothing(service: ServiceClient) -> None:
    mutation = 'mutation { registerMachine(input: { machineId: "A", machineType: "x", location: "x" }) { machineId } }'
    for headers in (ACCEPT, {}):
        response = await service.http.get("/graphql", params={"query": mutation}, headers=headers)
        assert 'registerMachine":{' not in response.text
    assert (await service.ask("{ machines { totalCount } }"))["machines"]["totalCount"] == 0


async def test_a_stream_without_events_is_kept_open_by_comments(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.05)
    async with run_service(database_url) as service:
        await service.register("A")
        async with listen(service) as events:
            assert [await events.next_comment() for _ in range(2)] == ["ping", "ping"]
            await ingest(service, 1)
            assert await events.next_value() == 1.0


async def test_a_client_that_hangs_up_is_forgotten(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribed: list[fanout.Fanout] = []
    original = fanout.Fanout.subscribe

    def watch(self: fanout.Fanout, topic: Topic) -> Any:
        subscribed.append(self)
        return original(self, topic)

    monkeypatch.setattr(fanout.Fanout, "subscribe", watch)
    await service.register("A")
    async with listen(service) as events:
        await ingest(service, 1)
        await events.next()
        (hub,) = subscribed
        assert not hub.is_idle
    async with asyncio.timeout(PATIENCE):
        while not hub.is_idle:  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.01)
