"""Senders that send each batch until it's acknowledged, as a gateway does that keeps what it has not got rid of."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import httpx
import msgspec

from app.instants import to_microseconds
from tests.test_ingest import Connection

START = datetime(2026, 1, 31, tzinfo=UTC)
FORMATS: tuple[tuple[str, Callable[[Any], bytes]], ...] = (
    ("application/json", msgspec.json.encode),
    ("application/x-ndjson", msgspec.json.Encoder().encode_lines),
    ("application/msgpack", msgspec.msgpack.encode),
)
SIZES = (1, 40, 7, 1, 250)

Key: TypeAlias = tuple[str, datetime]


class Load:
    """What was sent by one sender for each of `machine_ids`, and which of it was acknowledged."""

    def __init__(self, url: str, machine_ids: list[str]) -> None:
        self._url = url
        self._machine_ids = machine_ids
        self.acknowledged: dict[Key, float] = {}
        self.sent_again = 0
        self._batches = 0
        self._changed = asyncio.Event()
        self._stopping = False

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Sends while the block lasts; after it, all that was sent is acknowledged."""
        async with asyncio.TaskGroup() as group:
            senders = [group.create_task(self._send(machine_id)) for machine_id in self._machine_ids]
            try:
                yield
            except BaseException:
                for sender in senders:
                    sender.cancel()
                raise
            self._stopping = True

    async def wait_for(self, batches: int) -> None:
        """Until that many more batches are acknowledged."""
        goal = self._batches + batches
        async with asyncio.timeout(120):
            while self._batches < goal:
                self._changed.clear()
                await self._changed.wait()

    async def _send(self, machine_id: str) -> None:
        numbers = itertools.count()
        async with httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False) as http:
            for turn in itertools.count():
                if self._stopping:
                    return
                values = [float(next(numbers)) for _ in range(SIZES[turn % len(SIZES)])]
                rows = {(machine_id, START + timedelta(milliseconds=value)): value for value in values}
                await self._send_until_acknowledged(http, turn, rows)
                self.acknowledged |= rows
                self._batches += 1
                self._changed.set()

    async def _send_until_acknowledged(self, http: httpx.AsyncClient, turn: int, rows: dict[Key, float]) -> None:
        media_type, encode = FORMATS[turn % len(FORMATS)]
        body = encode(
            [
                {"machine_id": machine_id, "timestamp": instant.isoformat(), "metrics": {"rpm": value}}
                for (machine_id, instant), value in rows.items()
            ]
        )
        while True:
            try:
                answer = await http.post("/ingest", content=body, headers={"content-type": media_type})
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == 200:
                    check_counts(answer.json(), len(rows))
                    return
                assert answer.status_code == 503, answer.text
                assert answer.json()["code"] in {"DATABASE_UNAVAILABLE", "OVERLOADED"}
                assert answer.headers["retry-after"]
            self.sent_again += 1
            await asyncio.sleep(0.02)


def check_counts(answer: Any, rows: int) -> None:
    """Each reading is new, or was stored by an attempt whose answer was lost."""
    assert (answer["conflicts"], answer["rejectedCount"]) == (0, 0)
    assert answer["accepted"] + answer["duplicates"] == rows


async def check_stored(connection: Connection, expected: dict[Key, float]) -> None:
    """Exactly these readings are in the table, each once; and told in the outbox, each once."""
    rows = await connection.fetch("SELECT machine_id, timestamp, metrics FROM raw_measurements")
    assert len(rows) == len(expected)
    stored = {(row["machine_id"], row["timestamp"]): msgspec.json.decode(row["metrics"]) for row in rows}
    assert stored == {key: {"rpm": value} for key, value in expected.items()}
    told = [
        (machine_id, instant)
        for row in await connection.fetch("SELECT payload FROM outbox WHERE topic = 'measurements'")
        for machine_id, instants in msgspec.json.decode(row["payload"]).items()
        for instant in instants
    ]
    assert len(told) == len(expected)
    assert set(told) == {(machine_id, to_microseconds(instant)) for machine_id, instant in expected}


async def check_stored_at(url: str, expected: dict[Key, float]) -> None:
    """The same over a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await check_stored(connection, expected)
    finally:
        await connection.close()
