"""The database under the service, as clients see it."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import strawberry

from app.database import Edition, EditionName
from app.migrations.state import MigrationState
from app.timescale.catalogue import HypertableState, PolicyState

strawberry.enum(EditionName, description=EditionName.__doc__)


@strawberry.type(description="What compression has made of a hypertable's chunks.")
class CompressionState:
    chunks: int = strawberry.field(description="How many of them are compressed.")
    before_bytes: float
    after_bytes: float
    ratio: float | None = strawberry.field(
        description="How many times smaller they are; null while none is compressed."
    )


@strawberry.type(description="A table that TimescaleDB keeps in chunks of time.")
class Hypertable:
    table: str
    time_column: str
    chunk_interval: timedelta
    chunks: int
    size_bytes: float
    compression: CompressionState | None = strawberry.field(description="Null where it isn't compressed at all.")

    @classmethod
    def view(cls, state: HypertableState) -> Hypertable:
        compression = None
        if state.compressed_chunks is not None:
            compression = CompressionState(
                chunks=state.compressed_chunks,
                before_bytes=float(state.before_bytes),
                after_bytes=float(state.after_bytes),
                ratio=state.before_bytes / state.after_bytes if state.after_bytes else None,
            )
        return cls(
            table=state.table,
            time_column=state.time_column,
            chunk_interval=state.chunk_interval,
            chunks=state.chunks,
            size_bytes=float(state.size_bytes),
            compression=compression,
        )


@strawberry.type(
    description="What TimescaleDB does by itself to a hypertable or an aggregate, and how its last run went."
)
class Policy:
    job: str = strawberry.field(description="policy_retention, policy_compression and the like.")
    table: str
    every: timedelta
    scheduled: bool
    last_started_at: datetime | None
    last_succeeded_at: datetime | None
    last_status: str | None = strawberry.field(description="Success or Failed; null before the first run.")
    next_start_at: datetime | None
    runs: int
    failures: int

    @classmethod
    def view(cls, state: PolicyState) -> Policy:
        return cls(**msgspec.structs.asdict(state))


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
    policies: list[Policy] = strawberry.field(description="By table; TimescaleDB Community alone has any.")
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
        policies: list[PolicyState],
        left_out: list[str],
        migrations: MigrationState,
    ) -> Storage:
        return cls(
            edition=edition.name,
            postgres_version=edition.postgres_version,
            timescale_version=edition.timescale_version,
            size_bytes=float(size_bytes),
            hypertables=[Hypertable.view(state) for state in hypertables],
            policies=[Policy.view(state) for state in policies],
            left_out=left_out,
            migrations=Migrations.view(migrations),
        )
