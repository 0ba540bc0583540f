"""Walks along the rows of audit and finds the first that is not as it was written, or is missing.

Whoever may switch triggers off can write the whole chain anew, or cut off its end: that shows by an anchor alone that was
noted elsewhere. Fails: DatabaseUnavailable.
"""

from __future__ import annotations

import msgspec

from app.access.chain import BEGINNING, Anchor, Link, find_break
from app.database import Connection, translate_errors

TRIGGERS = ("chain_inserted", "refuse_change")

_COLUMNS = ", ".join(Link.__struct_fields__)
_PIECE = 1_000  # rows that are in memory at once


class Finding(msgspec.Struct, frozen=True):
    """How many rows are right, the last of them, and what is wrong behind it, in a sentence; None where nothing is."""

    rows: int
    newest: Anchor
    problem: str | None


async def verify_chain(connection: Connection, since: Anchor = BEGINNING, expected: Anchor | None = None) -> Finding:
    """Goes over all rows behind `since`, which must be there, and so must `expected`, as they stand at one moment."""
    with translate_errors():
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            problem = await _find_switched_off(connection)
            for anchor in (since, expected):
                problem = problem or await _find_missing(connection, anchor)
            return Finding(0, since, problem) if problem else await _walk(connection, since)


async def _find_switched_off(connection: Connection) -> str | None:
    on = await connection.fetch(
        """
        SELECT tgname FROM pg_trigger
        WHERE tgrelid = 'audit'::regclass AND tgname = ANY($1::text[]) AND tgenabled IN ('O', 'A')
        """,
        list(TRIGGERS),
    )
    off = sorted(set(TRIGGERS) - {row["tgname"] for row in on})
    return f"Nothing guards audit: the trigger {off[0]} is switched off or gone." if off else None


async def _find_missing(connection: Connection, anchor: Anchor | None) -> str | None:
    if anchor is None or anchor == BEGINNING:
        return None
    stored = await connection.fetchval("SELECT hash FROM audit WHERE id = $1", anchor.id)
    if stored is None:
        return f"Row {anchor.id}, which was there, is missing."
    return None if stored == anchor.hash else f"Row {anchor.id} is not the one with the hash {anchor.hash.hex()}."


async def _walk(connection: Connection, since: Anchor) -> Finding:
    rows = 0
    newest = since
    # From below 1 as well: a row that was put in there is found.
    behind = since.id if since != BEGINNING else -(2**63)
    cursor = await connection.cursor(f"SELECT {_COLUMNS} FROM audit WHERE id > $1 ORDER BY id", behind)
    while piece := await cursor.fetch(_PIECE):
        for record in piece:
            link = Link(**record)
            problem = find_break(newest, link)
            if problem is not None:
                return Finding(rows, newest, problem)
            rows += 1
            newest = Anchor(link.id, link.hash)
    return Finding(rows, newest, None)
