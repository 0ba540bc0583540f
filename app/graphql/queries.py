"""The root of what can be asked."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import strawberry

from app.graphql.aggregates import aggregate
from app.graphql.connections import connect
from app.graphql.context import Info
from app.graphql.entities import Alert, EsgRecord, Feature, Machine, Measurement, Prediction
from app.graphql.series import Series, make_question
from app.graphql.standing import ByKey, Columns, stand
from app.graphql.storage import Storage
from app.graphql.types import Fleet
from app.history.columns import Fill
from app.history.machines import find_fleet
from app.history.series import find_series
from app.history.shapes import ALERTS, ESG_RECORDS, FEATURES, MACHINES, MEASUREMENTS, PREDICTIONS
from app.history.statements import Aggregate
from app.migrations.state import list_migrations, read_state
from app.timescale.catalogue import read_hypertables, read_policies
from app.timescale.editions import describe_left_out


@strawberry.type
class Query:
    @strawberry.field
    async def fleet(self, info: Info) -> Fleet:
        rooms = info.context.rooms
        return Fleet.view(await find_fleet(rooms.database, info.context.now, rooms.liveness))

    @strawberry.field(description="Null where no such machine is registered.", metadata=stand(ByKey(MACHINES)))
    async def machine(self, info: Info, machine_id: strawberry.ID) -> Machine | None:
        found = await info.context.loaders.machine.load(machine_id)
        return None if found is None else Machine.view(found)

    machines = connect(MACHINES, Machine)
    measurements = connect(MEASUREMENTS, Measurement)
    features = connect(FEATURES, Feature)
    predictions = connect(PREDICTIONS, Prediction)
    esg_records = connect(ESG_RECORDS, EsgRecord)
    alerts = connect(ALERTS, Alert)
    machines_aggregate = aggregate(MACHINES)
    measurements_aggregate = aggregate(MEASUREMENTS)
    features_aggregate = aggregate(FEATURES)
    predictions_aggregate = aggregate(PREDICTIONS)
    esg_records_aggregate = aggregate(ESG_RECORDS)
    alerts_aggregate = aggregate(ALERTS)

    @strawberry.field(
        description="One Series per machine and metric, in the order asked for; "
        "no metrics named means all that the range holds.",
        metadata=stand(Columns()),
    )
    async def series(
        self,
        info: Info,
        machine_ids: list[strawberry.ID],
        from_: Annotated[datetime, strawberry.argument(name="from")],
        metrics: list[str] | None = None,
        to: datetime | None = None,
        bucket: timedelta | None = None,
        aggregate: Aggregate = Aggregate.AVG,
        fill: Fill = Fill.NONE,
        max_points: int = 1000,
    ) -> list[Series]:
        question = make_question(
            machine_ids, metrics, from_, to or info.context.now, bucket, aggregate, fill, max_points
        )
        rooms = info.context.rooms
        return [Series(columns=columns) for columns in await find_series(rooms.database, question, rooms.series)]

    @strawberry.field(description="The database under the service: edition, hypertables, policies, migrations.")
    async def storage(self, info: Info) -> Storage:
        rooms = info.context.rooms
        database = rooms.database
        async with database.connection() as connection:
            size_bytes = await connection.fetchval("SELECT pg_database_size(current_database())")
            hypertables = await read_hypertables(connection, database.edition)
            policies = await read_policies(connection, database.edition)
            migrations = await read_state(connection, list_migrations())
        left_out = describe_left_out(rooms.declared, database.edition)
        return Storage.view(database.edition, size_bytes, hypertables, policies, left_out, migrations)
