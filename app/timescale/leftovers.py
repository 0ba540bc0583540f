"""Steps of migrations that can't run in a transaction: written down with their migration, run after it, one by one.

A crash in between leaves them in the table `migration_step`, and the next run begins with them. Each may run twice: one
that was cut off is run again. The table is there only as long as there is something in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from app.timescale.journal import LOCK, take_lock
from app.timescale.steps import CONDITIONS, LOCK_TIMEOUT, Step
from app.timescale.tokens import split_statements

CREATE_STEPS = (
    "CREATE TABLE IF NOT EXISTS migration_step "
    "(id bigserial PRIMARY KEY, migration text NOT NULL, statement text NOT NULL, query text, cleanup text)"
)

# The lock_timeout that the session began with.
RESTORE_PATIENCE = (
    "SELECT set_config('lock_timeout', reset_val, false) AS lock_timeout FROM pg_settings WHERE name = 'lock_timeout'"
)


async def record_steps(connection: Any, migration_id: str, steps: Sequence[Step]) -> None:
    """Writes down what is to be done after COMMIT, instead of what the migration left before; nothing where the edition can't."""
    if await has_leftovers(connection):
        await connection.execute("DELETE FROM migration_step WHERE migration = $1", migration_id)
    chosen = [step for step in steps if await connection.fetchval(f"SELECT {CONDITIONS[step.needs]}")]
    if not chosen:
        return
    await connection.execute(CREATE_STEPS)
    await connection.executemany(
        "INSERT INTO migration_step (migration, statement, query, cleanup) VALUES ($1, $2, $3, $4)",
        [(migration_id, step.sql, step.values, step.cleanup) for step in chosen],
    )


async def has_leftovers(connection: Any) -> bool:
    """Whether there is, or just was, something left to do."""
    return bool(await connection.fetchval("SELECT to_regclass('migration_step') IS NOT NULL"))


async def read_leftovers(connection: Any) -> list[tuple[str, str]]:
    """What a run that was cut off has left to do: pairs of a migration and a statement, in their order."""
    if not await has_leftovers(connection):
        return []
    rows = await connection.fetch("SELECT migration, statement FROM migration_step ORDER BY id")
    return [(row["migration"], row["statement"]) for row in rows]


async def run_leftovers(connection: Any) -> None:
    """Runs what is written down, each step by itself. Raises what asyncpg does, LockNotAvailableError where others are in its
    way for longer than LOCK_TIMEOUT; what is not done yet stays written down.

    The connection must be in no transaction. It takes the lock of the migrations, once more where it has it.
    """
    if not await has_leftovers(connection):
        return
    await take_lock(connection)
    try:
        while await has_leftovers(connection):
            row = await connection.fetchrow("SELECT * FROM migration_step ORDER BY id LIMIT 1")
            if row is None:
                await connection.execute("DROP TABLE migration_step")
                return
            if row["cleanup"] is not None and (left := await connection.fetchval(row["cleanup"])):
                await _run_patiently(connection, left)
            await _run_step(connection, row["statement"], row["query"])
            await connection.execute("DELETE FROM migration_step WHERE id = $1", row["id"])
    finally:
        await connection.execute(f"SELECT pg_advisory_unlock({LOCK}); {RESTORE_PATIENCE}")


async def _run_step(connection: Any, statement: str, query: str | None) -> None:
    if query is not None:
        values = await connection.fetchrow(query)
        if values is None:
            return
        for name, value in values.items():
            statement = statement.replace(f":{name}", value)
    if split_statements(statement):  # to one that is empty, which an earlier version wrote down, there is no answer
        await _run_patiently(connection, statement)


async def _run_patiently(connection: Any, statement: str) -> None:
    await connection.fetchval(f"SELECT set_config('lock_timeout', {choose_patience('$1::text')}, false)", statement)
    await connection.execute(statement)


def choose_patience(statement: str) -> str:
    """SQL that says which lock_timeout a statement gets, given SQL for its text.

    What says CONCURRENTLY waits for old transactions and keeps nobody waiting behind it, so it may wait as long as they last:
    lock_timeout would strike there too, and beside a long reader leave one index after the other that isn't valid.
    """
    beside = rf"""regexp_replace({statement}, '''[^'']*''|"[^"]*"', '', 'g') ~* '\mconcurrently\M'"""
    return f"CASE WHEN {beside} THEN '0' ELSE '{LOCK_TIMEOUT // timedelta(milliseconds=1)}' END"
