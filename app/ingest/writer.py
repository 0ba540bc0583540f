"""Commits what many requests bring, together: while one transaction commits, the next one gathers what arrives.

Arrives: submissions that `message` has read. Leaves: an IngestResult for each, once its rows are durable; every reading
is counted in it exactly once. Fails: Overloaded, when too much waits already; DatabaseUnavailable, when the database
isn't back in time; QueryTimeout. Nothing is acknowledged then, and sending it again is harmless.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from time import perf_counter
from typing import cast

import msgspec

from app.access.audit import begin_deed
from app.access.principal import Principal
from app.chores import stop
from app.database import CLOSE_TIMEOUT, Connection, Database
from app.errors import AurumError, DatabaseBusy, DatabaseUnavailable, Overloaded
from app.ingest.backlog import Backlog
from app.ingest.measures import IngestMeasures
from app.ingest.merge import OnConflict, Outcome
from app.ingest.message import Submission
from app.ingest.refusal import Refusals, Rejection
from app.ingest.store import REFUSED, Batch, Store, Tally
from app.tracing import Mark, Tracing

IN_FLIGHT = 4  # transactions at once, each of which keeps one core of PostgreSQL busy
WORTH_ONE = 1_000  # waiting rows for which one more is begun; fewer are better off gathering
LONG_WAIT = 0.2  # seconds after which one more is begun for any row
MOST_ROWS = 10_000  # rows of one transaction, unless a single submission has more
ROW_WEIGHT = 250  # bytes of memory that a row takes beside its metrics' text
FIRST_DELAY, LONGEST_DELAY = 0.05, 1.0  # seconds between attempts to reach the database
STOPPING = "The service is stopping: try again in a moment."
BEHIND = "The database did not keep up with what arrives: try again in a moment."


class IngestResult(msgspec.Struct, frozen=True, rename="camel"):
    """How many readings added something, said what was known, disagreed with it; and which were refused, and why.

    Of the `rejected_count` readings that were refused, `rejected` names the first 1,000.
    """

    accepted: int
    duplicates: int
    conflicts: int
    rejected_count: int
    rejected: list[Rejection]


class _Waiting:
    """A submission between its arrival and its answer."""

    __slots__ = ("answer", "batch", "deadline", "mark", "submission")

    def __init__(self, submission: Submission, batch: Batch, deadline: float, mark: Mark) -> None:
        self.mark = mark
        self.submission = submission
        self.batch = batch
        self.answer: asyncio.Future[IngestResult] = asyncio.get_running_loop().create_future()
        self.deadline = deadline  # of the loop's clock

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def finish(self, result: IngestResult) -> None:
        if not self.answer.done():
            self.answer.set_result(result)


class Writer:
    """The one way into raw_measurements. `patience` is how long a submission waits for the database at most."""

    def __init__(
        self, database: Database, backlog: Backlog, patience: timedelta, tracing: Tracing | None = None
    ) -> None:
        self._tracing = tracing
        self._store = Store(database, patience, tracing)
        self._backlog = backlog
        self.patience = patience.total_seconds()
        self.measures = IngestMeasures()
        self._queue: deque[_Waiting] = deque()
        self._queued_rows = 0
        self._committers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None  # of the queue, whose deadlines are in its order
        self._stopping = False
        self._away: AurumError | None = None  # why there was no connection for the last transaction

    async def commit(self, submission: Submission, on_conflict: OnConflict, by: Principal) -> IngestResult:
        """Stores what can be stored, all in one transaction, and says what became of each reading."""
        if not submission.rows:
            return self._sum_up(submission, None)
        if self._stopping:
            raise DatabaseUnavailable(STOPPING)
        with self._backlog.share() as share:
            share.resize(sum([len(row[2]) for row in submission.rows], ROW_WEIGHT * len(submission.rows)))
            loop = asyncio.get_running_loop()
            now = loop.time()
            mark = None if self._tracing is None else self._tracing.mark()
            deed = None if on_conflict is OnConflict.KEEP else begin_deed(by, "ingest")
            waiting = _Waiting(submission, Batch(submission.rows, deed), now + self.patience, mark)
            self._queue.append(waiting)
            self._queued_rows += len(submission.rows)
            if self._wants_committer(now):
                committer = asyncio.create_task(self._commit_queue(), name="ingest committer")
                self._committers.add(committer)
            if self._timer is None:
                self._set_timer()
            return await waiting.answer

    def _wants_committer(self, now: float) -> bool:
        if not self._committers:
            return True
        late = self._queue[0].deadline - self.patience + LONG_WAIT < now
        return len(self._committers) < IN_FLIGHT and (late or self._queued_rows >= WORTH_ONE)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a transaction."""
        return self._queued_rows

    @property
    def queued_requests(self) -> int:
        return len(self._queue)

    def find_problem(self) -> DatabaseUnavailable | None:
        """Why readings that are sent now would not be stored soon; None where nothing speaks against it."""
        if self._stopping:
            return DatabaseUnavailable(STOPPING)
        if not self._queue:
            return None
        if self._away is not None:
            return DatabaseUnavailable(f"Readings wait for the database: {self._away}")
        waited = asyncio.get_running_loop().time() - self._queue[0].deadline + self.patience
        return Overloaded(BEHIND) if waited > self.patience / 2 else None

    async def stop(self) -> None:
        """Takes no more, and commits what waits; what isn't done in time fails with DatabaseUnavailable."""
        self._stopping = True
        if self._committers:
            await asyncio.wait(self._committers, timeout=self.patience)
        await asyncio.gather(*(stop(committer, CLOSE_TIMEOUT) for committer in self._committers))
        while self._queue:
            self._queue.popleft().fail(DatabaseUnavailable(STOPPING))
        self._set_timer()

    async def _commit_queue(self) -> None:
        """Commits until nothing waits any more."""
        try:
            await self._commit_groups()
        finally:
            # At once: whoever is woken by the last answer may queue more before a callback of this task would run.
            self._committers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _commit_groups(self) -> None:
        delay = FIRST_DELAY
        group: list[_Waiting] = []
        while self._queue:
            try:
                async with self._store.connect() as connection:
                    while not connection.is_closed() and (group := self._take()):
                        await (self._commit if self._tracing is None else self._trace_commit)(connection, group)
                        self._away, delay = None, FIRST_DELAY
            except AurumError as error:
                self._away = error
                self._put_back(group, error)
                group = []
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
            except asyncio.CancelledError:
                self._fail(group, DatabaseUnavailable(STOPPING))
                raise

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._queue:
            waiting = self._queue[0]
            rows += len(waiting.batch.rows)
            if group and rows > MOST_ROWS:
                break
            self._queue.popleft()
            self._queued_rows -= len(waiting.batch.rows)
            if not waiting.answer.done():
                group.append(waiting)
        return group

    async def _trace_commit(self, connection: Connection, group: Sequence[_Waiting]) -> None:
        assert self._tracing is not None  # noqa: S101 - else nothing is traced
        rows = sum(len(waiting.batch.rows) for waiting in group)
        attributes = {"aurumai.requests": len(group), "aurumai.rows": rows}
        span = self._tracing.begin("ingest commit", attributes, [waiting.mark for waiting in group])
        try:
            await self._commit(connection, group)
        except AurumError as error:
            span.end(error=error.code)
            raise
        span.end()

    async def _commit(self, connection: Connection, group: Sequence[_Waiting]) -> None:
        """Answers each of the group. Raises DatabaseUnavailable when it's to be tried again."""
        began = perf_counter()
        try:
            tallies = await self._store.write(connection, [waiting.batch for waiting in group])
        except DatabaseBusy as error:
            self.measures.failed_commits += 1
            self._fail(group, error)
        except DatabaseUnavailable:
            self.measures.failed_commits += 1
            raise
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer gets it
            if len(group) == 1 or not isinstance(error, REFUSED):
                self.measures.failed_commits += 1
                self._fail(group, error)
                return
            # One of them is to blame: the others get their commit without it.
            for waiting in group:
                await self._commit(connection, [waiting])
        else:
            self.measures.commit_seconds.observe(perf_counter() - began)
            self.measures.batch_rows.observe(sum([len(waiting.batch.rows) for waiting in group]))
            for waiting, tally in zip(group, tallies, strict=True):
                waiting.finish(self._sum_up(waiting.submission, tally))

    def _expire(self) -> None:
        """Fails what has waited for too long in the queue; what a transaction has in hand is answered by that."""
        now = asyncio.get_running_loop().time()
        while self._queue and self._queue[0].deadline <= now:
            waiting = self._queue.popleft()
            self._queued_rows -= len(waiting.batch.rows)
            waiting.fail(self._away or Overloaded(BEHIND))
        self._set_timer()

    def _set_timer(self) -> None:
        # One for all: a timer for each request would be a twentieth of its time.
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._queue[0].deadline, self._expire) if self._queue else None

    def _put_back(self, group: Sequence[_Waiting], error: AurumError) -> None:
        now = asyncio.get_running_loop().time()
        for waiting in reversed(group):
            if waiting.deadline <= now:
                waiting.fail(error)
            elif not waiting.answer.done():
                self._queue.appendleft(waiting)
                self._queued_rows += len(waiting.batch.rows)
        self._set_timer()

    def _fail(self, group: Sequence[_Waiting], error: Exception) -> None:
        for waiting in group:
            waiting.fail(error)

    def _sum_up(self, submission: Submission, tally: Tally | None) -> IngestResult:
        refusals = submission.refusals
        if tally is not None and tally.refused:
            found = Refusals()
            for index, problem in sorted(tally.refused.items()):
                found.add(submission.places[index], problem)
            refusals.merge([found])
        measures = self.measures
        for code, count in refusals.counts.items():
            measures.rejected[code] += count
        if tally is None:
            return IngestResult(0, 0, 0, refusals.count, refusals.told)
        counts = tally.outcomes
        accepted, duplicates, conflicts = (
            counts[Outcome.ACCEPTED],
            counts[Outcome.DUPLICATE],
            counts[Outcome.CONFLICT],
        )
        measures.accepted += accepted
        measures.duplicates += duplicates
        measures.conflicts += conflicts
        return IngestResult(accepted, duplicates, conflicts, refusals.count, refusals.told)
