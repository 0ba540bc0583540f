"""Clients that are slow, silent, gone or many: each gets its answer, and the service is as it was before."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from tests.client import ServiceClient
from tests.faults import ROUNDS
from tests.faults.processes import MOST_GROWTH, POOL, ServiceProcess, needs_proc, run_process, unharmed
from tests.test_ingest import Connection, reading
from tests.test_intake import at, count, write_lines

pytestmark = needs_proc

STALL = 4  # seconds, for which nothing stops that isn't meant to


async def connect(process: ServiceProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", process.port)


def write_request(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        "POST /ingest HTTP/1.1",
        "Host: localhost",
        *headers,
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    """Status and body of one answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    body = await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split()[1]), msgspec.json.decode(body)


def reset(stream: asyncio.StreamWriter) -> None:
    """Hangs up as a process does that is killed: with RST, and without a farewell."""
    stream.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.transport.abort()


async def test_a_client_that_sends_a_byte_at_a_time_is_served(process: ServiceProcess, database: Connection) -> None:
    async with unharmed(process, database):
        reader, stream = await connect(process)
        for byte in write_request(msgspec.json.encode(reading(rpm=1))):
            stream.write(bytes([byte]))
            await stream.drain()
            await asyncio.sleep(0)
        assert await read_answer(reader) == (200, count(accepted=1))
        stream.close()


@pytest.fixture(scope="module")
async def impatient(url: str, process: ServiceProcess) -> AsyncIterator[ServiceProcess]:
    """Another server process on the same database, which soon gives up a body that stops arriving."""
    async with run_process(url, AURUM_TEST_STALL=str(STALL), AURUM_POOL_SIZE=str(POOL)) as impatient:
        yield impatient


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson", "application/msgpack"])
async def test_half_a_body_and_then_silence_is_answered_with_408(
    impatient: ServiceProcess, database: Connection, media_type: str
) -> None:
    async with unharmed(impatient, database):
        pairs = [await connect(impatient) for _ in range(20)]
        for _, stream in pairs:
            stream.write(write_request(b"[" * 70_000, f"Content-Type: {media_type}", length=140_000))
        for reader, stream in pairs:
            assert await read_answer(reader) == (
                408,
                {
                    "code": "REQUEST_TIMEOUT",
                    "message": f"Nothing of the body arrived for {STALL} seconds: send it again.",
                },
            )
            stream.close()


async def test_half_a_body_and_then_nobody_stores_nothing(process: ServiceProcess, database: Connection) -> None:
    rows = [reading(timestamp=at(second)) for second in range(50)]
    async with unharmed(process, database):
        for media_type, body in (
            ("application/json", msgspec.json.encode(rows)),
            ("application/x-ndjson", write_lines(*rows)),
            ("application/msgpack", msgspec.msgpack.encode(rows)),
        ):
            for hang_up in (asyncio.StreamWriter.close, reset):
                _, stream = await connect(process)
                stream.write(write_request(body[:-1], f"Content-Type: {media_type}", length=len(body)))
                await stream.drain()
                hang_up(stream)
    assert await database.fetchval("SELECT count(*) FROM raw_measurements WHERE machine_id = 'PRESS-1'") == 0


async def test_a_batch_whose_client_hangs_up_before_the_answer_is_there_as_a_whole_or_not(
    process: ServiceProcess, database: Connection
) -> None:
    async with unharmed(process, database), database.transaction():
        # While this lock is held, none of them can be answered.
        await database.execute("LOCK TABLE raw_measurements IN SHARE MODE")
        for number in range(60):
            _, stream = await connect(process)
            rows = [reading(timestamp=at(number * 10 + row), rpm=number) for row in range(10)]
            stream.write(write_request(msgspec.json.encode(rows)))
            await stream.drain()
            (asyncio.StreamWriter.close if number % 2 else reset)(stream)
    counts = await database.fetch(
        "SELECT metrics, count(*) FROM raw_measurements WHERE machine_id = 'PRESS-1' GROUP BY metrics"
    )
    assert {row["count"] for row in counts} == {10}


@contextmanager
def many_files() -> Iterator[int]:
    """Lets this process open as many files as it may; how many that is."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.timeout(280 + 20 * ROUNDS)
async def test_thousands_of_connections_that_do_nothing_disturb_nobody(
    process: ServiceProcess, database: Connection
) -> None:
    """10,000 in the full form: silent, with half a head, with half a body, or kept open after an answer."""
    starts = [
        b"",
        b"POST /ingest HTTP/1.1\r\nHost:",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        write_request(b"[", length=100),
    ]
    with many_files() as most:
        many = min(1_000 * ROUNDS, most - 500)
        before = process.count_files()
        memory = process.read_memory()
        streams = []
        for number in range(many):
            _, stream = await connect(process)
            stream.write(starts[number % len(starts)])
            streams.append(stream)
        async with asyncio.timeout(60):
            while process.count_files() <= before + many // 4:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
        async with ServiceClient(process.url) as client:
            for number in range(20):
                rows = [reading(timestamp=at(number * 100 + row)) for row in range(100)]
                assert await client.ingest(rows) == count(accepted=100)
        # Each takes some memory while it lasts, about 5 kB.
        assert process.read_memory() < memory + MOST_GROWTH + many * 0.01
        for stream in streams:
            stream.transport.abort()
    async with asyncio.timeout(60):
        while process.count_files() > before + POOL:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)
    async with unharmed(process, database):
        pass
