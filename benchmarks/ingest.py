"""How fast readings become durable: through our HTTP, beside COPY alone into the same table, and beside a usual stack.

Both sides take turns on the same table, emptied in between, and what counts is the median of the rounds' ratios: what
else the machine does meets both.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import msgspec

from benchmarks.load import Load, make_request, post_all
from benchmarks.report import Finding, bound, compare
from benchmarks.scene import Process, make_database, run_server, wait_until_open

MACHINES = 50
ROWS = 1_000  # of a batch
CLIENTS = 8
BATCHES = 200  # of one measurement
ROUNDS = 9
SINGLE_CLIENTS = 64
SINGLES, PEER_SINGLES = 20_000, 3_000
FLAT_ROWS = 5_000_000
OVERLOAD_CLIENTS = 512
FILLED_ROWS = 50_000_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=100)

Reading: TypeAlias = dict[str, Any]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Say: TypeAlias = Callable[[str], None]


def make_readings(batch: int, rows: int = ROWS) -> list[Reading]:
    """A batch of its own for each number: 5 metrics of each of 50 machines, ten times a second."""
    chance = random.Random(batch)
    start = BEGIN + batch * (rows // MACHINES) * STEP
    return [
        {
            "machine_id": f"BENCH-{place % MACHINES:02d}",
            "timestamp": start + place // MACHINES * STEP,
            "metrics": {
                "temperature": round(chance.uniform(20, 90), 2),
                "rpm": chance.randint(900, 1800),
                "vibration": round(chance.uniform(0, 5), 3),
                "pressure": round(chance.uniform(1, 9), 2),
                "power": round(chance.uniform(100, 400), 1),
            },
        }
        for place in range(rows)
    ]


def write_json(readings: Sequence[Reading]) -> bytes:
    """A POST of an array."""
    return make_request("/ingest", msgspec.json.encode(readings), "application/json")


def write_lines(readings: Sequence[Reading]) -> bytes:
    """A POST of NDJSON."""
    return make_request("/ingest", msgspec.json.Encoder().encode_lines(readings), "application/x-ndjson")


def write_messagepack(readings: Sequence[Reading]) -> bytes:
    """A POST of an array, its instants in milliseconds."""
    rows = [{**row, "timestamp": int(row["timestamp"].timestamp() * 1000)} for row in readings]
    return make_request("/ingest", msgspec.msgpack.encode(rows), "application/msgpack")


async def bench_ingest(server_url: str, say: Say) -> list[Finding]:
    """Every finding, on a database that is made for it and dropped at the end."""
    async with make_database(server_url) as url:
        connections: list[Connection] = [
            await asyncpg.connect(url, server_settings={"timezone": "UTC", "jit": "off"}) for _ in range(CLIENTS)
        ]
        try:
            await _register(connections[0])
            with run_server("app.main:create_app", "--factory", database_url=url) as ours:
                await wait_until_open(ours)
                findings = [*await _bench_batches(ours, connections, say)]
                with run_server("benchmarks.peer:app", database_url=url) as theirs:
                    await wait_until_open(theirs)
                    findings.append(await _bench_singles(ours, theirs, connections[0], say))
            with run_server("app.main:create_app", "--factory", database_url=url) as ours:
                await wait_until_open(ours)
                findings += await _bench_memory(ours, connections[0], say)
        finally:
            for connection in connections:
                await connection.close()
    return [*findings, await _bench_full_table(server_url, say)]


async def _register(connection: Connection) -> None:
    await connection.execute(
        """
        INSERT INTO machines (machine_id, machine_type, location, operational, created_at, updated_at)
        SELECT 'BENCH-' || lpad(number::text, 2, '0'), 'press', 'bench', true, now(), now()
        FROM generate_series(0, $1 - 1) AS number
        """,
        MACHINES,
    )


async def _empty(connection: Connection) -> None:
    await connection.execute("TRUNCATE raw_measurements, outbox")
    await _flush(connection)


async def _flush(connection: Connection) -> None:
    try:
        await connection.execute("CHECKPOINT", timeout=3600)
    except asyncpg.InsufficientPrivilegeError:
        return  # then what one side wrote may be flushed while the other is measured; rounds take turns


async def _bench_batches(ours: Process, connections: Sequence[Connection], say: Say) -> list[Finding]:
    batches = [make_readings(batch) for batch in range(BATCHES)]
    tuples = [
        [(row["machine_id"], row["timestamp"], msgspec.json.encode(row["metrics"]).decode(), BEGIN) for row in batch]
        for batch in batches
    ]
    formats = {
        name: [write(batch) for batch in batches]
        for name, write in (("JSON", write_json), ("NDJSON", write_lines), ("MessagePack", write_messagepack))
    }
    rates: dict[str, list[float]] = {name: [] for name in ("COPY", *formats)}

    async def measure(name: str) -> None:
        await _empty(connections[0])
        if name == "COPY":
            seconds = await _copy_all(connections, tuples)
        else:
            seconds = await _post_good(ours, formats[name], CLIENTS)
        rates[name].append(BATCHES * ROWS / seconds)
        stored = await connections[0].fetchval("SELECT count(*) FROM raw_measurements")
        if stored != BATCHES * ROWS:
            raise RuntimeError(f"{name}: {stored} rows are stored of {BATCHES * ROWS}")

    names = list(rates)
    for number in range(ROUNDS + 1):
        # Each begins a round in its turn: what the machine does every so many seconds doesn't meet the same one each time.
        begin = number % len(names)
        for name in (*names[begin:], *names[:begin]):
            await measure(name)
        if number == 0:  # the first warms everything up
            for measured in rates.values():
                measured.clear()
            continue
        say(", ".join(f"{name} {measured[-1]:,.0f}/s" for name, measured in rates.items()))
    return _compare_batches(rates)


def _compare_batches(rates: dict[str, list[float]]) -> list[Finding]:
    theirs = statistics.median(rates["COPY"])
    ratios = {
        name: statistics.median(ours / copied for ours, copied in zip(measured, rates["COPY"], strict=True))
        for name, measured in rates.items()
    }
    best = max(("NDJSON", "MessagePack"), key=lambda name: ratios[name])
    return [
        compare(
            f"{ROWS:,}-row batches, {CLIENTS} clients, {name}, against COPY alone",
            "readings/s",
            statistics.median(rates[name]),
            theirs,
            ratios[name],
            0.75 if name == best else 0.6,
        )
        for name in ("JSON", "NDJSON", "MessagePack")
    ]


async def _copy_all(connections: Sequence[Connection], batches: Sequence[Sequence[tuple[Any, ...]]]) -> float:
    """Seconds that asyncpg's binary COPY takes, each batch its own transaction."""
    pending = iter(batches)

    async def copy(connection: Connection) -> None:
        for batch in pending:
            await connection.copy_records_to_table(
                "raw_measurements", records=batch, columns=["machine_id", "timestamp", "metrics", "created_at"]
            )

    began = time.perf_counter()
    await asyncio.gather(*(copy(connection) for connection in connections))
    return time.perf_counter() - began


async def _post_good(server: Process, requests: Sequence[bytes] | Iterator[bytes], clients: int) -> float:
    load = await post_all(server.port, requests, clients)
    load.require_all_good()
    return load.seconds


async def _bench_singles(ours: Process, theirs: Process, connection: Connection, say: Say) -> Finding:
    rates: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        await _empty(connection)
        readings = [row for batch in range(SINGLES // ROWS) for row in make_readings(batch)]
        requests = [make_request("/ingest", msgspec.json.encode(row), "application/json") for row in readings]
        fast = SINGLES / await _post_good(ours, requests, SINGLE_CLIENTS)
        await _empty(connection)
        slow = PEER_SINGLES / await _post_good(theirs, requests[:PEER_SINGLES], SINGLE_CLIENTS)
        if number:
            rates.append((fast, slow))
            say(f"one reading per POST: {fast:,.0f}/s, FastAPI and SQLAlchemy {slow:,.0f}/s")
    return compare(
        f"one reading per POST, {SINGLE_CLIENTS} clients, against FastAPI and SQLAlchemy",
        "readings/s",
        statistics.median(fast for fast, _ in rates),
        statistics.median(slow for _, slow in rates),
        statistics.median(fast / slow for fast, slow in rates),
        10,
    )


def _number_requests(first: int, stop: int) -> Iterator[bytes]:
    return (write_json(make_readings(batch)) for batch in range(first, stop))


async def _bench_memory(ours: Process, connection: Connection, say: Say) -> list[Finding]:
    await _empty(connection)
    warm = 200
    await _post_good(ours, _number_requests(0, warm), CLIENTS)
    before = ours.read_memory()
    most = await _watch_memory(ours, _post_good(ours, _number_requests(warm, FLAT_ROWS // ROWS), CLIENTS))
    say(f"memory: {before:.0f} MB after {warm * ROWS:,} readings, at most {most:.0f} MB up to {FLAT_ROWS:,}")
    flat = bound(f"memory gained over {FLAT_ROWS:,} readings", "MB", most - before, 100)

    await _empty(connection)
    requests = [write_json(make_readings(batch)) for batch in range(2_000)]
    loads: list[Load] = []

    async def overload() -> None:
        loads.append(await post_all(ours.port, requests, OVERLOAD_CLIENTS))

    most = await _watch_memory(ours, overload())
    statuses = dict(loads[0].statuses)
    if set(statuses) != {200, 503}:
        raise RuntimeError(f"an overload is answered with 200 and 503, not {statuses}")
    stored = await connection.fetchval("SELECT count(*) FROM raw_measurements")
    if stored != statuses[200] * ROWS:
        raise RuntimeError(f"{stored} rows are stored of {statuses[200] * ROWS} that were acknowledged")
    say(f"overload: {statuses[200]} answers 200, {statuses[503]} answers 503, at most {most:.0f} MB")
    gained = bound(f"memory gained under overload, {OVERLOAD_CLIENTS} clients", "MB", most - before, 100)
    return [flat, gained]


async def _watch_memory(server: Process, work: Awaitable[object]) -> float:
    """Does the work, and returns the most MB that the server had meanwhile."""
    task = asyncio.ensure_future(work)
    most = server.read_memory()
    while not task.done():
        await asyncio.wait([task], timeout=0.1)
        most = max(most, server.read_memory())
    task.result()
    return most


async def _bench_full_table(server_url: str, say: Say) -> Finding:
    """New readings into an empty table, and into one of another database that holds days of them; both by turns."""
    async with make_database(server_url) as empty_url, make_database(server_url) as full_url:
        empty, full = await asyncpg.connect(empty_url), await asyncpg.connect(full_url)
        try:
            for connection in (empty, full):
                await _register(connection)
            began = time.perf_counter()
            filled = await _fill(full)
            say(f"filled with {filled:,} rows in {time.perf_counter() - began:.0f} s")
            with (
                run_server("app.main:create_app", "--factory", database_url=empty_url) as quick,
                run_server("app.main:create_app", "--factory", database_url=full_url) as slow,
            ):
                await wait_until_open(quick)
                await wait_until_open(slow)
                rates = await _race(quick, slow, empty, say)
        finally:
            await empty.close()
            await full.close()
    return compare(
        f"rate with {filled:,} rows in the table, against an empty one",
        "readings/s",
        statistics.median(with_rows for _, with_rows in rates),
        statistics.median(without for without, _ in rates),
        statistics.median(with_rows / without for without, with_rows in rates),
        0.8,
    )


async def _race(empty: Process, full: Process, connection: Connection, say: Say) -> list[tuple[float, float]]:
    """The rates of each round: into the empty table, which is emptied by `connection` before, and into the full one."""
    rates: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        requests = list(_number_requests(number * BATCHES, (number + 1) * BATCHES))
        await _empty(connection)
        without = BATCHES * ROWS / await _post_good(empty, requests, CLIENTS)
        await _empty(connection)
        with_rows = BATCHES * ROWS / await _post_good(full, requests, CLIENTS)
        if number:
            rates.append((without, with_rows))
            say(f"into an empty table {without:,.0f}/s, into the full one {with_rows:,.0f}/s")
    return rates


async def _fill(connection: Connection) -> int:
    """Readings before BEGIN, one a second of each machine, an hour at a time; returns how many."""
    rows = 0
    for hours in range(FILLED_ROWS // (MACHINES * 3600), 0, -1):
        status = await connection.execute(
            """
            INSERT INTO raw_measurements (machine_id, timestamp, metrics)
            SELECT machine_id, second, '{"temperature": 50.25, "rpm": 1500.0, "vibration": 2.5, "power": 250.5}'
            FROM generate_series($1::timestamptz, $1 + interval '1 hour' - interval '1 second', interval '1 second') second
            CROSS JOIN machines
            """,
            BEGIN - timedelta(hours=hours),
            timeout=3600,
        )
        rows += int(status.split()[-1])
    await connection.execute("VACUUM (ANALYZE) raw_measurements", timeout=3600)
    await _flush(connection)
    return rows
