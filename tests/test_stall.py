"""Bodies that stop arriving: each is given up by itself, on one timer."""

import asyncio

import pytest

from app.ingest import stall
from app.ingest.stall import StallWatch


@pytest.fixture(autouse=True)
def short_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "STALL", 0.05)


async def test_what_arrives_in_time_is_given_and_what_does_not_is_given_up() -> None:
    watch = StallWatch()
    prompt, never = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(watch.wait(future)) for future in (prompt, never)]
    await asyncio.sleep(0)
    prompt.set_result(b"piece")
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[0] == b"piece"
    assert isinstance(outcomes[1], TimeoutError)


async def test_the_second_of_two_is_given_up_too_and_later_ones_as_well() -> None:
    watch = StallWatch()
    loop = asyncio.get_running_loop()
    for _ in range(2):
        first = asyncio.create_task(watch.wait(loop.create_future()))
        await asyncio.sleep(0.03)
        second = asyncio.create_task(watch.wait(loop.create_future()))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    watch = StallWatch()
    task = asyncio.create_task(watch.wait(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_was_given_up_goes_on_undisturbed() -> None:
    watch = StallWatch()

    async def wait_and_go_on() -> str:
        with pytest.raises(TimeoutError):
            await watch.wait(asyncio.get_running_loop().create_future())
        await asyncio.sleep(0)
        return "went on"

    assert await asyncio.create_task(wait_and_go_on()) == "went on"
