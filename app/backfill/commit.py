"""Has rows checked and committed, and counts each of them.

Rows of one machine and instant, which long files have one after the other, are committed as one reading where nothing is
stored of that machine and instant: then each of them adds something, as it would have alone. Any other row is a reading of
its own, or the writer's counts would not be those of the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

import msgspec

from app.access.principal import Principal
from app.backfill.outages import wait_for_database
from app.backfill.rows import Given, Refusal
from app.database import Connection, Database
from app.ingest.merge import OnConflict
from app.ingest.message import Limits, Submission, read_objects
from app.ingest.refusal import MOST_TOLD, Rejection
from app.ingest.writer import IngestResult, Writer
from app.instants import read_clock

Key: TypeAlias = tuple[str, datetime]

# Registers machines that aren't.
Register: TypeAlias = Callable[[set[str]], Awaitable[None]]


class Counts(msgspec.Struct):
    """What became of a batch's rows; `refusals` by their index."""

    accepted: int
    duplicates: int
    conflicts: int
    refusals: dict[int, Refusal]


class Group(msgspec.Struct):
    """Rows of one machine and instant, each with another metric."""

    rows: list[int]
    metrics: dict[str, float]


class Grouped(msgspec.Struct):
    """A batch's rows: those that may go together, by their keys, and the others."""

    groups: dict[Key, Group]
    singles: list[int]


def group_rows(given: Sequence[Given], *, long: bool) -> Grouped:
    """Groups the rows of a long file; those of a wide one stand alone."""
    grouped = Grouped({}, [])
    if not long:
        grouped.singles = [index for index, row in enumerate(given) if not isinstance(row, Refusal)]
        return grouped
    groups = grouped.groups
    repeated: set[Key] = set()
    for index, row in enumerate(given):
        if isinstance(row, Refusal):
            continue
        key, metrics = (row["machine_id"], row["timestamp"]), row["metrics"]
        group = groups.get(key)
        if group is None:
            groups[key] = Group([index], dict(metrics))
            if not metrics:
                repeated.add(key)
        else:
            group.rows.append(index)
            if not metrics or not group.metrics.keys().isdisjoint(metrics):
                repeated.add(key)
            group.metrics.update(metrics)
    for key in repeated:
        grouped.singles += groups.pop(key).rows
    return grouped


class Committer:
    """Commits the rows of a file for somebody. A reading may have `most_metrics`."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        most_metrics: int,
        on_conflict: OnConflict,
        register: Register,
        by: Principal,
    ) -> None:
        self._database = database
        self._writer = writer
        # Of more rows in one submission not every refused one would be told.
        self._limits = Limits(MOST_TOLD, most_metrics)
        self._on_conflict = on_conflict
        self._register = register
        self._by = by

    async def commit(self, given: Sequence[Given], grouped: Grouped) -> Counts:
        """Commits a batch and counts its rows. Raises what Writer raises."""
        counts = Counts(0, 0, 0, {index: row for index, row in enumerate(given) if isinstance(row, Refusal)})
        groups, singles = grouped.groups, grouped.singles
        if groups:
            stored = await wait_for_database(partial(self._find_stored, list(groups)), self._writer.patience)
            for key in stored:
                singles = singles + groups.pop(key).rows
            singles = singles + await self._commit_groups(groups, counts)
        if singles:
            await self._commit_singles(given, sorted(singles), counts)
        return counts

    async def _find_stored(self, keys: list[Key]) -> list[Key]:
        async with self._database.connection() as connection:
            return await _find_stored(connection, keys)

    async def _commit_groups(self, groups: dict[Key, Group], counts: Counts) -> list[int]:
        """Commits the groups as readings; returns the rows that have to be looked at one by one."""
        members = list(groups.values())
        result = await self._write(
            [
                {"machine_id": machine_id, "timestamp": timestamp, "metrics": group.metrics}
                for (machine_id, timestamp), group in groups.items()
            ]
        )
        refused = {rejection.index for rejection in result.rejected}
        if result.duplicates or result.conflicts:
            # Somebody else has stored some of them since we looked: what is stored now tells for each row.
            return [row for group in members for row in group.rows]
        counts.accepted += sum(len(group.rows) for index, group in enumerate(members) if index not in refused)
        return [row for index in sorted(refused) for row in members[index].rows]

    async def _commit_singles(self, given: Sequence[Given], rows: Sequence[int], counts: Counts) -> None:
        result = await self._write([given[row] for row in rows])
        counts.accepted += result.accepted
        counts.duplicates += result.duplicates
        counts.conflicts += result.conflicts
        for rejection in result.rejected:
            counts.refusals[rows[rejection.index]] = Refusal(rejection.code, rejection.message)

    async def _write(self, readings: Sequence[Any]) -> IngestResult:
        """Has readings stored; unlike the answer to a request, the result tells of each one that was refused."""
        submissions = await asyncio.to_thread(self._check, readings)
        await self._register({row[0] for submission in submissions for row in submission.rows})
        # At once, and so in one transaction, in their order.
        answers = await asyncio.gather(
            *(self._writer.commit(submission, self._on_conflict, self._by) for submission in submissions),
            return_exceptions=True,
        )
        results = [_require_result(answer) for answer in answers]
        return IngestResult(
            sum(result.accepted for result in results),
            sum(result.duplicates for result in results),
            sum(result.conflicts for result in results),
            sum(result.rejected_count for result in results),
            [
                Rejection(number * MOST_TOLD + refused.index, refused.code, refused.message)
                for number, result in enumerate(results)
                for refused in result.rejected
            ],
        )

    def _check(self, readings: Sequence[Any]) -> list[Submission]:
        now = read_clock()
        return [
            read_objects(readings[start : start + MOST_TOLD], now, self._limits)
            for start in range(0, len(readings), MOST_TOLD)
        ]


def _require_result(answer: IngestResult | BaseException) -> IngestResult:
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def _find_stored(connection: Connection, keys: list[Key]) -> list[Key]:
    """Those of the keys of which something is stored."""
    # The bounds are there for the planner: a hypertable then opens the chunks of the batch's range alone.
    times = [timestamp for _, timestamp in keys]
    rows = await connection.fetch(
        """
        SELECT place FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS wanted (machine_id, timestamp, place)
        JOIN raw_measurements AS stored USING (machine_id, timestamp)
        WHERE stored.timestamp BETWEEN $3 AND $4
        """,
        [machine_id for machine_id, _ in keys],
        times,
        min(times),
        max(times),
    )
    return [keys[row["place"] - 1] for row in rows]
