"""The root of what can be followed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import strawberry

from app.errors import InvalidInput
from app.events.stream import stream_batches
from app.graphql.context import Info
from app.graphql.entities import Measurement, MeasurementBatch
from app.reading import StoredReading


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
        context = info.context
        rooms = context.rooms
        machines = None if machine_ids is None else frozenset[str](machine_ids)
        names = None if metrics is None else frozenset(metrics)
        dropped_before = 0
        async with aclosing(stream_batches(rooms.database, rooms.fanout, _read_cursor(after))) as batches:
            async for batch, dropped in batches:
                dropped_before += dropped
                readings = [kept for reading in batch.readings if (kept := _select(reading, machines, names))]
                if readings:
                    context.forget_loaded()
                    yield MeasurementBatch(
                        cursor=str(batch.id),
                        dropped=dropped_before,
                        measurements=[Measurement.view(reading) for reading in readings],
                    )
                    dropped_before = 0


def _read_cursor(after: str | None) -> int | None:
    if after is None:
        return None
    # A cursor is an event's id, within bigint.
    if not after.isdecimal() or not after.isascii() or len(after) > 18:
        raise InvalidInput("after is not a cursor of this subscription: take it from a batch.", field="after")
    return int(after)


def _select(
    reading: StoredReading, machines: frozenset[str] | None, names: frozenset[str] | None
) -> StoredReading | None:
    """The reading with the metrics that are wanted; None where nothing of it is."""
    if machines is not None and reading.machine_id not in machines:
        return None
    if names is None:
        return reading
    metrics = {name: value for name, value in reading.metrics.items() if name in names}
    return msgspec.structs.replace(reading, metrics=metrics) if metrics else None
