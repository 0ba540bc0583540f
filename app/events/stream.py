"""A subscriber's view of the outbox: what it missed, then what comes, each batch once and in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from app.database import Database
from app.errors import InvalidInput
from app.events.batches import Batch, load_batch
from app.events.fanout import Fanout
from app.events.listener import PAGE
from app.events.outbox import Topic, find_newest_id, find_oldest_id, read_events


async def stream_batches(
    database: Database, fanout: Fanout, topic: Topic, after: int | None
) -> AsyncGenerator[tuple[Batch, int], None]:
    """Batches of a topic with how many were dropped before each, from `after` (an event id) or from now on, without end.

    From `after` on nothing is dropped: what a slow client let fall out of its queue is read from the outbox again.
    Raises InvalidInput when the outbox no longer holds what follows `after`, or what the client let fall;
    DatabaseUnavailable when it can't be read.
    """
    with fanout.subscribe(topic) as subscription:
        if after is None:
            while True:
                yield await subscription.take()
        position = after
        async for batch in _replay(database, topic, position, subscription.start):
            yield batch, 0
            position = batch.id
        while True:
            newest, dropped = await subscription.take()
            if dropped:
                async for batch in _replay(database, topic, position, newest.id - 1):
                    yield batch, 0
                    position = batch.id
            if newest.id > position:
                yield newest, 0
                position = newest.id


async def _replay(database: Database, topic: Topic, after: int, until: int) -> AsyncIterator[Batch]:
    async with database.connection() as connection:
        newest = await find_newest_id(connection)
    if after > newest:
        raise InvalidInput(f"There is no event {after} yet: the newest is {newest}.", field="after")
    position = after
    while True:
        async with database.connection() as connection:
            events = await read_events(connection, position, [topic], PAGE)
            # Asked after the reading, so that nothing can have been forgotten in between.
            oldest = await find_oldest_id(connection)
        if position < oldest:
            raise InvalidInput(
                f"The events after {position} are no longer kept: read the range with `{topic.value}`, "
                "and subscribe without `after`.",
                field="after",
            )
        events = [event for event in events if event.id <= until]
        if not events:
            return
        for event in events:
            # One at a time, and the connection goes back to the pool before it goes to the client, who may be slow.
            async with database.connection() as connection:
                batch = await load_batch(connection, event)
            yield batch
            position = batch.id
