"""What this process knows of the keys in use: checked in the database every few seconds, not for each request.

A key that is revoked lets nobody in after HOLDS seconds, in whichever process. When keys were used last is written once a
minute, beside requests.
"""

from __future__ import annotations

import time
from datetime import datetime

from app.access.keys import find_revoked, note_uses
from app.access.principal import Principal
from app.database import Database
from app.errors import DatabaseUnavailable
from app.instants import read_clock

HOLDS = 5.0  # seconds that what was found holds
NOTED_EVERY = 60.0  # seconds between two writes of when keys were used


class KeyRing:
    """The keys of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: dict[int, datetime] = {}
        self._revoked: dict[int, tuple[bool, float]] = {}  # and when that was found

    def note(self, principal: Principal) -> None:
        """A key was used just now."""
        if principal.key_id is not None:
            self._used[principal.key_id] = read_clock()

    async def write_uses(self) -> None:
        """Writes what was noted since the last time. Raises DatabaseUnavailable, and then it is kept."""
        if not self._used:
            return
        uses, self._used = self._used, {}
        try:
            async with self._database.connection() as connection:
                await note_uses(connection, uses)
        except DatabaseUnavailable:
            self._used = {**uses, **self._used}
            raise

    async def is_revoked(self, key_id: int) -> bool:
        """Whether a key that was let in is revoked by now. Raises DatabaseUnavailable."""
        known = self._revoked.get(key_id)
        if known is None or known[1] + HOLDS <= time.monotonic():
            async with self._database.reading() as connection:
                revoked = await find_revoked(connection, [key_id])
            known = self._revoked[key_id] = (key_id in revoked, time.monotonic())
        return known[0]
