"""Loads a file: the same checks and the same writer as for readings over HTTP, batch by batch, in bounded memory.

Arrives: a file that is open, and how it's to be read. Leaves: what became of each row, and beside the file those that were
refused. Fails: InvalidInput when the file can't be read on, and what Writer raises; what was committed before stays, and
loading the file again goes on behind it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import msgspec

from app.backfill.commit import Committer, Grouped, group_rows
from app.backfill.layout import LoadOptions
from app.backfill.progress import Progress, compute_fingerprint, find_load, find_loads_of, store_progress
from app.backfill.refused import RefusedFile, RefusedRow, name_refused
from app.backfill.rows import Batch, Source, open_failed
from app.database import Connection, Database
from app.errors import AlreadyExists, InvalidInput
from app.ingest.writer import Writer
from app.registry import find_machines, register_machine

MOST_SHOWN = 20  # refused rows of a summary

# Takes rows that are done, and of about how many.
Report: TypeAlias = Callable[[int, int], None]

# Whoever loads a file holds this lock with a number of the file's; any number will do.
_LOCK = 472_720


class LoadSummary(msgspec.Struct):
    """What became of the rows; `progress` counts them. `resumed_after` is the place after which the load went on."""

    progress: Progress = Progress()
    resumed_after: int = 0
    registered: list[str] = []
    shown: list[RefusedRow] = []


async def load_file(
    database: Database,
    writer: Writer,
    source: Source,
    options: LoadOptions,
    most_metrics: int,
    described: tuple[str, str],
    report: Report,
) -> LoadSummary:
    """Loads it, or what is left of it.

    A reading may have `most_metrics`; `described` is the type and the location of machines that aren't registered.
    """
    try:
        fingerprint = await asyncio.to_thread(compute_fingerprint, source.path, options)
    except OSError as error:
        raise open_failed(source.path, error) from error
    async with _hold_file(database, source, fingerprint) as connection:
        load = _Load(connection, writer, source, options, most_metrics, described, fingerprint)
        return await load.run(report)


@asynccontextmanager
async def _hold_file(database: Database, source: Source, fingerprint: str) -> AsyncIterator[Connection]:
    """A connection that holds the lock of this file: two loads of one file would write its refused rows together."""
    key = int(fingerprint[:7], 16)
    async with database.connection() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _LOCK, key):
            raise InvalidInput(f"{source.path} is being loaded already, by another process.")
        try:
            yield connection
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1, $2)", _LOCK, key)


class _Load:
    def __init__(
        self,
        connection: Connection,
        writer: Writer,
        source: Source,
        options: LoadOptions,
        most_metrics: int,
        described: tuple[str, str],
        fingerprint: str,
    ) -> None:
        self._connection = connection
        self._source = source
        self._options = options
        self._described = described
        self._fingerprint = fingerprint
        self._refused = RefusedFile(name_refused(source.path), source.columns, source.place_name)
        self._committer = Committer(connection, writer, most_metrics, options.on_conflict, self._register)
        self._known: set[str] = set()
        self._summary = LoadSummary()

    async def run(self, report: Report) -> LoadSummary:
        summary = self._summary
        stored = await find_load(self._connection, self._fingerprint)
        resumed = self._refused.begin(stored, await find_loads_of(self._connection, self._source.path))
        if resumed is not None:
            summary.progress, summary.resumed_after = resumed, resumed.position.place
        await self._remember(finished=False)
        if self._options.machine_id is not None:
            await self._register({self._options.machine_id})
        batches = self._source.read(summary.progress.position)
        present = await asyncio.to_thread(_read_next, batches, self._source.is_long)
        while present is not None:
            # While the database takes one batch, the next one is read.
            upcoming = asyncio.create_task(asyncio.to_thread(_read_next, batches, self._source.is_long))
            try:
                await self._commit(*present)
            finally:
                await asyncio.wait([upcoming])
            report(summary.progress.rows, self._source.estimate_rows(summary.progress.position))
            present = upcoming.result()
        await self._remember(finished=True)
        return summary

    async def _commit(self, batch: Batch, grouped: Grouped) -> None:
        counts = await self._committer.commit(batch.given, grouped)
        refusals = counts.refusals
        rows = [RefusedRow(batch.places[index], batch.show_cells(index), refusals[index]) for index in sorted(refusals)]
        self._refused.append(rows)
        summary = self._summary
        summary.shown = [*summary.shown, *rows][:MOST_SHOWN]
        before = summary.progress
        summary.progress = Progress(
            position=batch.end,
            accepted=before.accepted + counts.accepted,
            duplicates=before.duplicates + counts.duplicates,
            conflicts=before.conflicts + counts.conflicts,
            refused=dict(Counter(before.refused) + Counter(refusal.code for refusal in refusals.values())),
            refused_bytes=self._refused.size,
            refused_crc=self._refused.crc,
        )
        await self._remember(finished=False)

    async def _remember(self, *, finished: bool) -> None:
        await store_progress(
            self._connection, self._fingerprint, self._source.path, self._summary.progress, finished=finished
        )

    async def _register(self, machine_ids: set[str]) -> None:
        unknown = machine_ids - self._known
        if not unknown:
            return
        for machine_id in sorted(unknown - (await find_machines(sorted(unknown))).keys()):
            try:
                await register_machine(machine_id, *self._described)
            except AlreadyExists:
                continue
            self._summary.registered.append(machine_id)
        self._known |= unknown


def _read_next(batches: Iterator[Batch], long: bool) -> tuple[Batch, Grouped] | None:
    """The next batch; None behind the last."""
    batch = next(batches, None)
    return None if batch is None else (batch, group_rows(batch.given, long=long))
