"""Who runs migrations, and what one that takes long is waiting for, or how far it is, from a connection beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from app.chores import stop
from app.database import CLOSE_TIMEOUT
from app.engine import UNREACHABLE, Engine
from app.timescale.journal import LOCK

FIRST_LOOK = 0.3  # seconds: most migrations are done before
INTERVAL = 0.5  # seconds
PATIENCE = 10.0  # seconds between two lines about a statement that goes on

_BLOCKERS = """
SELECT pid, usename, application_name, backend_type, state, host(client_addr) AS client,
       date_trunc('second', clock_timestamp() - xact_start)::text AS since
FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1)) ORDER BY xact_start
"""
_RUNS = """
SELECT pid, usename, application_name, backend_type, NULL AS state, host(client_addr) AS client,
       date_trunc('second', clock_timestamp() - backend_start)::text AS since
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32) + objid::bigint = $1
"""
_PROGRESS = """
SELECT format('%s of %s, %s of %s blocks', command, relid::regclass, blocks_done, blocks_total)
FROM pg_stat_progress_create_index WHERE pid = $1
"""


class Watch:
    """`blockers` are who the migration waited for last, each as a person would be told."""

    def __init__(self) -> None:
        self.blockers: list[str] = []


@asynccontextmanager
async def watch(engine: Engine, pid: int, warn: Callable[[str], None]) -> AsyncIterator[Watch]:
    """Watches the backend `pid` for as long as the block lasts."""
    found = Watch()
    task = asyncio.create_task(_look(engine, pid, found, warn), name="migration watch")
    try:
        yield found
    finally:
        await stop(task, CLOSE_TIMEOUT)


async def _look(engine: Engine, pid: int, found: Watch, warn: Callable[[str], None]) -> None:
    began = time.monotonic()
    await asyncio.sleep(FIRST_LOOK)
    try:
        connection: Any = await engine.get_new_connection()
    except (*UNREACHABLE, asyncpg.PostgresError):
        return  # the migration goes on without its watch
    try:
        said = began
        while True:
            if blockers := [describe_session(row) for row in await connection.fetch(_BLOCKERS, pid)]:
                found.blockers = blockers
            elif time.monotonic() - said >= PATIENCE:
                said = time.monotonic()
                step = await connection.fetchval(_PROGRESS, pid)
                warn(f"  {said - began:,.0f} s so far{f': {step}' if step else ''}")
            await asyncio.sleep(INTERVAL)
    finally:
        connection.terminate()


async def find_runs(connection: Any) -> list[str]:
    """Who has the lock of the migrations on this database, each as a person would be told; the connection itself too."""
    return [describe_session(row) for row in await connection.fetch(_RUNS, LOCK)]


def describe_session(row: Any) -> str:
    """Who has a session, in words: enough to find it, without what it asks for."""
    who = row["application_name"] or row["backend_type"]
    where = f" from {row['client']}" if row["client"] else ""
    doing = f", {row['state']}" if row["state"] else ""
    since = f" for {row['since']}" if row["since"] else ""
    return f"{who} ({row['usename'] or 'the server'}{where}, process {row['pid']}{doing}{since})"
