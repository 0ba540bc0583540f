"""The table machine_pulses: what was learned of each machine, as it is read and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import asyncpg
import msgspec

from app.database import Connection
from app.liveness.pulse import Packet, Pulse

_packets = msgspec.json.Decoder(tuple[Packet, ...])


class WatchedMachine(msgspec.Struct, frozen=True):
    """A machine with what is known of it. `silent_since` is None while it's heard."""

    machine_id: str
    operational: bool
    pulse: Pulse
    silent_since: datetime | None


async def find_pulses(connection: Connection, machine_ids: Sequence[str]) -> dict[str, Pulse]:
    """What is known of those of the machines of which anything is."""
    rows = await connection.fetch(
        "SELECT machine_id, packets, usual_interval, clock_lag, seen_at FROM machine_pulses "
        "WHERE machine_id = ANY($1::text[])",
        list(machine_ids),
    )
    return {row["machine_id"]: _read_pulse(row, row["packets"]) for row in rows}


async def find_watched(connection: Connection) -> list[WatchedMachine]:
    """Every machine of which anything is known, without its packets, by id."""
    rows = await connection.fetch(
        "SELECT machine_id, operational, usual_interval, clock_lag, seen_at, silent_since "
        "FROM machine_pulses JOIN machines USING (machine_id) ORDER BY machine_id"
    )
    return [
        WatchedMachine(row["machine_id"], row["operational"], _read_pulse(row), row["silent_since"]) for row in rows
    ]


def _read_pulse(row: asyncpg.Record, packets: str = "[]") -> Pulse:
    return Pulse(_packets.decode(packets), row["usual_interval"], row["clock_lag"], row["seen_at"])


async def store_pulses(connection: Connection, pulses: Mapping[str, Pulse], silent: Mapping[str, datetime]) -> None:
    """Writes what was learned. A machine that is new here is silent since the instant in `silent`, if it's there."""
    if not pulses:
        return
    await connection.execute(
        """
        INSERT INTO machine_pulses AS stored (machine_id, packets, usual_interval, clock_lag, seen_at, silent_since)
        SELECT * FROM unnest($1::text[], $2::jsonb[], $3::interval[], $4::interval[], $5::timestamptz[], $6::timestamptz[])
        ON CONFLICT (machine_id) DO UPDATE SET packets = excluded.packets, usual_interval = excluded.usual_interval,
          clock_lag = excluded.clock_lag, seen_at = excluded.seen_at
        """,
        list(pulses),
        [msgspec.json.encode(pulse.packets).decode() for pulse in pulses.values()],
        [pulse.usual_interval for pulse in pulses.values()],
        [pulse.clock_lag for pulse in pulses.values()],
        [pulse.seen_at for pulse in pulses.values()],
        [silent.get(machine_id) for machine_id in pulses],
    )


async def mark_silent(connection: Connection, machine_ids: Iterable[str], since: datetime | None) -> None:
    """Machines that are silent since then; None, that are heard again."""
    await connection.execute(
        "UPDATE machine_pulses SET silent_since = $2 WHERE machine_id = ANY($1::text[])", list(machine_ids), since
    )


async def find_unknown_pulses(connection: Connection) -> dict[str, Pulse]:
    """What their newest readings alone say of machines of which nothing was learned."""
    rows = await connection.fetch("SELECT machine_id FROM machines EXCEPT SELECT machine_id FROM machine_pulses")
    newest = await find_newest(connection, [row["machine_id"] for row in rows])
    return {machine_id: Pulse(seen_at=Pulse().find_seen_at(*instants)) for machine_id, instants in newest.items()}


async def find_newest(connection: Connection, machine_ids: Sequence[str]) -> dict[str, tuple[datetime, datetime]]:
    """When the newest reading of each machine that has one was taken, and when it arrived."""
    rows = await connection.fetch(
        """
        SELECT asked.machine_id, newest.timestamp, newest.created_at
        FROM unnest($1::text[]) AS asked (machine_id)
        CROSS JOIN LATERAL (
          SELECT timestamp, created_at FROM raw_measurements
          WHERE raw_measurements.machine_id = asked.machine_id
          ORDER BY timestamp DESC LIMIT 1
        ) AS newest
        """,
        list(machine_ids),
    )
    return {row["machine_id"]: (row["timestamp"], row["created_at"]) for row in rows}
