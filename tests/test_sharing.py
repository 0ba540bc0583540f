"""One event is executed once for all who ask the same of it, and everybody gets what they asked for."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from graphql import ExecutionResult

from app.events.batches import Batch
from app.events.fanout import Fanout
from app.graphql import sharing
from app.graphql.sharing import Answers
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.statements import count_statements

QUERY = """
    subscription ($machineIds: [ID!], $metrics: [String!], $from: String) {
      measurements(machineIds: $machineIds, metrics: $metrics, after: $from) {
        cursor dropped measurements { machineId metrics machine { machineType } }
      }
    }
"""
READINGS = [{"machine_id": name, "timestamp": 1000, "metrics": {"a": 1, "b": 2}} for name in "AB"]


def told(batch: Any) -> list[tuple[str, dict[str, float]]]:
    return [(each["machineId"], each["metrics"]) for each in batch["measurements"]]


async def test_what_many_ask_alike_is_asked_of_the_database_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_service(database_url) as service, AsyncExitStack() as stack:
        await service.register("A", "B")
        async with service.subscribe(QUERY) as subscription:
            await service.ingest(READINGS[0])
            cursor = (await subscription.next())["cursor"]
        plain = [await stack.enter_async_context(service.subscribe(QUERY)) for _ in range(20)]
        resumed = await stack.enter_async_context(service.subscribe(QUERY, **{"from": cursor}))
        statements = count_statements(monkeypatch)
        await service.ingest(READINGS[1])
        batches = [await each.next() for each in (*plain, resumed)]
        assert [told(batch) for batch in batches] == [[("B", {"a": 1.0, "b": 2.0})]] * 21
        assert len([statement for statement in statements if "machine_type" in statement]) == 1


async def test_who_asks_otherwise_gets_what_was_asked_for(service: ServiceClient) -> None:
    await service.register("A", "B")
    async with AsyncExitStack() as stack:
        asked: list[tuple[dict[str, Any], list[tuple[str, dict[str, float]]]]] = [
            ({}, [("A", {"a": 1.0, "b": 2.0}), ("B", {"a": 1.0, "b": 2.0})]),
            ({"machineIds": ["A"]}, [("A", {"a": 1.0, "b": 2.0})]),
            ({"machineIds": ["B"]}, [("B", {"a": 1.0, "b": 2.0})]),
            ({"metrics": ["b"]}, [("A", {"b": 2.0}), ("B", {"b": 2.0})]),
        ]
        subscriptions = [
            (await stack.enter_async_context(service.subscribe(QUERY, **variables)), wanted)
            for variables, wanted in asked * 3
        ]
        aliased = QUERY.replace("metrics machine", "values: metrics machine")
        other = await stack.enter_async_context(service.subscribe(aliased))
        await service.ingest(READINGS)
        for subscription, wanted in subscriptions:
            assert told(await subscription.next()) == wanted
        assert [each["values"] for each in (await other.next())["measurements"]] == [{"a": 1.0, "b": 2.0}] * 2


async def test_who_is_slow_is_told_alone_how_many_batches_are_gone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Fanout, Batch]] = []
    original = Fanout.give

    def give(self: Fanout, batch: Batch) -> None:
        # The first subscription of the set finds its queue full.
        given.append((self, batch))
        original(self, batch)
        if len(given) == 2:
            next(iter(self._subscriptions[batch.topic]))._dropped = 7

    monkeypatch.setattr(Fanout, "give", give)
    async with run_service(database_url) as service, AsyncExitStack() as stack:
        await service.register("A", "B")
        subscriptions = [await stack.enter_async_context(service.subscribe(QUERY)) for _ in range(3)]
        await service.ingest(READINGS[0])
        assert [(await each.next())["dropped"] for each in subscriptions] == [0, 0, 0]
        await service.ingest(READINGS[1])
        batches = [await each.next() for each in subscriptions]
    assert sorted(batch["dropped"] for batch in batches) == [0, 0, 7]
    assert [told(batch) for batch in batches] == [[("B", {"a": 1.0, "b": 2.0})]] * 3


async def test_whoever_comes_first_may_leave_and_the_others_still_get_the_answer() -> None:
    answers = Answers()
    executed = asyncio.Event()
    finish = asyncio.Event()

    async def execute() -> ExecutionResult:
        executed.set()
        await finish.wait()
        return ExecutionResult(data={"n": 1})

    async def find() -> ExecutionResult:
        found = answers.find("key", execute)
        return found if isinstance(found, ExecutionResult) else await found

    first, second = asyncio.create_task(find()), asyncio.create_task(find())
    await executed.wait()
    first.cancel()
    finish.set()
    assert msgspec.json.encode((await second).data) == b'{"n":1}'
    assert first.cancelled()


async def test_an_answer_with_errors_is_not_kept() -> None:
    answers = Answers()
    counts = 0

    async def execute() -> ExecutionResult:
        nonlocal counts
        counts += 1
        raise ConnectionError if counts == 1 else ValueError

    for error in (ConnectionError, ValueError):
        with pytest.raises(error):
            await answers.find("key", execute)  # type: ignore[misc]  # which isn't there yet
    assert counts == 2


async def test_old_answers_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MOST_BYTES", 100)
    answers = Answers()
    executed: list[int] = []

    async def ask(number: int) -> None:
        async def execute() -> ExecutionResult:
            executed.append(number)
            return ExecutionResult(data={"text": "x" * 29})  # 40 bytes of JSON

        found = answers.find(number, execute)
        if not isinstance(found, ExecutionResult):
            await found

    for number in (1, 2, 1, 2, 3, 3, 2, 1):
        await ask(number)
    assert executed == [1, 2, 3, 1]
