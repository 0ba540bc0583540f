"""The machines by what they sent: the newest reading of each, how alive it looks, and the fleet as a whole.

Newest is by event time: a reading that arrives late never takes the place of a newer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum

import msgspec

from app.database import Connection, Database
from app.errors import NotFound
from app.reading import StoredReading, decode_reading


class Liveness(Enum):
    """How long ago the newest reading was: LIVE, STALE or SILENT by the settings, NEVER_SEEN without any."""

    LIVE = "LIVE"
    STALE = "STALE"
    SILENT = "SILENT"
    NEVER_SEEN = "NEVER_SEEN"


class LivenessLimits(msgspec.Struct, frozen=True):
    """AURUM_STALE_AFTER and AURUM_SILENT_AFTER."""

    stale_after: timedelta
    silent_after: timedelta


class FleetState(msgspec.Struct, frozen=True):
    """How many machines there are, in service, and by liveness; and when the newest reading of all was taken."""

    machines: int
    operational: int
    liveness: dict[Liveness, int]
    last_seen_at: datetime | None


def judge_liveness(last_seen_at: datetime | None, now: datetime, limits: LivenessLimits) -> Liveness:
    """The liveness of a machine whose newest reading was taken at `last_seen_at`."""
    if last_seen_at is None:
        return Liveness.NEVER_SEEN
    age = now - last_seen_at
    if age > limits.silent_after:
        return Liveness.SILENT
    return Liveness.STALE if age > limits.stale_after else Liveness.LIVE


async def require_machines(connection: Connection, machine_ids: Sequence[str], *, field: str) -> None:
    """Raises NotFound, naming the first, when one of the machines isn't registered."""
    missing = await connection.fetchval(
        """
        SELECT wanted FROM unnest($1::text[]) WITH ORDINALITY AS asked (wanted, place)
        WHERE NOT EXISTS (SELECT FROM machines WHERE machine_id = wanted) ORDER BY place LIMIT 1
        """,
        list(machine_ids),
    )
    if missing is not None:
        raise NotFound(f"No machine {missing!r} is registered.", field=field)


async def find_latest(database: Database, machine_ids: Sequence[str]) -> dict[str, StoredReading]:
    """The newest reading of each machine that has one."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT newest.*
            FROM unnest($1::text[]) AS asked (machine_id)
            CROSS JOIN LATERAL (
              SELECT machine_id, timestamp, metrics, created_at FROM raw_measurements
              WHERE raw_measurements.machine_id = asked.machine_id
              ORDER BY timestamp DESC LIMIT 1
            ) AS newest
            """,
            list(machine_ids),
        )
    return {row["machine_id"]: decode_reading(row) for row in rows}


async def find_fleet(database: Database, now: datetime, limits: LivenessLimits) -> FleetState:
    """The state of all machines at `now`."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT operational, newest.timestamp AS last_seen_at
            FROM machines LEFT JOIN LATERAL (
              SELECT timestamp FROM raw_measurements
              WHERE raw_measurements.machine_id = machines.machine_id
              ORDER BY timestamp DESC LIMIT 1
            ) AS newest ON true
            """
        )
    liveness = Counter(judge_liveness(row["last_seen_at"], now, limits) for row in rows)
    return FleetState(
        machines=len(rows),
        operational=sum(row["operational"] for row in rows),
        liveness={kind: liveness[kind] for kind in Liveness},
        last_seen_at=max((row["last_seen_at"] for row in rows if row["last_seen_at"]), default=None),
    )
