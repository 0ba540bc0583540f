"""What an alert can be called: how bad it is, what it is about, and where it stands. Pure."""

from __future__ import annotations

from enum import Enum


class Severity(Enum):
    """How bad it is, the least first."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"


class AlertType(Enum):
    """What an alert is about."""

    ANOMALY = "ANOMALY"
    PREDICTION = "PREDICTION"
    THRESHOLD = "THRESHOLD"
    ESG = "ESG"
    SILENCE = "SILENCE"


class AlertState(Enum):
    """Where an alert stands: whether its cause still holds, and whether a person has seen it."""

    ACTIVE_UNACKNOWLEDGED = "ACTIVE_UNACKNOWLEDGED"
    ACTIVE_ACKNOWLEDGED = "ACTIVE_ACKNOWLEDGED"
    CLEARED_UNACKNOWLEDGED = "CLEARED_UNACKNOWLEDGED"
    RESOLVED = "RESOLVED"
