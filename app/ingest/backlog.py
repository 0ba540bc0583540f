"""How much of the process's memory readings on their way to the database may take: bodies that arrive, rows that wait.

Arrives: how many bytes someone is about to hold. Fails: Overloaded, when there is no room for them.
"""

from __future__ import annotations

import asyncio
from collections import deque

from app.errors import Overloaded


class Share:
    """What one request holds of a Backlog, given back at the end of the block that it is the context of."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.size = 0

    def resize(self, size: int) -> None:
        """Holds that many bytes from now on. Raises Overloaded when they are more than before, and too many."""
        self._backlog.change(size - self.size)
        self.size = size

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self.resize(0)


class Backlog:
    """Counts bytes up to a limit. One batch that is larger than the limit is taken where nothing else waits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Bytes that may be held."""
        return self._limit

    @property
    def held(self) -> int:
        """Bytes that are."""
        return self._held

    def check(self, size: int) -> None:
        """Raises Overloaded when there is no room for that many bytes more."""
        if self._held and self._held + size > self._limit:
            raise Overloaded("More readings arrive than the database takes just now: try again in a moment.")

    def change(self, size: int) -> None:
        """Counts bytes that are taken, or given back where `size` is negative. Raises Overloaded."""
        if size > 0:
            self.check(size)
        self._held += size
        while self._waiting and self._held <= self._limit // 2:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def share(self) -> Share:
        """A share that holds nothing yet."""
        return Share(self)

    async def wait_for_room(self, seconds: float) -> None:
        """Waits until half of it is free: for who sends in parts and can be made to wait. Raises Overloaded."""
        if self._held <= self._limit // 2:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            raise Overloaded("The database did not keep up: send the rest again in a moment.") from None
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
