"""The root of what can be changed."""

from __future__ import annotations

from datetime import datetime

import strawberry

from app.graphql.context import Info
from app.graphql.entities import Machine
from app.graphql.scalars import Metrics
from app.graphql.types import IngestResult
from app.ingest.merge import OnConflict
from app.ingest.message import read_objects
from app.registry import NewMachine, register_machine, update_machine


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


@strawberry.input(description="What is left out or null stays as it is.")
class UpdateMachineInput:
    machine_type: str | None = None
    location: str | None = None
    operational: bool | None = None


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
        submission = read_objects(rows, info.context.now, rooms.limits)
        return IngestResult.view(await rooms.writer.commit(submission, on_conflict))

    @strawberry.mutation(name="registerMachine")
    async def register(self, input: RegisterMachineInput) -> Machine:  # noqa: A002 - the contract's name
        return Machine.view(await register_machine(NewMachine(input.machine_id, input.machine_type, input.location)))

    @strawberry.mutation(name="updateMachine")
    async def update(self, machine_id: strawberry.ID, input: UpdateMachineInput) -> Machine:  # noqa: A002 - as above
        changed = await update_machine(
            machine_id,
            machine_type=input.machine_type,
            location=input.location,
            operational=input.operational,
        )
        return Machine.view(changed)

    @strawberry.mutation(name="retireMachine", description="Takes it out of service; its history stays.")
    async def retire(self, machine_id: strawberry.ID) -> Machine:
        changed = await update_machine(machine_id, machine_type=None, location=None, operational=False)
        return Machine.view(changed)
