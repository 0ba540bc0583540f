"""The `measurements` subscription over graphql-transport-ws, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import asyncpg
import pytest
from strawberry.http.exceptions import WebSocketDisconnected

from app.database import Database
from app.events import fanout
from app.events.batches import Batch
from app.events.listener import Listener
from app.events.outbox import Topic, forget_events
from app.events.stream import stream_batches
from app.graphql.websocket import WebSocketHandler
from app.reading import StoredReading
from tests.client import ServiceClient
from tests.conftest import run_service

QUERY = """
    subscription ($machineIds: [ID!], $metrics: [String!], $after: String) {
      measurements(machineIds: $machineIds, metrics: $metrics, after: $after) {
        cursor dropped measurements { machineId timestamp metrics machine { latest { metrics } } }
      }
    }
"""


def reading(machine_id: str, second: int, **metrics: float) -> dict[str, Any]:
    return {"machine_id": machine_id, "timestamp": second * 1000, "metrics": metrics or {"a": float(second)}}


def seconds(batch: Any) -> list[tuple[str, float]]:
    return [(each["machineId"], each["metrics"]["a"]) for each in batch["measurements"]]


async def test_a_batch_arrives_once_it_is_committed(service: ServiceClient) -> None:
    await service.register("A", "B")
    async with service.subscribe(QUERY) as subscription:
        await service.ingest([reading("B", 2), reading("A", 2), reading("A", 1)])
        batch = await subscription.next()
        assert seconds(batch) == [("A", 1.0), ("A", 2.0), ("B", 2.0)]
        assert batch["dropped"] == 0
        assert batch["measurements"][0] == {
            "machineId": "A",
            "timestamp": "1970-01-01T00:00:01.000000Z",
            "metrics": {"a": 1.0},
            "machine": {"latest": {"metrics": {"a": 2.0}}},
        }


async def test_relations_are_as_new_as_their_batch(service: ServiceClient) -> None:
    await service.register("A")
    async with service.subscribe(QUERY) as subscription:
        for second in (1, 2):
            await service.ingest(reading("A", second))
            batch = await subscription.next()
            assert batch["measurements"][0]["machine"]["latest"]["metrics"] == {"a": float(second)}


async def test_only_what_was_asked_for_arrives(service: ServiceClient) -> None:
    await service.register("A", "B")
    async with service.subscribe(QUERY, machineIds=["A"], metrics=["a"]) as subscription:
        await service.ingest(reading("B", 1))
        await service.ingest(reading("A", 1, b=1))
        await service.ingest([reading("A", 2, a=7, b=8), reading("B", 2)])
        batch = await subscription.next()
        assert [(each["machineId"], each["metrics"]) for each in batch["measurements"]] == [("A", {"a": 7.0})]
        await subscription.expect_silence()


async def test_what_changed_nothing_is_no_event(service: ServiceClient) -> None:
    await service.register("A")
    async with service.subscribe(QUERY) as subscription:
        await service.ingest(reading("A", 1))
        assert seconds(await subscription.next()) == [("A", 1.0)]
        await service.ingest(reading("A", 1))
        await service.ingest(reading("A", 1, a=9))
        await service.ingest([reading("Z", 1)])
        await subscription.expect_silence()


async def test_a_cursor_resumes_with_nothing_missed_or_doubled(service: ServiceClient) -> None:
    await service.register("A")
    async with service.subscribe(QUERY) as subscription:
        await service.ingest(reading("A", 1))
        cursor = (await subscription.next())["cursor"]
    for second in range(2, 300):
        await service.ingest(reading("A", second))
    async with service.subscribe(QUERY, after=cursor) as subscription:
        await service.ingest(reading("A", 300))
        arrived = [seconds(await subscription.next())[0][1] for _ in range(299)]
        assert arrived == [float(second) for second in range(2, 301)]
        await subscription.expect_silence()


async def test_a_cursor_resumes_at_another_process_after_a_restart(database_url: str) -> None:
    async with run_service(database_url) as first:
        await first.register("A")
        async with first.subscribe(QUERY) as subscription:
            await first.ingest(reading("A", 1))
            cursor = (await subscription.next())["cursor"]
        await first.ingest(reading("A", 2))
    async with run_service(database_url) as second, second.subscribe(QUERY, after=cursor) as subscription:
        assert seconds(await subscription.next()) == [("A", 2.0)]
        await second.ingest(reading("A", 3))
        assert seconds(await subscription.next()) == [("A", 3.0)]


async def test_batches_of_one_process_arrive_at_another(database_url: str) -> None:
    async with run_service(database_url) as first, run_service(database_url) as second:
        await first.register("A")
        async with second.subscribe(QUERY) as subscription:
            await asyncio.gather(*(first.ingest(reading("A", n)) for n in range(20)))
            arrived: list[float] = []  # in as many batches as there were commits
            while len(arrived) < 20:
                arrived += [second for _, second in seconds(await subscription.next())]
            assert sorted(arrived) == [float(n) for n in range(20)]
            await subscription.expect_silence()


async def test_a_listener_that_lost_its_connection_catches_up(
    service: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await service.register("A")
    async with service.subscribe(QUERY) as subscription:
        await service.ingest(reading("A", 1))
        await subscription.next()
        killed = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'aurumai listener'"
        )
        assert len(killed) == 1
        for second in (2, 3):
            await service.ingest(reading("A", second))
        assert seconds(await subscription.next()) == [("A", 2.0)]
        assert seconds(await subscription.next()) == [("A", 3.0)]


async def test_a_slow_subscriber_loses_the_oldest_and_is_told_how_many() -> None:
    hub = fanout.Fanout()
    with hub.subscribe(Topic.MEASUREMENTS) as subscription:
        for number in range(1, fanout.QUEUE_LENGTH + 4):
            hub.give(Batch(number, Topic.MEASUREMENTS, [], 0))
        batch, dropped = await subscription.take()
        assert (batch.id, dropped) == (4, 3)
        batch, dropped = await subscription.take()
        assert (batch.id, dropped) == (5, 0)
    assert hub.is_idle


async def test_a_queue_is_bounded_in_bytes_and_holds_one_batch_of_any_size() -> None:
    hub = fanout.Fanout()
    half = fanout.QUEUE_BYTES // 2
    with hub.subscribe(Topic.ALERTS) as subscription:
        for number, size in enumerate((half, half, 1, 3 * half), start=1):
            hub.give(Batch(number, Topic.ALERTS, [], size))
        batch, dropped = await subscription.take()
        assert (batch.id, dropped) == (4, 3)
        for number in (5, 6):
            hub.give(Batch(number, Topic.ALERTS, [], half))
        assert [(batch.id, dropped) for batch, dropped in [await subscription.take(), await subscription.take()]] == [
            (5, 0),
            (6, 0),
        ]


async def test_a_slow_client_that_gave_a_cursor_misses_nothing(
    service: ServiceClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_LENGTH", 3)
    await service.register("A")
    async with service.subscribe(QUERY) as subscription:
        await service.ingest(reading("A", 0))
        cursor = int((await subscription.next())["cursor"])

    database = Database(timescale="auto", pool_size=2, statement_timeout=timedelta(seconds=10))
    await database.open(database_url)
    hub = fanout.Fanout()
    listener = Listener(database, hub)
    await listener.start()
    arrived = []
    try:
        async with contextlib.aclosing(stream_batches(database, hub, Topic.MEASUREMENTS, cursor)) as batches:
            for second in range(1, 31):
                await service.ingest(reading("A", second))
                if second % 10 == 0:
                    arrived.append(await anext(batches))
            async with asyncio.timeout(60):
                while len(arrived) < 30:
                    arrived.append(await anext(batches))
    finally:
        await listener.stop()
        await database.close()
    rows = [batch.rows[0] for batch, _ in arrived]
    assert [row.metrics["a"] for row in rows if isinstance(row, StoredReading)] == [
        float(second) for second in range(1, 31)
    ]
    assert {dropped for _, dropped in arrived} == {0}


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 30, "\u0661"])
async def test_a_cursor_that_is_none_is_refused(service: ServiceClient, cursor: str) -> None:
    async with service.subscribe(QUERY, after=cursor) as subscription:
        message = await subscription.next_message()
    (error,) = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after")


async def test_a_cursor_from_the_future_is_refused(service: ServiceClient) -> None:
    async with service.subscribe(QUERY, after="1000000") as subscription:
        message = await subscription.next_message()
    (error,) = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "after")


async def test_a_cursor_older_than_what_is_kept_is_refused_and_a_kept_one_works(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    # Kept so long that the service itself forgets none of them.
    async with run_service(database_url, AURUM_OUTBOX_RETENTION="P30D") as service:
        await service.register("A")
        cursors = []
        async with service.subscribe(QUERY) as subscription:
            for second in range(4):
                await service.ingest(reading("A", second))
                cursors.append((await subscription.next())["cursor"])
        old = "UPDATE outbox SET created_at = now() - interval '2 days' WHERE id <= $1"
        await connection.execute(old, int(cursors[1]))
        assert await forget_events(connection, timedelta(days=1)) == 1
        async with service.subscribe(QUERY, after=cursors[1]) as subscription:
            assert seconds(await subscription.next()) == [("A", 2.0)]
        async with service.subscribe(QUERY, after=cursors[0]) as subscription:
            message = await subscription.next_message()
    (error,) = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "no longer kept" in error["message"]


async def test_a_client_that_hangs_up_is_forgotten(service: ServiceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribed: set[fanout.Fanout] = set()
    original = fanout.Fanout.subscribe

    def watch(self: fanout.Fanout, topic: Topic) -> Any:
        subscribed.add(self)
        return original(self, topic)

    monkeypatch.setattr(fanout.Fanout, "subscribe", watch)
    await service.register("A")
    async with service.subscribe(QUERY) as subscription:
        await service.ingest(reading("A", 1))
        await subscription.next()
        (hub,) = subscribed
        assert not hub.is_idle
    async with asyncio.timeout(30):
        while not hub.is_idle:  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.01)


async def test_a_machine_that_is_not_there_cannot_be_followed(service: ServiceClient) -> None:
    await service.register("A")
    async with service.subscribe(QUERY, machineIds=["A", "Z"]) as subscription:
        message = await subscription.next_message()
    (error,) = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("NOT_FOUND", "machineIds")
    assert error["message"] == "No machine 'Z' is registered."


async def test_one_operation_more_than_a_websocket_may_have_is_refused_by_its_code(service: ServiceClient) -> None:
    async with service.subscribe(QUERY) as subscription:
        for number in range(2, 102):
            await subscription.send({"query": QUERY}, operation=str(number))
        message = await subscription.next_message()
        assert (message["id"], message["type"]) == ("101", "error")
        (error,) = message["payload"]
        assert error["message"] == (
            "This WebSocket has 100 operations under way, as many as it may: end one, or open another WebSocket."
        )
        assert error["extensions"].keys() == {"code", "correlationId"}
        assert error["extensions"]["code"] == "TOO_MANY_OPERATIONS"
        # Once one is over there is room for another.
        await subscription.complete("7")
        await subscription.send({"query": "{ fleet { machines } }"}, operation="101")
        assert await subscription.next_message() == {
            "id": "101",
            "type": "next",
            "payload": {"data": {"fleet": {"machines": 0}}, "extensions": ANY},
        }


async def test_a_client_that_goes_while_it_is_told_something_is_no_failure(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone, told = asyncio.Event(), asyncio.Event()
    ended = []
    shut_down, run_operation = WebSocketHandler.shutdown, WebSocketHandler.run_operation

    async def shut_down_late(self: WebSocketHandler) -> None:
        gone.set()
        await told.wait()
        await shut_down(self)

    async def run_and_tell(self: WebSocketHandler, operation: Any) -> None:
        try:
            await run_operation(self, operation)
        except Exception as error:
            ended.append(type(error))
            raise
        finally:
            told.set()

    monkeypatch.setattr(WebSocketHandler, "shutdown", shut_down_late)
    monkeypatch.setattr(WebSocketHandler, "run_operation", run_and_tell)
    async with run_service(database_url) as service:
        await service.register("A")
        async with service.subscribe(QUERY) as subscription:
            await service.ingest(reading("A", 1))
            await subscription.next()
        await asyncio.wait_for(gone.wait(), 30)
        await service.ingest(reading("A", 2))
        await asyncio.wait_for(told.wait(), 30)
    assert ended == [WebSocketDisconnected]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
