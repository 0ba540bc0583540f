"""A prediction that somebody's model made of a machine: what it must be, and what becomes of one that comes again. Pure."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from app.errors import InvalidInput
from app.instants import check_event_time
from app.texts import check_line, check_object


class PredictionKey(msgspec.Struct, frozen=True, order=True):
    """What makes two predictions the same one."""

    machine_id: str
    timestamp: datetime
    model_version: str


class Forecast(msgspec.Struct, frozen=True):
    """What a model says: risk_score, failure_probability and confidence from 0 to 1, maintenance_hours in hours from
    `timestamp` on, features_used the weight of each metric."""

    machine_id: str
    timestamp: datetime
    model_version: str
    risk_score: float
    failure_probability: float | None
    maintenance_hours: float | None
    failure_type: str | None
    confidence: float | None
    features_used: dict[str, Any]

    @property
    def key(self) -> PredictionKey:
        return PredictionKey(self.machine_id, self.timestamp, self.model_version)


class StoredPrediction(Forecast, frozen=True):
    """A row of predictions; times are in UTC."""

    prediction_id: UUID
    created_at: datetime

    def says(self, forecast: Forecast) -> bool:
        """Whether it is what the model says."""
        return all(getattr(self, name) == getattr(forecast, name) for name in Forecast.__struct_fields__)


def check_forecast(forecast: Forecast, now: datetime) -> Forecast:
    """The prediction as it's to be stored. Raises InvalidInput, which names the field."""
    for name in ("risk_score", "failure_probability", "confidence"):
        _check_number(getattr(forecast, name), _camel(name), 1)
    _check_number(forecast.maintenance_hours, "maintenanceHours", None)
    return msgspec.structs.replace(
        forecast,
        timestamp=check_event_time(forecast.timestamp, now, "timestamp"),
        model_version=check_line(forecast.model_version, "modelVersion"),
        failure_type=None if forecast.failure_type is None else check_line(forecast.failure_type, "failureType"),
        features_used=check_object(forecast.features_used, "featuresUsed"),
    )


def _check_number(value: float | None, field: str, most: int | None) -> None:
    if value is None:
        return
    if not math.isfinite(value) or value < 0 or (most is not None and value > most):
        span = "a finite number of at least 0" if most is None else f"a number from 0 to {most}"
        raise InvalidInput(f"{field} must be {span}.", field=field)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
