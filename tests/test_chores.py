"""What is done again and again goes on whatever happens, until it is stopped."""

from __future__ import annotations

import asyncio

from app.chores import repeat, stop
from app.errors import DatabaseUnavailable
from tests.conftest import hear


async def test_an_error_only_puts_a_chore_off() -> None:
    outcomes = [None, DatabaseUnavailable("The server is away."), ZeroDivisionError("a bug"), None]
    done: list[int] = []
    finished = asyncio.Event()
    failing: dict[str, bool] = {}

    async def do() -> None:
        if not outcomes:
            finished.set()
            return
        done.append(len(outcomes))
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with hear("app.chores") as lines:
        task = asyncio.create_task(repeat("sweep the floor", do, every=0, failing=failing))
        async with asyncio.timeout(30):
            await finished.wait()
            await stop(task, 5)
    assert done == [4, 3, 2, 1]
    assert failing == {"sweep the floor": False}
    assert lines == [
        "WARNING Could not sweep the floor: The server is away.",
        "ERROR Could not sweep the floor, and will try again.",
    ]


async def test_a_chore_stops_in_the_middle_of_its_work() -> None:
    begun = asyncio.Event()

    async def do() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(repeat("wait", do, every=3600, failing={}))
    await begun.wait()
    async with asyncio.timeout(30):
        await stop(task, 5)
    assert task.cancelled()


async def test_a_chore_stops_although_an_outage_takes_the_place_of_its_cancellation() -> None:
    begun = asyncio.Event()

    async def do() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise DatabaseUnavailable("The server is away.")

    task = asyncio.create_task(repeat("wait", do, every=3600, failing={}))
    await begun.wait()
    async with asyncio.timeout(30):
        await stop(task, 0.01)
    assert task.cancelled()
