"""The root of what can be followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import msgspec
import strawberry

from app.alert import Severity
from app.errors import InvalidInput, NotFound
from app.events.batches import AlertChange, Batch, Row
from app.events.outbox import Topic
from app.events.stream import stream_batches
from app.graphql.context import Info
from app.graphql.entities import Alert, Measurement, Prediction
from app.graphql.sharing import SharedEvent
from app.insight.alerts import AlertAction
from app.insight.predictions import StoredPrediction
from app.reading import StoredReading
from app.registry import find_machines
from app.texts import quote_text

Select: TypeAlias = Callable[[Row], Row | None]  # what is wanted of a row, if anything is
Event = TypeVar("Event", bound="OfBatch")


@strawberry.type
class OfBatch(SharedEvent):
    """An event that is made of the wanted rows of a batch, only when it's executed: most are answered already."""

    cursor: str
    dropped: int
    batch: strawberry.Private[Batch]
    select: strawberry.Private[Select]

    @property
    def identity(self) -> Hashable:
        return (self.batch.topic, self.batch.id) if self.dropped == 0 else None

    def find_wanted(self) -> list[Any]:
        return [kept for row in self.batch.rows if (kept := self.select(row)) is not None]


@strawberry.type(
    description="The readings of one commit. `cursor` resumes after it; `dropped` batches before it were lost to a slow client."
)
class MeasurementBatch(OfBatch):
    @strawberry.field
    def measurements(self) -> list[Measurement]:
        return [Measurement.view(reading) for reading in self.find_wanted()]


@strawberry.type(
    description="Predictions that were recorded together. `cursor` resumes after them; `dropped` batches before them were "
    "lost to a slow client."
)
class PredictionEvent(OfBatch):
    @strawberry.field
    def predictions(self) -> list[Prediction]:
        return [Prediction.view(prediction) for prediction in self.find_wanted()]


@strawberry.type(
    description="What happened to an alert, and how it stands now. `cursor` resumes after it; `dropped` events before it "
    "were lost to a slow client."
)
class AlertEvent(OfBatch):
    @strawberry.field
    def action(self) -> AlertAction:
        change: AlertChange = self.find_wanted()[0]
        return change.action

    @strawberry.field
    def alert(self) -> Alert:
        change: AlertChange = self.find_wanted()[0]
        return Alert.view(change.alert)


@strawberry.type
class Subscription:
    @strawberry.subscription(
        description="Batches, as they are committed. `after` resumes from a cursor with nothing missed."
    )
    async def measurements(
        self,
        info: Info,
        machine_ids: list[strawberry.ID] | None = None,
        metrics: list[str] | None = None,
        after: str | None = None,
    ) -> AsyncGenerator[MeasurementBatch, None]:
        machines = await _check_machines(info, machine_ids)
        names = None if metrics is None else frozenset(metrics)

        def select(row: Row) -> StoredReading | None:
            assert isinstance(row, StoredReading)  # noqa: S101 - by the topic
            return _take_metrics(row, names) if machines is None or row.machine_id in machines else None

        async with aclosing(_follow(info, Topic.MEASUREMENTS, after, select, MeasurementBatch)) as events:
            async for event in events:
                yield event

    @strawberry.subscription(
        description="Predictions, as they are recorded. `after` resumes from a cursor with nothing missed."
    )
    async def predictions(
        self, info: Info, machine_ids: list[strawberry.ID] | None = None, after: str | None = None
    ) -> AsyncGenerator[PredictionEvent, None]:
        machines = await _check_machines(info, machine_ids)

        def select(row: Row) -> StoredPrediction | None:
            assert isinstance(row, StoredPrediction)  # noqa: S101 - as above
            return row if machines is None or row.machine_id in machines else None

        async with aclosing(_follow(info, Topic.PREDICTIONS, after, select, PredictionEvent)) as events:
            async for event in events:
                yield event

    @strawberry.subscription(
        description="What happens to alerts, one by one, of those that are or were at least of `minSeverity`. "
        "`after` resumes from a cursor with nothing missed."
    )
    async def alerts(
        self,
        info: Info,
        machine_ids: list[strawberry.ID] | None = None,
        min_severity: Severity = Severity.LOW,
        after: str | None = None,
    ) -> AsyncGenerator[AlertEvent, None]:
        machines = await _check_machines(info, machine_ids)
        severe = frozenset(list(Severity)[list(Severity).index(min_severity) :])

        def select(row: Row) -> AlertChange | None:
            assert isinstance(row, AlertChange)  # noqa: S101 - as above
            wanted = row.severity in severe and (machines is None or row.alert.machine_id in machines)
            return row if wanted else None

        async with aclosing(_follow(info, Topic.ALERTS, after, select, AlertEvent)) as events:
            async for event in events:
                yield event


async def _follow(
    info: Info, topic: Topic, after: str | None, select: Select, kind: type[Event]
) -> AsyncGenerator[Event, None]:
    """The batches of which something is wanted, each with how many were dropped since the last of them."""
    rooms = info.context.rooms
    dropped_before = 0
    # Newer than the argument, which is as it was at the first connection.
    position = _read_cursor(info.context.last_event_id or after)
    async with aclosing(stream_batches(rooms.whole, rooms.fanout, topic, position)) as batches:
        async for batch, dropped in batches:
            dropped_before += dropped
            seen = await _see(info, select, batch)
            if any(seen(row) is not None for row in batch.rows):
                yield kind(cursor=str(batch.id), dropped=dropped_before, batch=batch, select=seen)
                dropped_before = 0


async def _see(info: Info, select: Select, batch: Batch) -> Select:
    """What is wanted of a row, if whoever asks sees the machine that it's about."""
    principal = info.context.principal
    if principal is None or principal.locations is None:
        return select
    machines = {_name_machine(row) for row in batch.rows}
    visible = await info.context.rooms.locations.find_visible(machines, principal.locations)
    return lambda row: select(row) if _name_machine(row) in visible else None


def _name_machine(row: Row) -> str:
    return row.alert.machine_id if isinstance(row, AlertChange) else row.machine_id


async def _check_machines(info: Info, machine_ids: list[strawberry.ID] | None) -> frozenset[str] | None:
    """None follows all machines. Whoever misspells one would wait for it in vain."""
    if machine_ids is None:
        return None
    known = await find_machines(info.context.rooms.database, machine_ids)
    unknown = [machine_id for machine_id in machine_ids if machine_id not in known]
    if unknown:
        raise NotFound(f"No machine {quote_text(unknown[0])} is registered.", field="machineIds")
    return frozenset(machine_ids)


def _read_cursor(after: str | None) -> int | None:
    if after is None:
        return None
    # A cursor is an event's id, within bigint.
    if not after.isdecimal() or not after.isascii() or len(after) > 18:
        raise InvalidInput("after is not a cursor of this subscription: take it from a batch.", field="after")
    return int(after)


def _take_metrics(reading: StoredReading, names: frozenset[str] | None) -> StoredReading | None:
    """The reading with the metrics that are wanted; None where nothing of it is."""
    if names is None:
        return reading
    metrics = {name: value for name, value in reading.metrics.items() if name in names}
    return msgspec.structs.replace(reading, metrics=metrics) if metrics else None
