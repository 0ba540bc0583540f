"""Gives up on bodies that stop arriving, with one timer for all of them, and on those that trickle.

A timer for each piece of each body (`asyncio.timeout`) would be a tenth of a small request's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

STALL = 30.0  # seconds without a byte after which a body is given up
LEAST_RATE = 240  # bytes of a body in a second, on the average of the time it is given; Kestrel asks for as many

Piece = TypeVar("Piece")


class Pace:
    """How long one body may still be waited for: what it has kept us waiting counts, and what it brought counts against that.

    A body that goes on is never too long, and what isn't taken of it for our own work is no time of its sender's.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = STALL

    def count(self, waited: float, size: int) -> bool:
        """So many bytes came after so many seconds; whether that was quick enough."""
        self._left = min(STALL, self._left - waited + size / LEAST_RATE)
        return self._left >= 0


class StallWatch:
    """What waits at present, each in a task of its own; all for STALL seconds at most, so the first to come expires first."""

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.Task[object], float] = {}
        self._given_up: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, arrival: Awaitable[Piece]) -> Piece:
        """What arrives. Raises TimeoutError after STALL seconds without it, at most a second later than that."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - what awaits is in a task
        loop = asyncio.get_running_loop()
        self._deadlines[task] = loop.time() + STALL
        if self._timer is None:
            self._timer = loop.call_later(STALL, self._look)
        try:
            return await arrival
        except asyncio.CancelledError:
            # Somebody else may have cancelled it as well, and then that counts.
            if task in self._given_up and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._deadlines.pop(task, None)
            self._given_up.discard(task)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task in [task for task, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[task]
            self._given_up.add(task)
            task.cancel()
        # Not at the very moment of the next one, or a thousand that stall one after the other would be as many timers.
        next_look = max(next(iter(self._deadlines.values())), now + 1) if self._deadlines else None
        self._timer = None if next_look is None else loop.call_at(next_look, self._look)
