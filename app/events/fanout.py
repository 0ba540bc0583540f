"""Gives each batch to every subscriber of its topic in this process, each through a queue of its own.

A queue is bounded, in batches and in bytes, and drops its oldest batches when it's full: a slow client loses batches and
is told how many, and neither the others nor the memory of the process suffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from app.events.batches import TOPICS, Batch
from app.events.outbox import Topic

QUEUE_LENGTH = 256  # batches
QUEUE_BYTES = 16 * 1024 * 1024  # of batches; one that is larger is queued alone


class Subscription:
    """One subscriber's queue. `start` is the id after which it begins: nothing older is ever put in."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._dropped = 0
        self.dropped = 0  # altogether
        self._arrived = asyncio.Event()

    def put(self, batch: Batch) -> None:
        """Never waits."""
        while self._batches and (len(self._batches) >= QUEUE_LENGTH or self._bytes + batch.size > QUEUE_BYTES):
            self._bytes -= self._batches.popleft().size
            self._dropped += 1
            self.dropped += 1
        self._batches.append(batch)
        self._bytes += batch.size
        self._arrived.set()

    async def take(self) -> tuple[Batch, int]:
        """Waits for the next batch; with it, how many were dropped since the one before."""
        while not self._batches:
            self._arrived.clear()
            await self._arrived.wait()
        dropped, self._dropped = self._dropped, 0
        batch = self._batches.popleft()
        self._bytes -= batch.size
        return batch, dropped


class Fanout:
    """The subscriptions of this process. `position` is the id of the newest event that was given to all of them."""

    def __init__(self) -> None:
        self.position = 0
        self.given = dict.fromkeys(TOPICS, 0)  # batches, each to all who follow
        self._dropped = dict.fromkeys(TOPICS, 0)  # batches, of subscriptions that are over
        self._subscriptions: dict[Topic, set[Subscription]] = {topic: set() for topic in TOPICS}

    @property
    def is_idle(self) -> bool:
        return not any(self._subscriptions.values())

    def has_followers(self, topic: Topic) -> bool:
        return bool(self._subscriptions[topic])

    @contextmanager
    def subscribe(self, topic: Topic) -> Iterator[Subscription]:
        """A subscription to all of a topic that follows the present position, until the block ends."""
        subscription = Subscription(self.position)
        self._subscriptions[topic].add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[topic].discard(subscription)
            self._dropped[topic] += subscription.dropped

    def count_subscriptions(self, topic: Topic) -> int:
        return len(self._subscriptions[topic])

    def count_dropped(self, topic: Topic) -> int:
        """Batches that slow clients let fall, of subscriptions that are over as well."""
        return self._dropped[topic] + sum(subscription.dropped for subscription in self._subscriptions[topic])

    def give(self, batch: Batch) -> None:
        """Puts a batch into the queues of its topic and moves the position."""
        self.given[batch.topic] += 1
        for subscription in self._subscriptions[batch.topic]:
            subscription.put(batch)
        self.position = batch.id

    def pass_over(self, event_id: int) -> None:
        """Moves the position past what nobody here follows."""
        self.position = event_id
