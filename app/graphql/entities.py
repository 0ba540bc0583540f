"""The types that show the rows of a table, each with what it is related to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Self

import msgspec
import strawberry

from app.alert import AlertState, AlertType, Severity
from app.errors import NotFound
from app.graphql import standing
from app.graphql.aggregates import aggregate
from app.graphql.connections import connect
from app.graphql.context import Info
from app.graphql.scalars import Json, Metrics
from app.graphql.series import Series, make_question
from app.graphql.standing import Newest, stand
from app.history.columns import Fill
from app.history.fields import Record
from app.history.machines import judge_machine
from app.history.pages import PageRequest
from app.history.shapes import ALERTS, ESG_RECORDS, FEATURES, MACHINES, MEASUREMENTS, PREDICTIONS, TableShape
from app.history.statements import Aggregate
from app.insight.alerts import AlertAction, StoredAlert
from app.insight.predictions import StoredPrediction
from app.liveness.pulse import Liveness
from app.reading import StoredReading
from app.registry import StoredMachine
from app.texts import quote_text

for _kind in (AlertAction, Liveness):
    strawberry.enum(_kind, description=_kind.__doc__)


class Row:
    """What is alike in all of them: each is made of a record that has the fields of its shape."""

    shape: ClassVar[TableShape]

    @classmethod
    def read(cls, record: Record) -> Self:
        """The row of a record that `shape.select` has named the columns of."""
        return cls(**cls.shape.decode(record))


@strawberry.type
class OfMachine:
    """A row that is about one machine."""

    machine_id: strawberry.ID

    @strawberry.field(metadata=stand(standing.OfMachine(MACHINES)))
    async def machine(self, info: Info) -> Machine:
        found = await info.context.loaders.machine.load(self.machine_id)
        if found is None:
            raise NotFound(f"No machine {quote_text(self.machine_id)} is registered.")
        return Machine.view(found)


@strawberry.type(description="What a machine measured at one instant.")
class Measurement(OfMachine, Row):
    shape = MEASUREMENTS

    timestamp: datetime
    metrics: Metrics
    created_at: datetime

    @classmethod
    def view(cls, reading: StoredReading) -> Measurement:
        return cls(
            machine_id=strawberry.ID(reading.machine_id),
            timestamp=reading.timestamp,
            metrics=Metrics(reading.metrics),
            created_at=reading.created_at,
        )


@strawberry.type(description="What was computed of the window of a machine's readings that ends at `timestamp`.")
class Feature(OfMachine, Row):
    shape = FEATURES

    timestamp: datetime
    features: Json
    created_at: datetime


@strawberry.type(description="What one version of a model expected of a machine at one instant.")
class Prediction(OfMachine, Row):
    shape = PREDICTIONS

    prediction_id: strawberry.ID
    timestamp: datetime
    risk_score: float = strawberry.field(description="0 to 1.")
    failure_probability: float | None = strawberry.field(description="0 to 1.")
    maintenance_hours: float | None = strawberry.field(
        description="Null where there is too little history to say: never an invented number."
    )
    failure_type: str | None
    confidence: float | None = strawberry.field(description="0 to 1.")
    model_version: str
    features_used: Json = strawberry.field(description="Which metrics weighed how much.")
    created_at: datetime

    @classmethod
    def view(cls, stored: StoredPrediction) -> Prediction:
        values = msgspec.structs.asdict(stored)
        return cls(**{**values, "prediction_id": strawberry.ID(str(stored.prediction_id))})


@strawberry.type(description="What a machine emitted: kilograms of CO2 equivalent.")
class EsgRecord(OfMachine, Row):
    shape = ESG_RECORDS

    timestamp: datetime
    instant_co2eq_kg: float
    cumulative_co2eq_kg: float = strawberry.field(description="Derived by integrating over time, never incremented.")
    fuel_rate_lh: float | None = strawberry.field(description="Litres per hour.")
    power_consumption_kw: float | None
    efficiency_score: float | None
    factors: Json = strawberry.field(description="The emission factors that it was computed with.")
    metadata: Json | None
    created_at: datetime


@strawberry.type(description="One thing that happened to an alert.")
class AlertTransition:
    at: datetime
    action: AlertAction
    state_before: AlertState | None = strawberry.field(description="Null where the alert was opened.")
    state_after: AlertState
    by: str
    note: str | None
    shelved_until: datetime | None = strawberry.field(description="Of SHELVE: until when.")


@strawberry.type(description="Something about a machine that a person should see, and what they did about it.")
class Alert(OfMachine, Row):
    shape = ALERTS

    alert_id: strawberry.ID
    timestamp: datetime
    alert_type: AlertType
    severity: Severity
    state: AlertState
    cause: str = strawberry.field(description="What makes two alerts of a machine the same one.")
    title: str
    description: str | None
    evidence: Json = strawberry.field(description="Readings, baseline band and scores that raised it.")
    cleared_at: datetime | None = strawberry.field(description="When its cause was gone.")
    cleared_by: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    shelved_at: datetime | None
    shelved_by: str | None
    shelved_until: datetime | None
    created_at: datetime

    @strawberry.field(description="What happened to it, the oldest first; of more than 100 the newest 100.")
    async def transitions(self, info: Info) -> list[AlertTransition]:
        found = await info.context.loaders.transitions.load(int(self.alert_id))
        return [AlertTransition(**msgspec.structs.asdict(each)) for each in found]

    @classmethod
    def view(cls, stored: StoredAlert) -> Alert:
        values = msgspec.structs.asdict(stored)
        return cls(alert_id=strawberry.ID(str(values.pop("id"))), state=stored.state, **values)


@strawberry.type(description="A machine that sends readings.")
class Machine(Row):
    shape = MACHINES

    machine_id: strawberry.ID
    machine_type: str
    location: str
    operational: bool
    created_at: datetime
    updated_at: datetime

    @strawberry.field(
        description="When the newest reading was taken.", metadata=stand(Newest(MEASUREMENTS, "timestamp"))
    )
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

    @strawberry.field(
        description="Newest by event time, never overwritten by a reading that arrives late.",
        metadata=stand(Newest(MEASUREMENTS)),
    )
    async def latest(self, info: Info) -> Measurement | None:
        reading = await info.context.loaders.latest.load(self.machine_id)
        return None if reading is None else Measurement.view(reading)

    @strawberry.field(
        description="Newest by event time; of several at one instant, that of the last modelVersion.",
        metadata=stand(Newest(PREDICTIONS)),
    )
    async def latest_prediction(self, info: Info) -> Prediction | None:
        request = PageRequest(order=PREDICTIONS.order, first=1)
        page = await info.context.loaders.page.load((self.machine_id, (PREDICTIONS, request)))
        return Prediction.read(page.rows[0]) if page.rows else None

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

    measurements = connect(MEASUREMENTS, Measurement, owned=True)
    features = connect(FEATURES, Feature, owned=True)
    predictions = connect(PREDICTIONS, Prediction, owned=True)
    esg_records = connect(ESG_RECORDS, EsgRecord, owned=True)
    alerts = connect(ALERTS, Alert, owned=True)
    measurements_aggregate = aggregate(MEASUREMENTS, owned=True)
    features_aggregate = aggregate(FEATURES, owned=True)
    predictions_aggregate = aggregate(PREDICTIONS, owned=True)
    esg_records_aggregate = aggregate(ESG_RECORDS, owned=True)
    alerts_aggregate = aggregate(ALERTS, owned=True)

    @classmethod
    def view(cls, machine: StoredMachine) -> Machine:
        return cls(**msgspec.structs.asdict(machine))
