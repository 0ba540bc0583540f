"""What a load does about a database that goes away: it waits, and takes its lock again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import asyncpg

from app.database import Connection, Database, translate_errors
from app.errors import DatabaseUnavailable, InvalidInput

FIRST_DELAY, LONGEST_DELAY = 0.05, 1.0  # seconds between attempts to reach the database

# Whoever loads a file holds this lock with a number of the file's; any number will do.
_LOCK = 472_720

T = TypeVar("T")


async def wait_for_database(do: Callable[[], Awaitable[T]], patience: float) -> T:
    """What `do` gives, once the database is there. Raises DatabaseUnavailable when it wasn't for `patience` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    delay = FIRST_DELAY
    while True:
        try:
            return await do()
        except DatabaseUnavailable:
            if clock() > deadline:
                raise
        await asyncio.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY)


class FileLock:
    """The lock of a file, held in a session of its own: two loads of one file would write its refused rows together."""

    def __init__(self, database: Database, path: Path, fingerprint: str) -> None:
        self._database = database
        self._path = path
        self._key = int(fingerprint[:7], 16)
        self._session = AsyncExitStack()
        self._connection: Connection | None = None

    async def take(self) -> bool:
        """Takes it where it isn't held any longer, and says whether that was so.

        Raises InvalidInput when another process has it.
        """
        if self._is_held():
            return False
        await self.release()
        connection = await self._session.enter_async_context(self._database.connection())
        with translate_errors():
            taken = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _LOCK, self._key)
        if not taken:
            raise InvalidInput(f"{self._path} is being loaded already, by another process.")
        self._connection = connection
        return True

    def _is_held(self) -> bool:
        if self._connection is None:
            return False
        try:
            return not self._connection.is_closed()
        except asyncpg.InterfaceError:  # the pool has taken it back, since its session has ended
            return False

    async def release(self) -> None:
        """Lets go of it."""
        connection, self._connection = self._connection if self._is_held() else None, None
        # A session that has ended has let go of it already.
        with suppress(DatabaseUnavailable):
            try:
                if connection is not None:
                    with translate_errors():
                        await connection.execute("SELECT pg_advisory_unlock($1, $2)", _LOCK, self._key)
            finally:
                await self._session.aclose()
