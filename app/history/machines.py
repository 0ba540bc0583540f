"""The machines by what they sent: the newest reading of each, how alive it looks, and the fleet as a whole.

Newest is by event time: a reading that arrives late never takes the place of a newer one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import msgspec

from app.database import Connection, Database
from app.errors import NotFound
from app.liveness.pulse import Liveness, LivenessLimits, Pulse, judge_liveness
from app.liveness.pulses import find_pulses, find_watched
from app.reading import StoredReading, decode_reading
from app.texts import quote_text


class FleetState(msgspec.Struct, frozen=True):
    """How many machines there are, in service, and by liveness; and when the newest reading of all was taken."""

    machines: int
    operational: int
    liveness: dict[Liveness, int]
    last_seen_at: datetime | None


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
        raise NotFound(f"No machine {quote_text(missing)} is registered.", field=field)


async def find_machine_pulses(database: Database, machine_ids: Sequence[str]) -> dict[str, Pulse]:
    """What was learned of those of the machines of which anything was."""
    async with database.reading() as connection:
        return await find_pulses(connection, machine_ids)


def judge_machine(
    pulse: Pulse | None, taken_at: datetime | None, arrived_at: datetime | None, now: datetime, limits: LivenessLimits
) -> Liveness:
    """The liveness of a machine by what was learned of it and by its newest reading, which may be newer than that."""
    if taken_at is None or arrived_at is None:
        return Liveness.NEVER_SEEN
    known = pulse or Pulse()
    return judge_liveness(known.find_seen_at(taken_at, arrived_at), known.usual_interval, now, limits)


async def find_latest(database: Database, machine_ids: Sequence[str]) -> dict[str, StoredReading]:
    """The newest reading of each machine that has one."""
    async with database.reading() as connection:
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
    async with database.reading() as connection:
        rows = await connection.fetch(
            """
            SELECT machine_id, operational, newest.timestamp, newest.created_at
            FROM machines LEFT JOIN LATERAL (
              SELECT timestamp, created_at FROM raw_measurements
              WHERE raw_measurements.machine_id = machines.machine_id
              ORDER BY timestamp DESC LIMIT 1
            ) AS newest ON true
            """
        )
        pulses = {machine.machine_id: machine.pulse for machine in await find_watched(connection)}
    liveness = Counter(
        judge_machine(pulses.get(row["machine_id"]), row["timestamp"], row["created_at"], now, limits) for row in rows
    )
    return FleetState(
        machines=len(rows),
        operational=sum(row["operational"] for row in rows),
        liveness={kind: liveness[kind] for kind in Liveness},
        last_seen_at=max((row["timestamp"] for row in rows if row["timestamp"]), default=None),
    )
