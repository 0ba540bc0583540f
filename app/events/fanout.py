"""Gives each batch to every subscriber of this process, each through a queue of its own.

A queue is bounded and drops its oldest batch when it's full: a slow client loses batches and is told how many, and
neither the others nor the memory of the process suffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from app.events.measurements import ReadingBatch

QUEUE_LENGTH = 256  # batches


class Subscription:
    """One subscriber's queue. `start` is the id after which it begins: nothing older is ever put in."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._batches: deque[ReadingBatch] = deque()
        self._dropped = 0
        self._arrived = asyncio.Event()

    def put(self, batch: ReadingBatch) -> None:
        """Never waits."""
        if len(self._batches) == QUEUE_LENGTH:
            self._batches.popleft()
            self._dropped += 1
        self._batches.append(batch)
        self._arrived.set()

    async def take(self) -> tuple[ReadingBatch, int]:
        """Waits for the next batch; with it, how many were dropped since the one before."""
        while not self._batches:
            self._arrived.clear()
            await self._arrived.wait()
        dropped, self._dropped = self._dropped, 0
        return self._batches.popleft(), dropped


class Fanout:
    """The subscriptions of this process. `position` is the id of the newest event that was given to all of them."""

    def __init__(self) -> None:
        self.position = 0
        self._subscriptions: set[Subscription] = set()

    @property
    def is_idle(self) -> bool:
        return not self._subscriptions

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """A subscription to all that follows the present position, until the block ends."""
        subscription = Subscription(self.position)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def give(self, batch: ReadingBatch) -> None:
        """Puts a batch into every queue and moves the position."""
        for subscription in self._subscriptions:
            subscription.put(batch)
        self.position = batch.id
