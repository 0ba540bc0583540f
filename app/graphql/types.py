"""The object types of the contract, each a view of a row or of columns that another room has made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Generic, TypeVar

import numpy as np
import strawberry

from app.database import Edition, EditionName
from app.errors import NotFound
from app.graphql.context import Info
from app.graphql.filters import MeasurementOrder, MeasurementWhere, order_measurements, read_measurement_where
from app.graphql.scalars import EpochMillis, Metrics
from app.history.columns import Fill
from app.history.machines import FleetState, judge_machine
from app.history.pages import MEASUREMENTS, Clause, Page, PageRequest, TableShape, count_rows
from app.history.series import Aggregate, Resolution, SeriesColumns, SeriesQuestion
from app.ingest.merge import OnConflict
from app.ingest.refusal import Rejection as RefusedReading
from app.ingest.writer import IngestResult as WrittenResult
from app.liveness.pulse import Liveness
from app.migrations.state import MigrationState
from app.reading import StoredReading, decode_reading
from app.registry import StoredMachine
from app.timescale.catalogue import HypertableState

Node = TypeVar("Node")


def _enum(kind: type[Enum]) -> None:
    strawberry.enum(kind, description=(kind.__doc__ or "").strip() or None)


for _kind in (Fill, Aggregate, Resolution, Liveness, OnConflict, EditionName):
    _enum(_kind)


@strawberry.type(description="Where a page lies among all the rows.")
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@strawberry.type(description="A row, and the cursor that stands behind it.")
class Edge(Generic[Node]):
    cursor: str
    node: Node


@strawberry.type(description="A page of rows.")
class Connection(Generic[Node]):
    edges: list[Edge[Node]]
    nodes: list[Node]
    page_info: PageInfo
    counted: strawberry.Private[tuple[TableShape, Clause]]
    owner: strawberry.Private[str | None]

    @strawberry.field(description="How many rows all pages hold together; counted only when it's asked for.")
    async def total_count(self, info: Info) -> int:
        if self.owner is not None:
            return await info.context.loaders.count.load((self.owner, self.counted))
        async with info.context.rooms.database.connection() as connection:
            return await count_rows(connection, *self.counted)

    @classmethod
    def wrap(
        cls, page: Page, nodes: list[Node], counted: tuple[TableShape, Clause], owner: str | None = None
    ) -> Connection[Node]:
        return cls(
            edges=[Edge(cursor=cursor, node=node) for cursor, node in zip(page.cursors, nodes, strict=True)],
            nodes=nodes,
            page_info=PageInfo(
                has_next_page=page.has_next,
                has_previous_page=page.has_previous,
                start_cursor=page.cursors[0] if page.cursors else None,
                end_cursor=page.cursors[-1] if page.cursors else None,
            ),
            counted=counted,
            owner=owner,
        )


@strawberry.type(description="Columns, not rows: as many values as timestamps.")
class Series:
    columns: strawberry.Private[SeriesColumns]

    @strawberry.field
    def machine_id(self) -> strawberry.ID:
        return strawberry.ID(self.columns.machine_id)

    @strawberry.field
    def metric(self) -> str:
        return self.columns.metric

    @strawberry.field(description="Null where no unit is known.")
    def unit(self) -> str | None:
        return None

    @strawberry.field
    def timestamps(self) -> list[datetime]:
        # Strings, as DateTime's serializer lets them pass: formatting the whole column at once is far faster.
        instants = self.columns.instants.astype("datetime64[us]")
        texts: list[datetime] = np.datetime_as_string(instants, unit="us", timezone="UTC").tolist()
        return texts

    @strawberry.field
    def epoch_millis(self) -> list[EpochMillis]:
        millis: list[EpochMillis] = (self.columns.instants // 1000).tolist()
        return millis

    @strawberry.field
    def values(self) -> list[float | None]:
        values = self.columns.values
        empty = np.isnan(values)
        if not empty.any():
            return values.tolist()  # type: ignore[no-any-return]  # numpy's stubs can't say list[float]
        return np.where(empty, None, values).tolist()  # type: ignore[no-any-return, call-overload]  # as above

    @strawberry.field(description="RAW, BUCKETED or DOWNSAMPLED, and from how many readings.")
    def resolution(self) -> Resolution:
        return self.columns.resolution

    @strawberry.field
    def source_rows(self) -> int:
        return self.columns.source_rows


@strawberry.type(description="What a machine measured at one instant.")
class Measurement:
    machine_id: strawberry.ID
    timestamp: datetime
    metrics: Metrics
    created_at: datetime

    @strawberry.field
    async def machine(self, info: Info) -> Machine:
        return Machine.view(await _load_machine(info, self.machine_id))

    @classmethod
    def view(cls, reading: StoredReading) -> Measurement:
        return cls(
            machine_id=strawberry.ID(reading.machine_id),
            timestamp=reading.timestamp,
            metrics=Metrics(reading.metrics),
            created_at=reading.created_at,
        )


async def _load_machine(info: Info, machine_id: str) -> StoredMachine:
    found = await info.context.loaders.machine.load(machine_id)
    if found is None:
        raise NotFound(f"No machine {machine_id!r} is registered.")
    return found


@strawberry.type(description="A machine that sends readings.")
class Machine:
    machine_id: strawberry.ID
    machine_type: str
    location: str
    operational: bool
    created_at: datetime
    updated_at: datetime

    @strawberry.field(description="When the newest reading was taken.")
    async def last_seen_at(self, info: Info) -> datetime | None:
        reading = await info.context.loaders.latest.load(self.machine_id)
        return None if reading is None else reading.timestamp

    @strawberry.field
    async def liveness(self, info: Info) -> Liveness:
        reading = await info.context.loaders.latest.load(self.machine_id)
        if reading is None:
            return Liveness.NEVER_SEEN
        pulse = await info.context.loaders.pulse.load(self.machine_id)
        return judge_machine(
            pulse, reading.timestamp, reading.created_at, info.context.now, info.context.rooms.liveness
        )

    @strawberry.field(description="Newest by event time, never overwritten by a reading that arrives late.")
    async def latest(self, info: Info) -> Measurement | None:
        reading = await info.context.loaders.latest.load(self.machine_id)
        return None if reading is None else Measurement.view(reading)

    @strawberry.field(description="One Series per metric; no metrics named means all that the range holds.")
    async def series(
        self,
        info: Info,
        from_: Annotated[datetime, strawberry.argument(name="from")],
        metrics: list[str] | None = None,
        to: datetime | None = None,
        bucket: timedelta | None = None,
        aggregate: Aggregate = Aggregate.AVG,
        fill: Fill = Fill.NONE,
        max_points: int = 1000,
    ) -> list[Series]:
        question = make_question((), metrics, from_, to or info.context.now, bucket, aggregate, fill, max_points)
        return [
            Series(columns=columns) for columns in await info.context.loaders.series.load((self.machine_id, question))
        ]

    @strawberry.field(description="The machine's readings, the newest first where no order is given.")
    async def measurements(
        self,
        info: Info,
        where: MeasurementWhere | None = None,
        order_by: list[MeasurementOrder] | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Connection[Measurement]:
        request = PageRequest(
            where=read_measurement_where(where), order=order_measurements(order_by), first=first, after=after
        )
        page = await info.context.loaders.page.load((self.machine_id, (MEASUREMENTS, request)))
        return wrap_measurements(page, request, owner=self.machine_id)

    @classmethod
    def view(cls, machine: StoredMachine) -> Machine:
        return cls(
            machine_id=strawberry.ID(machine.machine_id),
            machine_type=machine.machine_type,
            location=machine.location,
            operational=machine.operational,
            created_at=machine.created_at,
            updated_at=machine.updated_at,
        )


def make_question(
    machine_ids: Sequence[str],
    metrics: Sequence[str] | None,
    start: datetime,
    end: datetime,
    bucket: timedelta | None,
    aggregate: Aggregate,
    fill: Fill,
    max_points: int,
) -> SeriesQuestion:
    """What the arguments of `series` ask, of one machine's field or of the query's."""
    return SeriesQuestion(
        machine_ids=tuple(machine_ids),
        metrics=None if metrics is None else tuple(metrics),
        start=start,
        end=end,
        bucket=bucket,
        aggregate=aggregate,
        fill=fill,
        max_points=max_points,
    )


def wrap_measurements(page: Page, request: PageRequest, owner: str | None = None) -> Connection[Measurement]:
    """A page of measurements, of one machine or of all."""
    nodes = [Measurement.view(decode_reading(row)) for row in page.rows]
    return Connection.wrap(page, nodes, (MEASUREMENTS, request.where), owner)


@strawberry.type(
    description="All machines at a glance. Each one is in exactly one of live, stale, silent and neverSeen."
)
class Fleet:
    machines: int
    operational: int
    live: int
    stale: int
    silent: int
    never_seen: int
    last_seen_at: datetime | None

    @classmethod
    def view(cls, state: FleetState) -> Fleet:
        return cls(
            machines=state.machines,
            operational=state.operational,
            live=state.liveness[Liveness.LIVE],
            stale=state.liveness[Liveness.STALE],
            silent=state.liveness[Liveness.SILENT],
            never_seen=state.liveness[Liveness.NEVER_SEEN],
            last_seen_at=state.last_seen_at,
        )


@strawberry.type(description="A table that TimescaleDB keeps in chunks of time.")
class Hypertable:
    table: str
    time_column: str
    chunk_interval: timedelta
    chunks: int
    size_bytes: float

    @classmethod
    def view(cls, state: HypertableState) -> Hypertable:
        return cls(
            table=state.table,
            time_column=state.time_column,
            chunk_interval=state.chunk_interval,
            chunks=state.chunks,
            size_bytes=float(state.size_bytes),
        )


@strawberry.type(
    description="Ids of the migrations that the database has, and of those that the code has and the database lacks."
)
class Migrations:
    applied: list[str]
    pending: list[str]

    @classmethod
    def view(cls, state: MigrationState) -> Migrations:
        return cls(applied=[*state.applied, *state.unknown], pending=list(state.pending))


@strawberry.type(
    description="The database under the service. A declared hypertable that isn't listed is a plain table here."
)
class Storage:
    edition: EditionName
    postgres_version: str
    timescale_version: str | None
    size_bytes: float
    hypertables: list[Hypertable]
    left_out: list[str] = strawberry.field(
        description="What the tables declare and this edition can't do, a sentence each; what is done instead is said."
    )
    migrations: Migrations

    @classmethod
    def view(
        cls,
        edition: Edition,
        size_bytes: int,
        hypertables: list[HypertableState],
        left_out: list[str],
        migrations: MigrationState,
    ) -> Storage:
        return cls(
            edition=edition.name,
            postgres_version=edition.postgres_version,
            timescale_version=edition.timescale_version,
            size_bytes=float(size_bytes),
            hypertables=[Hypertable.view(state) for state in hypertables],
            left_out=left_out,
            migrations=Migrations.view(migrations),
        )


@strawberry.type(description="Why the reading at `index` of the batch was refused.")
class Rejection:
    index: int
    code: str
    message: str

    @classmethod
    def view(cls, refused: RefusedReading) -> Rejection:
        return cls(index=refused.index, code=refused.code.value, message=refused.message)


@strawberry.type(
    description="How many readings added something, said what was known, disagreed with it, and were refused; "
    "`rejected` names the first 1,000 of those."
)
class IngestResult:
    accepted: int
    duplicates: int
    conflicts: int
    rejected_count: int
    rejected: list[Rejection]

    @classmethod
    def view(cls, result: WrittenResult) -> IngestResult:
        return cls(
            accepted=result.accepted,
            duplicates=result.duplicates,
            conflicts=result.conflicts,
            rejected_count=result.rejected_count,
            rejected=[Rejection.view(refused) for refused in result.rejected],
        )


@strawberry.type(
    description="The readings of one commit. `cursor` resumes after it; `dropped` batches before it were lost to a slow client."
)
class MeasurementBatch:
    cursor: str
    dropped: int
    measurements: list[Measurement]
