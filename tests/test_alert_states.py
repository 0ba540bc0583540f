"""The state machine of alerts: its table, square by square, and what holds after anything that can happen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.alert import AlertState, AlertType, Severity
from app.errors import WrongState
from app.insight.alerts import AlertAction, Condition, Step, StoredAlert, is_worth_keeping, raise_again, take_step

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
OPENED = StoredAlert(
    id=7,
    machine_id="PRESS-1",
    timestamp=NOON,
    alert_type=AlertType.THRESHOLD,
    severity=Severity.HIGH,
    cause="temperature",
    title="Too hot",
    description=None,
    evidence={"temperature": 91.5},
    cleared_at=None,
    cleared_by=None,
    acknowledged_at=None,
    acknowledged_by=None,
    resolved_at=None,
    resolved_by=None,
    shelved_at=None,
    shelved_by=None,
    shelved_until=None,
    created_at=NOON,
)

ACTIVE, SEEN, CLEARED, RESOLVED = AlertState
RAISE, CLEAR, ACKNOWLEDGE, RESOLVE, SHELVE = AlertAction
WAYS = {ACTIVE: (), SEEN: (ACKNOWLEDGE,), CLEARED: (CLEAR,), RESOLVED: (RESOLVE,)}


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def condition(minutes: int, severity: Severity = Severity.HIGH, title: str = "Too hot") -> Condition:
    return Condition("PRESS-1", "temperature", AlertType.THRESHOLD, severity, title, None, at(minutes), {"n": minutes})


def step(action: AlertAction, minutes: int = 1, by: str = "ana") -> Step:
    return Step(action, at(minutes), by, until=at(60) if action is SHELVE else None)


def bring_to(state: AlertState) -> StoredAlert:
    alert = OPENED
    for action in WAYS[state]:
        alert = take_step(alert, step(action))
    assert alert.state is state
    return alert


@pytest.mark.parametrize(
    ("state", "action", "outcome"),
    [
        (ACTIVE, CLEAR, CLEARED),
        (ACTIVE, ACKNOWLEDGE, SEEN),
        (ACTIVE, RESOLVE, RESOLVED),
        (ACTIVE, SHELVE, ACTIVE),
        (SEEN, CLEAR, RESOLVED),
        (SEEN, RESOLVE, RESOLVED),
        (SEEN, SHELVE, SEEN),
        (CLEARED, ACKNOWLEDGE, RESOLVED),
        (CLEARED, RESOLVE, RESOLVED),
        (CLEARED, SHELVE, CLEARED),
    ],
)
def test_a_step_leads_where_the_table_says(state: AlertState, action: AlertAction, outcome: AlertState) -> None:
    assert take_step(bring_to(state), step(action, 2)).state is outcome


@pytest.mark.parametrize(
    ("state", "action", "sentence"),
    [
        (
            SEEN,
            ACKNOWLEDGE,
            "Alert 7 is ACTIVE_ACKNOWLEDGED: it is acknowledged already, since 2026-01-31T12:01:00Z, by ana; "
            "clear or resolve it.",
        ),
        (
            CLEARED,
            CLEAR,
            "Alert 7 is CLEARED_UNACKNOWLEDGED: it is cleared already, since 2026-01-31T12:01:00Z, by ana; "
            "acknowledge or resolve it.",
        ),
        *(
            (
                RESOLVED,
                action,
                "Alert 7 is RESOLVED: it is resolved, since 2026-01-31T12:01:00Z, by ana; "
                "it can be raised as another alert.",
            )
            for action in (CLEAR, ACKNOWLEDGE, RESOLVE, SHELVE)
        ),
    ],
)
def test_what_the_table_does_not_allow_is_refused(state: AlertState, action: AlertAction, sentence: str) -> None:
    with pytest.raises(WrongState) as refused:
        take_step(bring_to(state), step(action, 2, by="bo"))
    assert str(refused.value) == sentence
    assert refused.value.extensions == {"code": "ALERT_STATE", "field": "alertId"}


def test_a_shelf_may_be_moved_but_not_put_where_it_is() -> None:
    shelved = take_step(OPENED, step(SHELVE))
    assert (shelved.shelved_at, shelved.shelved_by, shelved.shelved_until) == (at(1), "ana", at(60))
    with pytest.raises(WrongState, match=r"shelved until then already, since 2026-01-31T12:01:00Z, by ana"):
        take_step(shelved, step(SHELVE, 2))
    moved = take_step(shelved, Step(SHELVE, at(2), "bo", until=at(30)))
    assert (moved.shelved_at, moved.shelved_by, moved.shelved_until) == (at(2), "bo", at(30))


def test_what_resolves_an_alert_ends_its_shelf() -> None:
    resolved = take_step(take_step(OPENED, step(SHELVE)), step(RESOLVE, 2))
    assert (resolved.shelved_at, resolved.shelved_by, resolved.shelved_until) == (None, None, None)


def test_a_condition_that_comes_back_is_active_again_and_keeps_its_acknowledgement() -> None:
    back = raise_again(bring_to(CLEARED), condition(5, Severity.CRITICAL, "Far too hot"))
    assert back.state is ACTIVE
    assert (back.severity, back.title, back.timestamp, back.evidence) == (
        Severity.CRITICAL,
        "Far too hot",
        at(5),
        {"n": 5},
    )
    assert raise_again(bring_to(SEEN), condition(5)).state is SEEN


def test_a_condition_that_is_told_late_changes_nothing() -> None:
    for state in (ACTIVE, SEEN, CLEARED):
        alert = bring_to(state)
        assert raise_again(alert, condition(-1, Severity.LOW)) == alert


def test_a_condition_that_merely_lasts_is_no_transition() -> None:
    assert not is_worth_keeping(OPENED, raise_again(OPENED, condition(5)))
    assert is_worth_keeping(OPENED, raise_again(OPENED, condition(5, Severity.LOW)))
    assert is_worth_keeping(bring_to(CLEARED), raise_again(bring_to(CLEARED), condition(5)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(AlertAction), st.integers(-5, 120), st.sampled_from(["ana", "bo"]))))
def test_whatever_happens_an_alert_stays_whole(happening: list[tuple[AlertAction, int, str]]) -> None:
    alert = OPENED
    for now, (action, minutes, by) in enumerate(happening, start=1):
        before = alert
        try:
            if action is RAISE:
                if before.state is not RESOLVED:
                    alert = raise_again(alert, condition(minutes))
            else:
                alert = take_step(
                    alert, Step(action, at(now), by, until=at(200 + minutes) if action is SHELVE else None)
                )
        except WrongState:
            assert alert is before
            assert before.state is RESOLVED or action in {CLEAR, ACKNOWLEDGE, SHELVE}
        # The columns never say two things.
        assert (alert.cleared_at is None) == (alert.cleared_by is None)
        assert (alert.acknowledged_at is None) == (alert.acknowledged_by is None)
        assert (alert.resolved_at is None) == (alert.resolved_by is None)
        assert len({alert.shelved_at is None, alert.shelved_by is None, alert.shelved_until is None}) == 1
        # What was cleared and acknowledged is resolved, and what is resolved says so in its own column.
        assert (alert.state is RESOLVED) == (alert.resolved_at is not None)
        assert alert.state is not RESOLVED or alert.shelved_until is None
        # The end is the end, an acknowledgement is never lost, and event time never goes back.
        assert before.state is not RESOLVED or alert == before
        assert before.acknowledged_at is None or alert.acknowledged_at == before.acknowledged_at
        assert alert.timestamp >= before.timestamp
        changed = [name for name in alert.__struct_fields__ if getattr(alert, name) != getattr(before, name)]
        assert not {"id", "machine_id", "cause", "created_at"} & set(changed)
    assert msgspec.convert(msgspec.to_builtins(alert), StoredAlert) == alert
