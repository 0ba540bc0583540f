"""The database under the service, as clients see it."""

from __future__ import annotations

from datetime import timedelta

import strawberry

from app.database import Edition, EditionName
from app.migrations.state import MigrationState
from app.timescale.catalogue import HypertableState

strawberry.enum(EditionName, description=EditionName.__doc__)


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
