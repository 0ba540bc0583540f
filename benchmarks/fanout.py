"""How long a commit takes to reach those who follow it: many subscribers of one process, a steady rate of commits.

The delay is counted from when COMMIT is sent, so the commit itself is in it, until the last byte of a subscriber's message
is there. Subscribers and publisher are one process beside the service, on the same machine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import asyncpg
import msgspec

from app.events.outbox import Topic, publish_event
from app.instants import to_microseconds
from benchmarks.followers import Follower, Tally
from benchmarks.report import Finding, bound
from benchmarks.scene import Process, make_database, run_server, wait_until_open

SUBSCRIBERS = 1_000
MACHINES = 100  # with a reading each in every commit
INTERVAL = 0.1  # seconds between commits
WARM, MEASURED = 30, 100  # commits
PATIENCE = 60.0  # seconds that the last messages are waited for
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
QUERY = "subscription { measurements { cursor dropped measurements { machineId timestamp metrics } } }"

Say: TypeAlias = Callable[[str], None]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def bench_fanout(server_url: str, say: Say) -> list[Finding]:
    """Every finding, on a database that is made for it and dropped at the end."""
    async with make_database(server_url) as url:
        connection = await asyncpg.connect(url, server_settings={"timezone": "UTC", "jit": "off"})
        try:
            await connection.execute(
                """
                INSERT INTO machines (machine_id, machine_type, location)
                SELECT 'BENCH-' || lpad(number::text, 3, '0'), 'press', 'bench' FROM generate_series(0, $1 - 1) AS number
                """,
                MACHINES,
            )
            with run_server("app.main:create_app", "--factory", database_url=url) as server:
                await wait_until_open(server)
                return await _measure(server, connection, say)
        finally:
            await connection.close()


async def _measure(server: Process, connection: Connection, say: Say) -> list[Finding]:
    tally = Tally()
    followers = await _connect(server, tally)
    say(f"{len(followers):,} subscribers, {server.read_memory():.0f} MB")
    gc.collect()
    gc.freeze()
    try:
        await _publish(connection, 0, WARM)
        await _wait(tally, WARM * len(followers))
        size, burned, began = tally.size, _read_cpu(server), time.perf_counter()
        sent = await _publish(connection, WARM, MEASURED)
        await _wait(tally, (WARM + MEASURED) * len(followers))
        seconds = time.perf_counter() - began
        burned = _read_cpu(server) - burned
    finally:
        for follower in followers:
            follower.close()
    if tally.dropped:
        raise RuntimeError(f"{tally.dropped} messages told of batches that were dropped")
    delays = sorted((instant - sent[event]) * 1000 for event in sent for instant in tally.received[event])
    deliveries = len(delays)
    say(
        f"{deliveries:,} messages of {(tally.size - size) / deliveries:,.0f} bytes in {seconds:.1f} s; the service took "
        f"{burned / deliveries * 1e6:.0f} us of CPU for each, {burned / seconds:.0%} of a core, {server.read_memory():.0f} MB"
    )
    rate = 1 / INTERVAL
    name = f"{SUBSCRIBERS:,} subscribers, {rate:.0f} commits/s of {MACHINES} readings, delay"
    return [
        bound(f"{name}, {label}", "ms", delays[min(int(part * deliveries), deliveries - 1)], bar)
        for label, part, bar in (("p50", 0.5, 150), ("p95", 0.95, 300), ("p99", 0.99, 500))
    ]


async def _connect(server: Process, tally: Tally) -> list[Follower]:
    loop = asyncio.get_running_loop()
    followers = []
    for _ in range(SUBSCRIBERS):
        _, follower = await loop.create_connection(lambda: Follower(QUERY, tally), "127.0.0.1", server.port)
        await follower.ready
        followers.append(follower)
    return followers


async def _publish(connection: Connection, first: int, commits: int) -> dict[int, float]:
    """Commits at the steady rate; when each COMMIT was sent, by its event's id."""
    sent: dict[int, float] = {}
    began = time.perf_counter()
    for number in range(commits):
        await asyncio.sleep(max(0.0, began + number * INTERVAL - time.perf_counter()))
        instant = BEGIN + timedelta(seconds=first + number)
        metrics = msgspec.json.encode({"temperature": 71.25, "rpm": 1500.0 + number, "vibration": 2.5}).decode()
        names = [f"BENCH-{machine:03d}" for machine in range(MACHINES)]
        transaction = connection.transaction()
        await transaction.start()
        await connection.copy_records_to_table(
            "raw_measurements",
            records=[(name, instant, metrics) for name in names],
            columns=["machine_id", "timestamp", "metrics"],
        )
        keys = {name: [to_microseconds(instant)] for name in names}
        published = await publish_event(connection, Topic.MEASUREMENTS, keys)
        sent[published.id] = time.perf_counter()
        await transaction.commit()
    return sent


async def _wait(tally: Tally, messages: int) -> None:
    """Raises RuntimeError where they don't come."""
    before, deadline = -1, time.perf_counter() + PATIENCE
    while tally.messages < messages:
        if tally.messages == before and time.perf_counter() > deadline:
            raise RuntimeError(f"{tally.messages:,} messages have come of {messages:,}")
        if tally.messages > before:
            before, deadline = tally.messages, time.perf_counter() + PATIENCE
        await asyncio.sleep(0.01)


def _read_cpu(server: Process) -> float:
    """Seconds of CPU that the service has taken; Linux alone tells."""
    fields = Path(f"/proc/{server.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
