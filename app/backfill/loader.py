"""Loads a file: the same checks and the same writer as for readings over HTTP, batch by batch, in bounded memory.

Arrives: a file that is open, and how it's to be read. Leaves: what became of each row, and beside the file those that were
refused. Fails: InvalidInput when the file can't be read on, and what Writer raises; what was committed before stays, and
loading the file again goes on behind it. A database that goes away is waited for as long as the writer waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import msgspec

from app.access.audit import Deed
from app.backfill.commit import Committer, Grouped, group_rows
from app.backfill.layout import LoadOptions
from app.backfill.outages import FileLock, wait_for_database
from app.backfill.progress import Progress, compute_fingerprint, find_load, find_loads_of, store_progress
from app.backfill.refused import RefusedFile, RefusedRow, name_refused
from app.backfill.rows import Batch, Source, open_failed
from app.database import Database
from app.errors import AlreadyExists, InvalidInput
from app.ingest.writer import Writer
from app.registry import NewMachine, find_machines, register_machine

MOST_SHOWN = 20  # refused rows of a summary

# Takes rows that are done, and of about how many.
Report: TypeAlias = Callable[[int, int], None]


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
    deed: Deed,
    report: Report,
) -> LoadSummary:
    """Loads it, or what is left of it.

    A reading may have `most_metrics`; `described` is the type and the location of machines that aren't registered;
    `deed` is who loads it.
    """
    try:
        fingerprint = await asyncio.to_thread(compute_fingerprint, source.path, options)
    except OSError as error:
        raise open_failed(source.path, error) from error
    load = _Load(database, writer, source, options, most_metrics, described, fingerprint, deed)
    return await load.run(report)


class _Load:
    def __init__(
        self,
        database: Database,
        writer: Writer,
        source: Source,
        options: LoadOptions,
        most_metrics: int,
        described: tuple[str, str],
        fingerprint: str,
        deed: Deed,
    ) -> None:
        self._database = database
        self._patience = writer.patience
        self._source = source
        self._options = options
        self._described = described
        self._deed = deed
        self._fingerprint = fingerprint
        self._lock = FileLock(database, source.path, fingerprint)
        self._refused = RefusedFile(name_refused(source.path), source.columns, source.place_name)
        self._committer = Committer(database, writer, most_metrics, options.on_conflict, self._register, deed.by)
        self._known: set[str] = set()
        self._summary = LoadSummary()

    async def run(self, report: Report) -> LoadSummary:
        try:
            await self._lock.take()
            await self._begin()
            await self._load(report)
            await self._remember(finished=True)
        finally:
            await self._lock.release()
        return self._summary

    async def _begin(self) -> None:
        async with self._database.connection() as connection:
            stored = await find_load(connection, self._fingerprint)
            known = await find_loads_of(connection, self._source.path)
        resumed = self._refused.begin(stored, known)
        if resumed is not None:
            self._summary.progress, self._summary.resumed_after = resumed, resumed.position.place
        await self._remember(finished=False)
        if self._options.machine_id is not None:
            await self._register({self._options.machine_id})

    async def _load(self, report: Report) -> None:
        batches = self._source.read(self._summary.progress.position)
        present = await asyncio.to_thread(_read_next, batches, self._source.is_long)
        while present is not None:
            # While the database takes one batch, the next one is read.
            upcoming = asyncio.create_task(asyncio.to_thread(_read_next, batches, self._source.is_long))
            try:
                await self._commit(*present)
            finally:
                await asyncio.wait([upcoming])
            progress = self._summary.progress
            report(progress.rows, self._source.estimate_rows(progress.position))
            present = upcoming.result()

    async def _commit(self, batch: Batch, grouped: Grouped) -> None:
        counts = await self._committer.commit(batch.given, grouped)
        if await wait_for_database(self._lock.take, self._patience):
            await wait_for_database(self._require_sole, self._patience)
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

    async def _require_sole(self) -> None:
        """Raises InvalidInput when another process has loaded the file while its lock was lost."""
        async with self._database.connection() as connection:
            if await find_load(connection, self._fingerprint) != self._summary.progress:
                raise InvalidInput(f"{self._source.path} was loaded by another process while the database was away.")

    async def _remember(self, *, finished: bool) -> None:
        async def store() -> None:
            async with self._database.connection() as connection:
                await store_progress(
                    connection, self._fingerprint, self._source.path, self._summary.progress, finished=finished
                )

        await wait_for_database(store, self._patience)

    async def _register(self, machine_ids: set[str]) -> None:
        if unknown := machine_ids - self._known:
            await wait_for_database(partial(self._register_unknown, unknown), self._patience)
            self._known |= unknown

    async def _register_unknown(self, unknown: set[str]) -> None:
        for machine_id in sorted(unknown - (await find_machines(self._database, sorted(unknown))).keys()):
            try:
                await register_machine(self._database, NewMachine(machine_id, *self._described), self._deed)
            except AlreadyExists:
                continue
            self._summary.registered.append(machine_id)


def _read_next(batches: Iterator[Batch], long: bool) -> tuple[Batch, Grouped] | None:
    """The next batch; None behind the last."""
    batch = next(batches, None)
    return None if batch is None else (batch, group_rows(batch.given, long=long))
