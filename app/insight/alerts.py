"""What can happen to an alert, and what may: a state machine after ISA-18.2 and EEMUA 191. Pure.

The condition behind an alert is active or cleared, and a person has acknowledged it or not. Once it is cleared and
acknowledged, in whichever order, it is resolved. RESOLVED is the end: a condition that comes back is another alert.

    what happens   ACTIVE_UNACKNOWLEDGED   ACTIVE_ACKNOWLEDGED   CLEARED_UNACKNOWLEDGED   RESOLVED
    RAISE          updated                 updated               ACTIVE_UNACKNOWLEDGED    (another alert)
    CLEAR          CLEARED_UNACKNOWLEDGED  RESOLVED              refused                  refused
    ACKNOWLEDGE    ACTIVE_ACKNOWLEDGED     refused               RESOLVED                 refused
    RESOLVE        RESOLVED                RESOLVED              RESOLVED                 refused
    SHELVE         the same                the same              the same                 refused

RAISE updates severity, title, description, evidence and timestamp, and only with what is not older, by event time, than
what is known: of a condition that is told late nothing changes, and a cleared alert stays cleared. Shelved is no state
of its own: an alert is shelved beside any open state until an instant, which SHELVE may change to another one; what
resolves the alert ends it. An alert that is shelved is updated, cleared and acknowledged like any other.

Refused means WrongState (ALERT_STATE), which says how the alert stands, since when and through whom.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, NoReturn

import msgspec

from app.alert import AlertState, AlertType, Severity
from app.errors import WrongState


class AlertAction(Enum):
    """What happens to an alert."""

    RAISE = "RAISE"
    CLEAR = "CLEAR"
    ACKNOWLEDGE = "ACKNOWLEDGE"
    RESOLVE = "RESOLVE"
    SHELVE = "SHELVE"


class Condition(msgspec.Struct, frozen=True):
    """What is found wrong with a machine at `timestamp`; `cause` is what makes two of them the same alert."""

    machine_id: str
    cause: str
    alert_type: AlertType
    severity: Severity
    title: str
    description: str | None
    timestamp: datetime
    evidence: dict[str, Any]


class Step(msgspec.Struct, frozen=True):
    """One thing that happens to an alert: `by` whom and `at` what instant; `until` is given with SHELVE alone."""

    action: AlertAction
    at: datetime
    by: str
    note: str | None = None
    until: datetime | None = None


class StoredAlert(msgspec.Struct, frozen=True):
    """A row of alerts; times are in UTC. Of one that is resolved nothing is shelved."""

    id: int
    machine_id: str
    timestamp: datetime
    alert_type: AlertType
    severity: Severity
    cause: str
    title: str
    description: str | None
    evidence: dict[str, Any]
    cleared_at: datetime | None
    cleared_by: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    shelved_at: datetime | None
    shelved_by: str | None
    shelved_until: datetime | None
    created_at: datetime

    @property
    def state(self) -> AlertState:
        return judge_state(self.cleared_at, self.acknowledged_at, self.resolved_at)


def judge_state(
    cleared_at: datetime | None, acknowledged_at: datetime | None, resolved_at: datetime | None
) -> AlertState:
    """The state that these columns of an alert make."""
    if resolved_at is not None or (cleared_at is not None and acknowledged_at is not None):
        return AlertState.RESOLVED
    if cleared_at is not None:
        return AlertState.CLEARED_UNACKNOWLEDGED
    return AlertState.ACTIVE_UNACKNOWLEDGED if acknowledged_at is None else AlertState.ACTIVE_ACKNOWLEDGED


def raise_again(alert: StoredAlert, condition: Condition) -> StoredAlert:
    """An open alert after its condition was found once more; the same alert where that tells nothing new."""
    if condition.timestamp < alert.timestamp:
        return alert
    return msgspec.structs.replace(
        alert,
        timestamp=condition.timestamp,
        alert_type=condition.alert_type,
        severity=condition.severity,
        title=condition.title,
        description=condition.description,
        evidence=condition.evidence,
        cleared_at=None,
        cleared_by=None,
    )


def take_step(alert: StoredAlert, step: Step) -> StoredAlert:
    """An alert after one of CLEAR, ACKNOWLEDGE, RESOLVE and SHELVE. Raises WrongState where the table refuses it."""
    if alert.state is AlertState.RESOLVED:
        _refuse(alert, "it is resolved", alert.resolved_at, alert.resolved_by, "it can be raised as another alert")
    return _STEPS[step.action](alert, step)


def is_worth_keeping(before: StoredAlert, after: StoredAlert) -> bool:
    """Whether a RAISE is a transition to keep: a condition that merely lasts brings new evidence every second."""
    lasting = msgspec.structs.replace(before, timestamp=after.timestamp, evidence=after.evidence)
    return lasting != after


def _clear(alert: StoredAlert, step: Step) -> StoredAlert:
    if alert.cleared_at is not None:
        right = "acknowledge or resolve it"
        _refuse(alert, "it is cleared already", alert.cleared_at, alert.cleared_by, right)
    cleared = msgspec.structs.replace(alert, cleared_at=step.at, cleared_by=step.by)
    return cleared if alert.acknowledged_at is None else _resolve(cleared, step)


def _acknowledge(alert: StoredAlert, step: Step) -> StoredAlert:
    if alert.acknowledged_at is not None:
        right = "clear or resolve it"
        _refuse(alert, "it is acknowledged already", alert.acknowledged_at, alert.acknowledged_by, right)
    acknowledged = msgspec.structs.replace(alert, acknowledged_at=step.at, acknowledged_by=step.by)
    return acknowledged if alert.cleared_at is None else _resolve(acknowledged, step)


def _shelve(alert: StoredAlert, step: Step) -> StoredAlert:
    if step.until is not None and alert.shelved_until == step.until:
        right = "give another instant for until"
        _refuse(alert, "it is shelved until then already", alert.shelved_at, alert.shelved_by, right)
    return msgspec.structs.replace(alert, shelved_at=step.at, shelved_by=step.by, shelved_until=step.until)


def _resolve(alert: StoredAlert, step: Step) -> StoredAlert:
    return msgspec.structs.replace(
        alert, resolved_at=step.at, resolved_by=step.by, shelved_at=None, shelved_by=None, shelved_until=None
    )


_STEPS = {
    AlertAction.CLEAR: _clear,
    AlertAction.ACKNOWLEDGE: _acknowledge,
    AlertAction.RESOLVE: _resolve,
    AlertAction.SHELVE: _shelve,
}


def _refuse(alert: StoredAlert, fact: str, at: datetime | None, by: str | None, right: str) -> NoReturn:
    since = "" if at is None else f", since {at:%Y-%m-%dT%H:%M:%SZ}"
    whom = "" if by is None else f", by {by}"
    raise WrongState(f"Alert {alert.id} is {alert.state.value}: {fact}{since}{whom}; {right}.", field="alertId")
