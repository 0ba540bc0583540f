"""A body of NDJSON, stored batch by batch as it arrives: while one batch commits, the next one is read and no more.

Arrives: the body's pieces. Leaves: an IngestResult over all its lines. Fails: as the body or the writer does, as
PartlyStored from the moment that a batch is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from app.access.allowance import Allowance
from app.access.principal import Principal
from app.errors import PartlyStored, PayloadTooLarge, RequestError
from app.ingest.backlog import Backlog, Share
from app.ingest.merge import OnConflict
from app.ingest.message import Limits, count_lines, read_lines
from app.ingest.refusal import MOST_TOLD
from app.ingest.writer import IngestResult, Writer
from app.instants import read_clock

BATCH = 256 * 1024  # bytes of the lines that are committed together

NOTHING = IngestResult(0, 0, 0, 0, [])


class LineStream:
    """One body on its way into the database. A line may have `most_bytes`; `share` counts what is held of it."""

    def __init__(
        self,
        writer: Writer,
        backlog: Backlog,
        share: Share,
        limits: Limits,
        most_bytes: int,
        on_conflict: OnConflict,
        by: Principal,
        allowance: Allowance | None,
    ) -> None:
        self._writer = writer
        self._backlog = backlog
        self._share = share
        self._limits = limits
        self._most_bytes = most_bytes
        self._on_conflict = on_conflict
        self._by = by
        self._allowance = allowance
        self._read = 0  # lines
        self._durable = 0  # lines of them
        self._result = NOTHING
        self._pending: asyncio.Task[IngestResult] | None = None

    async def store(self, pieces: AsyncIterator[bytes]) -> IngestResult:
        """Stores all of it, and says what became of each line."""
        try:
            try:
                await self._read_all(pieces)
            finally:
                await self._settle()
        except RequestError as error:
            if not self._durable:
                raise
            raise PartlyStored(error, {"lines": self._durable, **msgspec.to_builtins(self._result)}) from error
        return self._result

    async def _read_all(self, pieces: AsyncIterator[bytes]) -> None:
        buffer = bytearray()
        async for piece in pieces:
            buffer += piece
            while len(buffer) >= BATCH:
                end = buffer.rfind(b"\n", 0, BATCH) + 1 or buffer.find(b"\n", BATCH) + 1
                if not end:
                    break
                await self._store_batch(bytes(buffer[:end]))
                del buffer[:end]
            if len(buffer) > self._most_bytes:
                raise PayloadTooLarge(
                    f"Line {self._read + 1} has more bytes than AURUM_MAX_BODY_BYTES, which is {self._most_bytes}."
                )
            self._share.resize(len(buffer))
        if buffer:
            await self._store_batch(bytes(buffer))

    async def _store_batch(self, lines: bytes) -> None:
        if self._allowance is not None:
            await self._allowance.wait_to_spend(self._by, len(lines), self._writer.patience)
        submission = read_lines(lines, self._read, read_clock(), self._limits)
        # One after the other, since a later line is judged by what an earlier one has stored.
        await self._settle()
        if self._durable:
            await self._backlog.wait_for_room(self._writer.patience)
        self._read += count_lines(lines)
        self._pending = asyncio.create_task(self._writer.commit(submission, self._on_conflict, self._by))

    async def _settle(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        done = await pending
        self._durable = self._read
        so_far = self._result
        self._result = IngestResult(
            so_far.accepted + done.accepted,
            so_far.duplicates + done.duplicates,
            so_far.conflicts + done.conflicts,
            so_far.rejected_count + done.rejected_count,
            [*so_far.rejected, *done.rejected][:MOST_TOLD],
        )
