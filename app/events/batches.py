"""Turns events into what they tell of: readings, predictions, and alerts with what happened to them.

An event holds keys, not rows: the outbox stays small, and a process reads a batch once for all its subscribers. What
leaves is what is stored now, which is newer than the event where a row was changed since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from app.alert import Severity
from app.database import Connection
from app.events.outbox import Event, Topic
from app.insight.alerts import AlertAction, StoredAlert
from app.insight.predictions import PredictionKey, StoredPrediction
from app.insight.rows import find_alerts, find_predictions
from app.instants import from_microseconds
from app.reading import StoredReading, decode_reading

_OVERHEAD = 400  # bytes that a row takes beside its JSON, about


class AlertChange(msgspec.Struct, frozen=True):
    """What happened to an alert, and the higher of its severities before and after."""

    action: AlertAction
    severity: Severity
    alert: StoredAlert


Row: TypeAlias = StoredReading | StoredPrediction | AlertChange


class Batch(msgspec.Struct, frozen=True):
    """The rows of one event; `id` is the event's, from which one can resume, `size` about how many bytes they take.

    Readings are by machine and time, predictions by their keys, and of alerts there is one.
    """

    id: int
    topic: Topic
    rows: list[Row]
    size: int


async def load_batch(connection: Connection, event: Event) -> Batch:
    """The batch of one event of a topic that can be followed."""
    rows, size = await _LOADERS[event.topic](connection, event.payload)
    return Batch(event.id, event.topic, rows, size + _OVERHEAD * len(rows))


async def _load_readings(connection: Connection, keys: dict[str, list[int]]) -> tuple[list[Row], int]:
    machines = [machine_id for machine_id, times in keys.items() for _ in times]
    times = [from_microseconds(microseconds) for times in keys.values() for microseconds in times]
    # The bounds are there for the planner: a hypertable then opens the chunks of the batch's range alone.
    rows = await connection.fetch(
        """
        SELECT stored.machine_id, stored.timestamp, stored.metrics, stored.created_at
        FROM unnest($1::text[], $2::timestamptz[]) AS wanted (machine_id, timestamp)
        JOIN raw_measurements AS stored USING (machine_id, timestamp)
        WHERE stored.timestamp BETWEEN $3 AND $4
        ORDER BY stored.machine_id, stored.timestamp
        """,
        machines,
        times,
        min(times),
        max(times),
    )
    # A metric takes about twice its text: a name that others share, and a number.
    return [decode_reading(row) for row in rows], 2 * sum(len(row["metrics"]) for row in rows)


async def _load_predictions(connection: Connection, keys: list[tuple[str, int, str]]) -> tuple[list[Row], int]:
    wanted = [PredictionKey(machine, from_microseconds(instant), version) for machine, instant, version in keys]
    found = await find_predictions(connection, wanted)
    rows: list[Row] = [found[key] for key in sorted(found)]
    return rows, 2 * sum(len(msgspec.json.encode(stored.features_used)) for stored in found.values())


async def _load_alert(connection: Connection, told: dict[str, Any]) -> tuple[list[Row], int]:
    found = await find_alerts(connection, [told["alert_id"]])
    rows: list[Row] = [
        AlertChange(AlertAction(told["action"]), Severity(told["severity"]), alert) for alert in found.values()
    ]
    return rows, 2 * sum(len(msgspec.json.encode(alert.evidence)) for alert in found.values())


_LOADERS: dict[Topic, Callable[[Connection, Any], Awaitable[tuple[list[Row], int]]]] = {
    Topic.MEASUREMENTS: _load_readings,
    Topic.PREDICTIONS: _load_predictions,
    Topic.ALERTS: _load_alert,
}

TOPICS = tuple(_LOADERS)  # that can be followed
