"""The root of what can be changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec
import strawberry

from app.access.audit import Deed, begin_deed
from app.alert import AlertType, Severity
from app.graphql.bounds import require_alerts, require_locations, require_machines
from app.graphql.context import Info
from app.graphql.entities import Alert, Machine, Prediction
from app.graphql.scalars import Json, Metrics
from app.graphql.types import IngestResult
from app.ingest.merge import OnConflict
from app.ingest.message import read_objects
from app.insight.alert_log import change_alert, change_alerts, raise_alert
from app.insight.alerts import AlertAction, Condition
from app.insight.prediction_log import record_prediction, record_predictions
from app.insight.predictions import Forecast
from app.registry import NewMachine, register_machine, register_machines, update_machine


def _read_object(value: Json | None) -> dict[str, Any]:
    # Whether it is an object is checked with all else that is said beside it.
    return {} if value is None else cast("dict[str, Any]", value)


@strawberry.input(description="A reading: what a machine measured at one instant.")
class MeasurementInput:
    machine_id: strawberry.ID
    timestamp: datetime
    metrics: Metrics


@strawberry.input
class RegisterMachineInput:
    machine_id: strawberry.ID
    machine_type: str
    location: str

    def read(self) -> NewMachine:
        return NewMachine(self.machine_id, self.machine_type, self.location)


@strawberry.input(description="What is left out or null stays as it is.")
class UpdateMachineInput:
    machine_type: str | None = None
    location: str | None = None
    operational: bool | None = None


@strawberry.input(description="A condition of a machine that a person should see. `timestamp` is by default now.")
class RaiseAlertInput:
    machine_id: strawberry.ID
    alert_type: AlertType
    severity: Severity
    cause: str = strawberry.field(description="What makes two alerts the same one.")
    title: str
    description: str | None = None
    timestamp: datetime | None = None
    evidence: Json | None = strawberry.field(default=None, description="An object; by default an empty one.")

    def read(self, now: datetime) -> Condition:
        return Condition(
            machine_id=self.machine_id,
            cause=self.cause,
            alert_type=self.alert_type,
            severity=self.severity,
            title=self.title,
            description=self.description,
            timestamp=self.timestamp or now,
            evidence=_read_object(self.evidence),
        )


@strawberry.input(description="What one version of a model expects of a machine at one instant, by default now.")
class RecordPredictionInput:
    machine_id: strawberry.ID
    timestamp: datetime | None = None
    risk_score: float = strawberry.field(description="0 to 1.")
    failure_probability: float | None = strawberry.field(default=None, description="0 to 1.")
    maintenance_hours: float | None = strawberry.field(default=None, description="At least 0.")
    failure_type: str | None = None
    confidence: float | None = strawberry.field(default=None, description="0 to 1.")
    model_version: str
    features_used: Json | None = strawberry.field(default=None, description="An object; by default an empty one.")

    def read(self, now: datetime) -> Forecast:
        return Forecast(
            machine_id=self.machine_id,
            timestamp=self.timestamp or now,
            model_version=self.model_version,
            risk_score=self.risk_score,
            failure_probability=self.failure_probability,
            maintenance_hours=self.maintenance_hours,
            failure_type=self.failure_type,
            confidence=self.confidence,
            features_used=_read_object(self.features_used),
        )


@strawberry.type
class Mutation:
    @strawberry.mutation(
        description="All or part of a batch; what was refused is in the answer, never lost silently. "
        "`onConflict` says which value stays when a known metric of a known reading arrives with another value."
    )
    async def ingest(
        self, info: Info, measurements: list[MeasurementInput], on_conflict: OnConflict = OnConflict.KEEP
    ) -> IngestResult:
        rows = [
            {"machine_id": reading.machine_id, "timestamp": reading.timestamp, "metrics": reading.metrics}
            for reading in measurements
        ]
        rooms = info.context.rooms
        if rooms.intake is not None:
            await rooms.intake.spend(info.context.asker, len(msgspec.json.encode(rows)))
        submission = read_objects(rows, info.context.now, rooms.limits)
        return IngestResult.view(await rooms.writer.commit(submission, on_conflict, info.context.asker))

    @strawberry.mutation(name="registerMachine")
    async def register(self, info: Info, input: RegisterMachineInput) -> Machine:  # noqa: A002 - the contract's name
        require_locations(info.context, [(input.location, "location")])
        return Machine.view(await register_machine(info.context.rooms.whole, input.read(), _begin_deed(info)))

    @strawberry.mutation(name="registerMachines", description="All of them, up to 1,000, or none.")
    async def register_all(self, info: Info, machines: list[RegisterMachineInput]) -> list[Machine]:
        require_locations(
            info.context, [(each.location, f"machines.{place}.location") for place, each in enumerate(machines)]
        )
        new = [each.read() for each in machines]
        stored = await register_machines(info.context.rooms.whole, new, _begin_deed(info))
        return [Machine.view(each) for each in stored]

    @strawberry.mutation(name="updateMachine")
    async def update(self, info: Info, machine_id: strawberry.ID, input: UpdateMachineInput) -> Machine:  # noqa: A002 - as above
        await require_machines(info.context, [machine_id], ["machineId"])
        require_locations(info.context, [(input.location, "location")])
        changed = await update_machine(
            info.context.rooms.whole,
            machine_id,
            _begin_deed(info),
            machine_type=input.machine_type,
            location=input.location,
            operational=input.operational,
        )
        return Machine.view(changed)

    @strawberry.mutation(name="retireMachine", description="Takes it out of service; its history stays.")
    async def retire(self, info: Info, machine_id: strawberry.ID) -> Machine:
        await require_machines(info.context, [machine_id], ["machineId"])
        changed = await update_machine(info.context.rooms.whole, machine_id, _begin_deed(info), operational=False)
        return Machine.view(changed)

    @strawberry.mutation(
        name="recordPrediction",
        description="A prediction made by somebody else's model. The same one again changes nothing; one with other values "
        "for that machine, timestamp and modelVersion is refused, or with OVERWRITE takes the old one's place.",
    )
    async def record(
        self,
        info: Info,
        input: RecordPredictionInput,  # noqa: A002 - as above
        on_conflict: OnConflict = OnConflict.KEEP,
    ) -> Prediction:
        context = info.context
        await require_machines(context, [input.machine_id], ["machineId"])
        stored = await record_prediction(context.rooms.whole, input.read(context.now), on_conflict, _begin_deed(info))
        return Prediction.view(stored)

    @strawberry.mutation(
        name="recordPredictions", description="All of them, up to 1,000, or none; otherwise as `recordPrediction`."
    )
    async def record_all(
        self, info: Info, predictions: list[RecordPredictionInput], on_conflict: OnConflict = OnConflict.KEEP
    ) -> list[Prediction]:
        context = info.context
        fields = [f"predictions.{place}.machineId" for place in range(len(predictions))]
        await require_machines(context, [each.machine_id for each in predictions], fields)
        forecasts = [each.read(context.now) for each in predictions]
        stored = await record_predictions(context.rooms.whole, forecasts, on_conflict, _begin_deed(info))
        return [Prediction.view(each) for each in stored]

    @strawberry.mutation(
        name="raiseAlert",
        description="An alert found elsewhere; one that is open for the same machine and cause is updated, not repeated.",
    )
    async def raise_one(self, info: Info, input: RaiseAlertInput) -> Alert:  # noqa: A002 - as above
        context = info.context
        await require_machines(context, [input.machine_id], ["machineId"])
        return Alert.view(await raise_alert(context.rooms.whole, input.read(context.now), _begin_deed(info)))

    @strawberry.mutation(
        name="clearAlert", description="Its cause is gone. One that is acknowledged is thereby resolved."
    )
    async def clear(self, info: Info, alert_id: strawberry.ID, note: str | None = None) -> Alert:
        return await _change(info, alert_id, AlertAction.CLEAR, note)

    @strawberry.mutation(
        name="acknowledgeAlert", description="Somebody has seen it. One that is cleared is thereby resolved."
    )
    async def acknowledge(self, info: Info, alert_id: strawberry.ID, note: str | None = None) -> Alert:
        return await _change(info, alert_id, AlertAction.ACKNOWLEDGE, note)

    @strawberry.mutation(name="acknowledgeAlerts", description="All of them, up to 1,000, or none.")
    async def acknowledge_all(self, info: Info, alert_ids: list[strawberry.ID], note: str | None = None) -> list[Alert]:
        return await _change_all(info, alert_ids, AlertAction.ACKNOWLEDGE, note)

    @strawberry.mutation(name="resolveAlert", description="It is dealt with, whether or not its cause is gone.")
    async def resolve(self, info: Info, alert_id: strawberry.ID, note: str | None = None) -> Alert:
        return await _change(info, alert_id, AlertAction.RESOLVE, note)

    @strawberry.mutation(name="resolveAlerts", description="All of them, up to 1,000, or none.")
    async def resolve_all(self, info: Info, alert_ids: list[strawberry.ID], note: str | None = None) -> list[Alert]:
        return await _change_all(info, alert_ids, AlertAction.RESOLVE, note)

    @strawberry.mutation(
        name="shelveAlert", description="Nobody wants to be told of it until then, a year from now at most."
    )
    async def shelve(self, info: Info, alert_id: strawberry.ID, until: datetime, note: str | None = None) -> Alert:
        return await _change(info, alert_id, AlertAction.SHELVE, note, until)


def _begin_deed(info: Info) -> Deed:
    return begin_deed(info.context.asker, info.field_name)


async def _change(
    info: Info, alert_id: strawberry.ID, action: AlertAction, note: str | None, until: datetime | None = None
) -> Alert:
    context = info.context
    await require_alerts(context, [alert_id], ["alertId"])
    return Alert.view(await change_alert(context.rooms.whole, alert_id, action, _begin_deed(info), note, until))


async def _change_all(info: Info, alert_ids: list[strawberry.ID], action: AlertAction, note: str | None) -> list[Alert]:
    context = info.context
    await require_alerts(context, alert_ids, [f"alertIds.{place}" for place in range(len(alert_ids))])
    changed = await change_alerts(context.rooms.whole, alert_ids, action, _begin_deed(info), note)
    return [Alert.view(each) for each in changed]
