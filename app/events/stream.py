"""A subscriber's view of the outbox: what it missed, then what comes, each batch once and in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from app.database import Database
from app.errors import InvalidInput
from app.events.fanout import Fanout
from app.events.listener import PAGE
from app.events.measurements import ReadingBatch, load_batch
from app.events.outbox import Topic, find_newest_id, find_oldest_id, read_events


async def stream_batches(
    database: Database, fanout: Fanout, after: int | None
) -> AsyncGenerator[tuple[ReadingBatch, int], None]:
    """Batches with how many were dropped before each, from `after` (an event id) or from now on, without end.

    Raises InvalidInput when `after` is older than what the outbox still holds, DatabaseUnavailable when what was
    missed can't be read.
    """
    with fanout.subscribe() as subscription:
        if after is not None:
            async for batch in _replay(database, after, subscription.start):
                yield batch, 0
        while True:
            batch, dropped = await subscription.take()
            if after is None or batch.id > after:
                yield batch, dropped


async def _replay(database: Database, after: int, until: int) -> AsyncIterator[ReadingBatch]:
    async with database.connection() as connection:
        oldest, newest = await find_oldest_id(connection), await find_newest_id(connection)
    if after > newest:
        raise InvalidInput(f"There is no event {after} yet: the newest is {newest}.", field="after")
    if after < oldest:
        raise InvalidInput(
            f"The events after {after} are no longer kept: read the range with `measurements`, "
            "and subscribe without `after`.",
            field="after",
        )
    position = after
    while position < until:
        # The connection goes back to the pool before a batch goes to the client, who may be slow.
        async with database.connection() as connection:
            events = await read_events(connection, position, [Topic.MEASUREMENTS], PAGE)
            batches = [await load_batch(connection, event) for event in events if event.id <= until]
        if not batches:
            return
        for batch in batches:
            yield batch
            position = batch.id
