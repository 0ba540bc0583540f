"""Follows the outbox, learns each machine's pulse from it, and tells who has gone silent and who is heard again.

What was learned, how far the outbox was read, what is silent, and the event that says so are one transaction under one
lock: however many processes watch one database, and whenever one of them is killed, each change is told exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from app.database import Connection, Database
from app.events.outbox import Event, Topic, find_newest_id, publish_event, read_events
from app.instants import from_microseconds, to_microseconds
from app.liveness.pulse import Liveness, LivenessLimits, Packet, Pulse, judge_liveness, learn_pulse
from app.liveness.pulses import (
    WatchedMachine,
    find_newest,
    find_pulses,
    find_unknown_pulses,
    find_watched,
    mark_silent,
    store_pulses,
)

INTERVAL = 5.0  # seconds between two looks
PAGE = 20  # events of one transaction
READER = "liveness"

# Any number will do, as long as every process of one database asks for the same lock.
_LOCK = 4_727_201_005


async def look_now(database: Database, limits: LivenessLimits) -> None:
    """`look`, by the database's clock: arrivals are told by it, and of two services one may have a wrong clock."""
    async with database.connection() as connection:
        now = await connection.fetchval("SELECT clock_timestamp()")
    await look(database, limits, now)


async def look(database: Database, limits: LivenessLimits, now: datetime) -> None:
    """Learns from what has arrived and tells what has changed by `now`; nothing where another process is at it."""
    while True:
        async with database.transaction() as connection:
            if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({_LOCK})"):
                return
            position = await connection.fetchval("SELECT position FROM outbox_readers WHERE name = $1", READER)
            if position is None:
                await _begin(connection, limits, now)
                continue
            events = await read_events(connection, position, [Topic.MEASUREMENTS], PAGE)
            if not events:
                await _tell_changes(connection, limits, now)
                return
            await _learn(connection, events, limits)
            await _move(connection, events[-1].id)


async def _begin(connection: Connection, limits: LivenessLimits, now: datetime) -> None:
    await _move(connection, await find_newest_id(connection))
    pulses = await find_unknown_pulses(connection)
    # Nobody knows when those went silent that are silent now.
    silent = {machine_id: now for machine_id, pulse in pulses.items() if _is_silent(pulse, now, limits)}
    await store_pulses(connection, pulses, silent)


async def _move(connection: Connection, position: int) -> None:
    await connection.execute(
        "INSERT INTO outbox_readers (name, position) VALUES ($1, $2) "
        "ON CONFLICT (name) DO UPDATE SET position = excluded.position",
        READER,
        position,
    )


async def _learn(connection: Connection, events: Sequence[Event], limits: LivenessLimits) -> None:
    packets: dict[str, list[Packet]] = {}
    for event in events:
        for machine_id, instants in event.payload.items():
            packet = Packet(to_microseconds(event.created_at), max(instants))
            packets.setdefault(machine_id, []).append(packet)
    known = await find_pulses(connection, list(packets))
    # Beside the loop: of a thousand machines it takes a tenth of a second.
    await store_pulses(connection, *await asyncio.to_thread(_learn_all, known, packets, limits))


def _learn_all(
    known: Mapping[str, Pulse], packets: Mapping[str, Sequence[Packet]], limits: LivenessLimits
) -> tuple[dict[str, Pulse], dict[str, datetime]]:
    """What is known now of each machine, and since when those are silent that were not heard even now."""
    learned: dict[str, Pulse] = {}
    silent: dict[str, datetime] = {}
    for machine_id, arriving in packets.items():
        before = known.get(machine_id, Pulse())
        pulse = learn_pulse(before, arriving, limits)
        if pulse == before:
            continue
        learned[machine_id] = pulse
        # One that begins with readings that were old when they came was not heard, and so doesn't go silent.
        arrived = from_microseconds(arriving[-1].arrived)
        if _is_silent(pulse, arrived, limits):
            silent[machine_id] = arrived
    return learned, silent


def _is_silent(pulse: Pulse, now: datetime, limits: LivenessLimits) -> bool:
    return judge_liveness(pulse.seen_at, pulse.usual_interval, now, limits) is Liveness.SILENT


async def _tell_changes(connection: Connection, limits: LivenessLimits, now: datetime) -> None:
    watched = await find_watched(connection)
    back = [each for each in watched if each.silent_since is not None and not _is_silent(each.pulse, now, limits)]
    gone = [each for each in watched if each.silent_since is None and _is_silent(each.pulse, now, limits)]
    if gone:
        # Their last packets may have been passed over.
        newest = await find_newest(connection, [machine.machine_id for machine in gone])
        gone = [_refresh(machine, newest.get(machine.machine_id)) for machine in gone]
        gone = [machine for machine in gone if _is_silent(machine.pulse, now, limits)]
        await mark_silent(connection, [machine.machine_id for machine in gone], now)
    if back:
        await mark_silent(connection, [machine.machine_id for machine in back], None)
    # Of a machine that is out of service silence is expected.
    told = {each.machine_id: _describe(each.pulse, limits, now) for each in (*gone, *back) if each.operational}
    if told:
        await publish_event(connection, Topic.LIVENESS, told)


def _refresh(machine: WatchedMachine, newest: tuple[datetime, datetime] | None) -> WatchedMachine:
    if newest is None:
        return machine
    pulse = msgspec.structs.replace(machine.pulse, seen_at=machine.pulse.find_seen_at(*newest))
    return msgspec.structs.replace(machine, pulse=pulse)


def _describe(pulse: Pulse, limits: LivenessLimits, now: datetime) -> dict[str, object]:
    liveness = judge_liveness(pulse.seen_at, pulse.usual_interval, now, limits)
    return {"liveness": liveness.value, "seen_at": to_microseconds(pulse.seen_at), "at": to_microseconds(now)}
