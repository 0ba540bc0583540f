"""The journal of a database's migrations: what was applied and reversed, by whom, when, how long it took, from which file.

It is written in the migration's own transaction, which Piccolo's bookkeeping isn't: where a crash comes between the two,
the journal is right. The lock that every migration takes lives here too.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import msgspec

from app.engine import Engine

# Any number will do, as long as it never changes: old and new runners must ask for the same lock.
LOCK = 4_727_201_001

PAUSE = 0.3  # seconds between two tries to get it

# `by` is NULL where a psql script was run: only the role is known then.
CREATE_JOURNAL = """
CREATE TABLE IF NOT EXISTS migration_journal (
  id bigserial PRIMARY KEY,
  migration text NOT NULL,
  event text NOT NULL,
  checksum text NOT NULL,
  role text NOT NULL DEFAULT session_user,
  by text,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  took interval NOT NULL
)
""".strip()


class Event(Enum):
    """What was done: ACCEPTED says that an edited file of an applied migration is right as it is now."""

    APPLIED = "applied"
    REVERSED = "reversed"
    ACCEPTED = "accepted"


class Entry(msgspec.Struct, frozen=True):
    """`checksum` is that of the file as it was then; `role` the database's, `by` the user and machine that ran it."""

    migration: str
    event: Event
    checksum: str
    role: str
    by: str | None
    at: datetime
    took: timedelta


@asynccontextmanager
async def hold_lock(engine: Engine) -> AsyncIterator[Any]:
    """The connection of the runner, which has the lock; without a runner one that takes it, for everything in the block."""
    if engine.held is not None:
        yield engine.held
        return
    connection: Any = await engine.get_new_connection()
    try:
        await take_lock(connection)
        with engine.hold(connection):
            yield connection
    finally:
        await connection.close()


async def take_lock(connection: Any) -> None:
    """Asks again and again, outside of any transaction, rather than wait in the server.

    Who waits there has a snapshot, which holds back VACUUM, and for which CREATE INDEX CONCURRENTLY waits: where the
    session that has the lock runs one, both would wait for good. In a transaction asyncpg keeps the snapshot between two
    queries.
    """
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):  # noqa: ASYNC110 - as said
        await asyncio.sleep(PAUSE)


async def read_journal(connection: Any) -> list[Entry]:
    """All of it, oldest first; empty where no migration was run since there are journals."""
    if not await connection.fetchval("SELECT to_regclass('migration_journal') IS NOT NULL"):
        return []
    rows = await connection.fetch(
        "SELECT migration, event, checksum, role, by, at, took FROM migration_journal ORDER BY id"
    )
    return [Entry(**{**row, "event": Event(row["event"])}) for row in rows]


async def write_entry(connection: Any, migration_id: str, event: Event, checksum: str, took: timedelta) -> None:
    """Adds what has just been done; the journal itself is made where there is none."""
    await connection.execute(CREATE_JOURNAL)
    await connection.execute(
        "INSERT INTO migration_journal (migration, event, checksum, by, took) VALUES ($1, $2, $3, $4, $5)",
        migration_id,
        event.value,
        checksum,
        name_user(),
        took,
    )


async def is_done(connection: Any, migration_id: str, event: Event) -> bool:
    """Whether this was the last that was done with a migration: by another process just now, or before a crash."""
    events = [
        entry.event
        for entry in await read_journal(connection)
        if entry.migration == migration_id and entry.event is not Event.ACCEPTED
    ]
    return events[-1:] == [event]


def name_user() -> str:
    """Who runs this process, where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
