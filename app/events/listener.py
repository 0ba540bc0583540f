"""Hears of new events over one connection of its own, and reads them from the outbox in order.

NOTIFY only wakes it: what is delivered comes from the table, from the last id on, so a notification that is lost or
a connection that breaks costs time and never an event. Fails: never; it reconnects until it is stopped.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncpg

from app.chores import stop
from app.database import CLOSE_TIMEOUT, Database
from app.engine import CONNECT_TIMEOUT, UNREACHABLE
from app.events.batches import TOPICS, load_batch
from app.events.fanout import Fanout
from app.events.outbox import CHANNEL, find_newest_id, read_events

POLL_INTERVAL = 5.0  # seconds after which it looks by itself, should a notification be lost
PAGE = 100  # events read at a time
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between attempts to reconnect

logger = logging.getLogger(__name__)


class Listener:
    """Feeds a Fanout from the outbox between `start` and `stop`."""

    def __init__(self, database: Database, fanout: Fanout) -> None:
        self._database = database
        self._fanout = fanout
        self._wake = asyncio.Event()
        self._connected = asyncio.Event()
        self.connections = 0  # that it has had
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins at the newest event, and comes back once it listens, or has tried for CONNECT_TIMEOUT seconds.

        Raises DatabaseUnavailable when the database can't be reached.
        """
        async with self._database.connection() as connection:
            self._fanout.position = await find_newest_id(connection)
        self._task = asyncio.create_task(self._run(), name="outbox listener")
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._connected.wait()

    @property
    def is_up(self) -> bool:
        """Whether it hears the database."""
        return self._connected.is_set()

    async def stop(self) -> None:
        if self._task is not None:
            await stop(self._task, CLOSE_TIMEOUT)
            self._task = None

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                connection = await self._database.engine.get_new_connection()
                try:
                    await connection.execute("SET application_name = 'aurumai listener'")
                    await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
                    connection.add_termination_listener(lambda *_: self._wake.set())
                    delay = FIRST_DELAY
                    self.connections += 1
                    self._connected.set()
                    await self._follow(connection)
                    logger.warning("The outbox listener lost its connection; trying again in %.1f s.", delay)
                finally:
                    self._connected.clear()
                    # Not close(): on a broken connection it would wait for an answer that never comes.
                    connection.terminate()
            except (*UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                logger.warning("The outbox listener lost its connection (%s); trying again in %.1f s.", error, delay)
            except Exception:
                # A listener that died of a bug would leave every subscriber waiting, with nothing to show for it.
                logger.exception("The outbox listener failed; trying again in %.1f s.", delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    async def _follow(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while not connection.is_closed():
            self._wake.clear()
            if self._fanout.is_idle:
                # With nobody listening no event is worth reading; whoever comes later begins after them.
                newest = await find_newest_id(connection)
                if self._fanout.is_idle and newest > self._fanout.position:
                    self._fanout.pass_over(newest)
            while not self._fanout.is_idle and (
                events := await read_events(connection, self._fanout.position, TOPICS, PAGE)
            ):
                for event in events:
                    # Asked for each: who comes while one is loaded begins behind the one before it.
                    if self._fanout.has_followers(event.topic):
                        self._fanout.give(await load_batch(connection, event))
                    else:
                        self._fanout.pass_over(event.id)
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                continue
