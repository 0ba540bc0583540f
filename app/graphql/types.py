"""The object types that show what other rooms have made: columns, counts, answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum

import numpy as np
import strawberry

from app.database import Edition, EditionName
from app.graphql.scalars import EpochMillis
from app.history.columns import Fill
from app.history.machines import FleetState
from app.history.series import Aggregate, Resolution, SeriesColumns, SeriesQuestion
from app.ingest.merge import OnConflict
from app.ingest.refusal import Rejection as RefusedReading
from app.ingest.writer import IngestResult as WrittenResult
from app.insight.alerts import AlertAction
from app.liveness.pulse import Liveness
from app.migrations.state import MigrationState
from app.timescale.catalogue import HypertableState


def _enum(kind: type[Enum]) -> None:
    strawberry.enum(kind, description=(kind.__doc__ or "").strip() or None)


for _kind in (Fill, Aggregate, Resolution, Liveness, OnConflict, EditionName, AlertAction):
    _enum(_kind)


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
