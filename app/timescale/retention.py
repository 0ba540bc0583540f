"""Drops what is older than the retention of its table, where no policy of TimescaleDB does.

What the database is decides, not what AURUM_TIMESCALE makes of it:

    a hypertable of TimescaleDB Community   left to the policy that its migration added
    a hypertable of TimescaleDB Apache      whole chunks that ended before the cutoff, as that policy would
    a plain table                           rows from before the cutoff, in batches

The cutoff is the database's now() less the retention, the same for all of a pass. Each chunk or batch goes in a short
transaction of its own, and between two of them the pass rests as long as it worked: a backlog takes no more than half
of one connection, leaves vacuum and replicas time to follow, and what is done stays done when the pass is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import asyncpg

from app.database import (
    Connection,
    Edition,
    EditionName,
    describe_error,
    explain_refusal,
    probe_edition,
    translate_errors,
)
from app.engine import GRACE, UNREACHABLE, Engine
from app.timescale.hypertable import Hypertable
from app.timescale.steps import format_interval

# TimescaleDB's own policies run once a day, or less often. A pass that finds nothing costs one look into an index, and
# rows that go hour by hour go in small numbers at all times of the day instead of in one burst.
INTERVAL = 3600.0  # seconds

BATCH = 5_000  # rows
PAGES = 64  # of 8 kB, where there is no index on time: as many rows, unless they are very short

# AURUM_STATEMENT_TIMEOUT is about requests. A batch that takes this long waits for somebody else.
TIME_LIMIT = 300.0  # seconds

# A chunk goes with its foreign keys, which takes ACCESS EXCLUSIVE on the tables they refer to: whoever reads or writes
# those waits behind us. Shorter than PostgreSQL's deadlock_timeout (1 s), so that it is we who give way and nobody is
# cancelled because of us.
LOCK_TIMEOUT = 0.5  # seconds

# Any number will do, as long as every process of one database asks for the same lock.
LOCK = 4_727_201_004

logger = logging.getLogger(__name__)


async def drop_all_expired(engine: Engine, declared: Mapping[str, Hypertable]) -> dict[str, int]:
    """One pass over the tables that have a retention: how many chunks or rows were dropped of each.

    Nothing is done while another process is at it. A table that can't be dropped from now is logged, and left for the
    next pass. Raises DatabaseUnavailable. Holds a connection of its own, since requests can't wait for a backlog.
    """
    kept = {table: each for table, each in declared.items() if each.retention is not None}
    if not kept:
        return {}
    with explain_refusal():
        connection = await engine.get_new_connection()
    try:
        with translate_errors():
            await connection.execute("SET application_name = 'aurumai retention'")
            if not await connection.fetchval(f"SELECT pg_try_advisory_lock({LOCK})"):
                return {}
            edition = await probe_edition(connection, timescale="auto")
            dropped = {table: await _try_to_drop(connection, table, each, edition) for table, each in kept.items()}
            await connection.execute(f"SELECT pg_advisory_unlock({LOCK})")
            return dropped
    finally:
        # Not close(), which could wait for a server that doesn't answer any more. The lock goes with the session.
        connection.terminate()


async def _try_to_drop(connection: Connection, table: str, declared: Hypertable, edition: Edition) -> int:
    try:
        return await drop_expired(connection, table, declared, edition)
    except UNREACHABLE:
        raise
    except asyncpg.PostgresError as error:
        logger.warning("%s: what is too old stays until the next pass: %s.", table, describe_error(error))
        return 0


async def drop_expired(connection: Connection, table: str, declared: Hypertable, edition: Edition) -> int:
    """Drops what is older than the declared retention; how many chunks of a hypertable, or rows of a plain table.

    `edition` is the server's. Raises what asyncpg does; what was dropped before that is logged, and stays dropped.
    """
    if declared.retention is None:
        return 0
    is_hypertable = edition.has_hypertables and await _is_hypertable(connection, table)
    if is_hypertable and edition.name is EditionName.COMMUNITY:
        return 0
    cutoff = await connection.fetchval(f"SELECT (now() - {format_interval(declared.retention)})::text")
    drop = _drop_chunks if is_hypertable else _delete_rows
    dropped, started = 0, time.monotonic()
    try:
        async with aclosing(drop(connection, table, declared.time_column, cutoff)) as parts:
            async for count in parts:
                dropped += count
                await asyncio.sleep(time.monotonic() - started)
                started = time.monotonic()
    finally:
        if dropped:
            unit = "chunk" if is_hypertable else "row"
            logger.info("%s: dropped %d %s%s from before %s.", table, dropped, unit, "s" * (dropped != 1), cutoff)
    return dropped


async def _is_hypertable(connection: Connection, table: str) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables "
            "WHERE hypertable_schema = current_schema() AND hypertable_name = $1)",
            table,
        )
    )


# --- chunks -------------------------------------------------------------------------------------------------------


async def _drop_chunks(connection: Connection, table: str, _time: str, cutoff: str) -> AsyncGenerator[int, None]:
    """The oldest first; yields how many went with each end. All at once could need more locks than a server has."""
    ends = await connection.fetch(
        """
        SELECT DISTINCT range_end::text, range_end AS ended FROM timescaledb_information.chunks
        WHERE hypertable_schema = current_schema() AND hypertable_name = $1 AND range_end <= $2::text::timestamptz
        ORDER BY ended
        """,
        table,
        cutoff,
    )
    for end in ends:
        row = await _run_part(
            connection,
            f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'",
            f"SELECT count(*) FROM drop_chunks('\"{table}\"'::regclass, older_than => $1::text::timestamptz)",
            end["range_end"],
        )
        yield row["count"]


# --- rows ---------------------------------------------------------------------------------------------------------

# The only way left is the one meant, whatever the statistics of a table say that a backlog has just left.
_PLAIN_WAY = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off"


async def _delete_rows(connection: Connection, table: str, column: str, cutoff: str) -> AsyncGenerator[int, None]:
    """Yields how many rows each batch deleted. Rows that somebody else has locked stay for the next pass."""
    if await _has_index(connection, table, column):
        found = f'"{column}" >= $2::text::timestamptz ORDER BY "{column}" LIMIT {BATCH}'
        # Each batch begins where the last one ended: what that one deleted is still in the index until vacuum comes.
        reached = "-infinity"
        while (row := await _run_part(connection, _PLAIN_WAY, _delete(table, column, found), cutoff, reached))["count"]:
            yield row["count"]
            reached = row["reached"]
    else:
        # Once through the table, however many rows are too old.
        found = "ctid >= $2::text::tid AND ctid < $3::text::tid"
        statement = _delete(table, column, found)
        pages = await connection.fetchval(
            f"SELECT pg_relation_size('\"{table}\"'::regclass) / current_setting('block_size')::int"
        )
        for page in range(0, pages, PAGES):
            row = await _run_part(connection, _PLAIN_WAY, statement, cutoff, f"({page},0)", f"({page + PAGES},0)")
            yield row["count"]


async def _has_index(connection: Connection, table: str, column: str) -> bool:
    """Whether rows can be had in the order of time without sorting them."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (
              SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
              JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
              WHERE indrelid = to_regclass(quote_ident($1)) AND attname = $2
                AND amname = 'btree' AND indisvalid AND indpred IS NULL
            )
            """,
            table,
            column,
        )
    )


def _delete(table: str, column: str, found: str) -> str:
    """The statement that deletes those of `found` that are older than $1; nobody waits for it, nor it for anybody.

    The age is asked for twice: should the table become a hypertable meanwhile, a ctid means a row in every chunk.
    """
    return f"""
        WITH gone AS (
          DELETE FROM "{table}" WHERE "{column}" < $1::text::timestamptz AND ctid = ANY (ARRAY (
            SELECT ctid FROM "{table}" WHERE "{column}" < $1::text::timestamptz AND {found} FOR UPDATE SKIP LOCKED
          )) RETURNING "{column}"
        )
        SELECT count(*), max("{column}")::text AS reached FROM gone
        """


async def _run_part(connection: Connection, settings: str, statement: str, *arguments: str) -> Any:
    """The row of a statement in a transaction with these settings and our own time limit."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{TIME_LIMIT}s'; {settings}")
        return await connection.fetchrow(statement, *arguments, timeout=TIME_LIMIT + GRACE)
