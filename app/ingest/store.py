"""Puts batches of readings into raw_measurements, in one transaction with the outbox row that tells of them.

Two ways lead there. COPY is the fastest that PostgreSQL has, and fails as a whole when a row is there already; the
merge looks at what is stored and settles each reading. COPY is tried first, unless it failed just before: most readings
are new. Both leave the same.

Arrives: rows that `message` found right. Leaves: a Tally for each batch, once all of them are durable. Fails:
DatabaseUnavailable, DatabaseBusy or QueryTimeout, and then nothing is stored, unless the database went away for good
while it committed; REFUSED, when the database doesn't take a row of one of several batches.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from itertools import chain

import asyncpg
import msgspec

from app.access.audit import Deed
from app.database import AWAY, Connection, Database, translate_errors
from app.errors import DatabaseBusy, DatabaseUnavailable, InvalidInput
from app.events.outbox import Publication, Topic, end_transaction, is_committed, publish_event
from app.ingest.corrections import record_corrections
from app.ingest.merge import OnConflict, Outcome
from app.ingest.merging import Item, Key, MergedRows, merge_rows, plan_for_inserts
from app.ingest.message import Row
from app.ingest.refusal import Problem, RejectionCode, describe_unknown_machine
from app.instants import to_microseconds
from app.tracing import Tracing

ATTEMPTS = 6  # at batches that others are in the way of
MOST_CAUTION = 64  # transactions that are merged at once after one that could not be copied
FIRST_DELAY, LONGEST_DELAY = 0.05, 1.0  # seconds between looks at what became of a commit

# What PostgreSQL, or a rule that somebody gave this database, says of a row that it doesn't take.
REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError, InvalidInput)


class Batch(msgspec.Struct, frozen=True):
    """Readings of one sender, in the order in which they are to be judged; `deed` is who overwrites, None who doesn't."""

    rows: list[Row]
    deed: Deed | None

    @property
    def on_conflict(self) -> OnConflict:
        return OnConflict.KEEP if self.deed is None else OnConflict.OVERWRITE


class Tally(msgspec.Struct):
    """What became of a batch: each row has one outcome, or is refused under its index in `rows`."""

    outcomes: Counter[Outcome]
    refused: dict[int, Problem]


class Store:
    """The one way into raw_measurements. `patience` is how long it waits to learn what became of a commit."""

    def __init__(self, database: Database, patience: timedelta, tracing: Tracing | None = None) -> None:
        self._database = database
        self._tracing = tracing
        self._patience = patience.total_seconds()
        # Machines that are known to be registered: they are never deleted.
        self._registered: set[str] = set()
        self._caution = 0
        self._penalty = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """A connection for any number of writes, until it breaks: to take one for each would be half of its round trips."""
        async with self._database.connection() as connection:
            await plan_for_inserts(connection)
            yield connection

    async def write(self, connection: Connection, batches: Sequence[Batch]) -> list[Tally]:
        """Stores all of them in one transaction; a row that the database refuses is left out of a batch that is alone."""
        merging, splitting, locking = self._be_cautious(), False, True
        attempts = 0
        while True:
            try:
                with translate_errors():
                    return await self._write_once(connection, batches, merging, splitting, locking)
            except DatabaseBusy:
                attempts += 1
                if attempts == ATTEMPTS:
                    raise
                # Apart from each other, or the same two would meet again; merged, since that locks in one order.
                await asyncio.sleep(random.uniform(0, 0.05 * 2**attempts))  # noqa: S311 - no secret
                merging = True
            except asyncpg.FeatureNotSupportedError:
                if not locking:
                    raise
                merging, locking = True, False  # TimescaleDB locks no row that is compressed
            except REFUSED as error:
                if isinstance(error, asyncpg.UniqueViolationError) and not merging:
                    self._penalty = self._caution = min(2 * self._penalty + 1, MOST_CAUTION)
                elif isinstance(error, asyncpg.ForeignKeyViolationError) and self._registered:
                    self._registered.clear()  # somebody deleted a machine after all
                elif len(batches) == 1 and not splitting:
                    splitting = True
                else:
                    raise
                merging = True

    def _be_cautious(self) -> bool:
        if self._caution:
            self._caution -= 1
            return True
        return False

    async def _write_once(
        self, connection: Connection, batches: Sequence[Batch], merging: bool, splitting: bool, locking: bool
    ) -> list[Tally]:
        tallies = [Tally(Counter(), {}) for _ in batches]
        published: Publication | None = None
        try:
            async with connection.transaction():
                await self._refuse_unknown(connection, batches, tallies)
                if merging:
                    with self._cover("ingest merge", batches):
                        written = await _merge(connection, batches, tallies, splitting, locking)
                else:
                    with self._cover("ingest copy", batches):
                        written = await _copy(connection, batches, tallies)
                if written:
                    published = await publish_event(connection, Topic.MEASUREMENTS, written)
        except Exception:
            if published is None or not await self._learn_outcome(published):
                raise
        else:
            if not merging:
                self._penalty = 0
        return tallies

    def _cover(self, name: str, batches: Sequence[Batch]) -> AbstractContextManager[None]:
        if self._tracing is None:
            return nullcontext()
        return self._tracing.cover(name, {"aurumai.rows": sum(len(batch.rows) for batch in batches)})

    async def _refuse_unknown(self, connection: Connection, batches: Sequence[Batch], tallies: Sequence[Tally]) -> None:
        named = {row[0] for batch in batches for row in batch.rows}
        if named <= self._registered:
            return
        found = await connection.fetch(
            "SELECT machine_id FROM machines WHERE machine_id = ANY($1::text[])", list(named - self._registered)
        )
        self._registered.update(row["machine_id"] for row in found)
        if unknown := named - self._registered:
            for batch, tally in zip(batches, tallies, strict=True):
                for index, row in enumerate(batch.rows):
                    if row[0] in unknown:
                        tally.refused[index] = describe_unknown_machine(row[0])

    async def _learn_outcome(self, published: Publication) -> bool:
        """Whether a transaction was committed whose connection broke before it said so."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        delay = FIRST_DELAY
        away = DatabaseUnavailable(AWAY)
        while loop.time() < began + self._patience:
            try:
                async with self._connect_apart() as connection:
                    committed = await is_committed(connection, published)
                    if committed is not None:
                        return committed
                    if loop.time() > began + LONGEST_DELAY:
                        await end_transaction(connection, published)
            except DatabaseUnavailable as error:
                away = error
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        raise away

    @asynccontextmanager
    async def _connect_apart(self) -> AsyncIterator[Connection]:
        # Of the pool's, those that broke have not been given back yet.
        with translate_errors():
            connection = await self._database.engine.get_new_connection()
            try:
                yield connection
            finally:
                connection.terminate()


def _keep_rows(batch: Batch, tally: Tally) -> list[Row]:
    if not tally.refused:
        return batch.rows
    return [row for index, row in enumerate(batch.rows) if index not in tally.refused]


def _tell_written(keys: Iterable[Key]) -> dict[str, list[int]]:
    written: dict[str, list[int]] = {}
    for machine_id, timestamp in keys:
        written.setdefault(machine_id, []).append(to_microseconds(timestamp))
    return written


async def _copy(connection: Connection, batches: Sequence[Batch], tallies: Sequence[Tally]) -> dict[str, list[int]]:
    """Raises UniqueViolationError where a row is stored already, or is there twice."""
    kept = [_keep_rows(batch, tally) for batch, tally in zip(batches, tallies, strict=True)]
    if not any(kept):
        return {}
    await connection.copy_records_to_table(
        "raw_measurements",
        records=chain.from_iterable(kept),
        columns=("machine_id", "timestamp", "metrics"),
    )
    for rows, tally in zip(kept, tallies, strict=True):
        tally.outcomes[Outcome.ACCEPTED] += len(rows)
    return _tell_written((machine_id, timestamp) for rows in kept for machine_id, timestamp, _ in rows)


async def _merge(
    connection: Connection, batches: Sequence[Batch], tallies: Sequence[Tally], splitting: bool, locking: bool
) -> dict[str, list[int]]:
    items: list[Item] = []
    origins: list[tuple[Batch, Tally, int]] = []
    for batch, tally in zip(batches, tallies, strict=True):
        on_conflict = batch.on_conflict
        for index, (machine_id, timestamp, metrics) in enumerate(batch.rows):
            if index not in tally.refused:
                items.append(Item((machine_id, timestamp), metrics, on_conflict))
                origins.append((batch, tally, index))
    merge = _merge_by_halves if splitting else merge_rows
    merged = await merge(connection, items, locking=locking)
    for (_, tally, index), outcome in zip(origins, merged.outcomes, strict=True):
        if outcome is None:
            tally.refused[index] = (RejectionCode.REFUSED_BY_DATABASE, "a rule of the database refuses the reading.")
        else:
            tally.outcomes[outcome] += 1
    for batch in batches if merged.replaced else ():
        if batch.deed is not None:
            replaced = [each for each in merged.replaced if origins[each.place][0] is batch]
            await record_corrections(connection, batch.deed, replaced)
    return _tell_written(merged.written)


async def _merge_by_halves(connection: Connection, items: Sequence[Item], *, locking: bool) -> MergedRows:
    """Merges what the database takes, whatever lies beside it; None is the outcome of what it refuses."""
    try:
        async with connection.transaction():
            return await merge_rows(connection, items, locking=locking)
    except REFUSED:
        if len(items) == 1:
            return MergedRows([None], [], [])
    middle = len(items) // 2
    first = await _merge_by_halves(connection, items[:middle], locking=locking)
    second = await _merge_by_halves(connection, items[middle:], locking=locking)
    moved = [msgspec.structs.replace(each, place=each.place + middle) for each in second.replaced]
    written = list(dict.fromkeys(first.written + second.written))
    return MergedRows(first.outcomes + second.outcomes, written, first.replaced + moved)
