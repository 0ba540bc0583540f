"""Alerts in the database: raises them, takes them from state to state, and keeps every transition.

What becomes of an alert, its transition and the event that tells of it are one transaction, under the lock of the alert's
row. Fails: InvalidInput, NotFound and WrongState, which name the field; DatabaseUnavailable and its like.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from app.access.audit import Deed, Subject, describe_change, record_changes
from app.alert import AlertState, Severity
from app.database import Connection, Database
from app.errors import InvalidInput, NotFound, RequestError
from app.events.outbox import Topic, publish_events
from app.insight.alerts import (
    AlertAction,
    Condition,
    Step,
    StoredAlert,
    is_worth_keeping,
    raise_again,
    take_step,
)
from app.insight.rows import ALERT_COLUMNS, decode_alert, read_database_clock
from app.instants import check_event_time
from app.texts import check_line, check_object, check_prose, quote_text

MOST_AT_ONCE = 1_000  # alerts of one request
MOST_TRANSITIONS = 100  # of one alert that are told: the newest
LONGEST_SHELF = timedelta(days=365)

_CHANGED = (
    "timestamp",
    "alert_type",
    "severity",
    "title",
    "description",
    "evidence",
    "cleared_at",
    "cleared_by",
    "acknowledged_at",
    "acknowledged_by",
    "resolved_at",
    "resolved_by",
    "shelved_at",
    "shelved_by",
    "shelved_until",
)


class Transition(msgspec.Struct, frozen=True):
    """A row of alert_transitions; `state_before` is None where the alert was opened."""

    at: datetime
    action: AlertAction
    state_before: AlertState | None
    state_after: AlertState
    by: str
    note: str | None
    shelved_until: datetime | None


class Happening(msgspec.Struct, frozen=True):
    """A step, and the alert before it, if there was one, and after."""

    step: Step
    before: StoredAlert | None
    after: StoredAlert


async def raise_alert(database: Database, condition: Condition, deed: Deed) -> StoredAlert:
    """The open alert of that machine and cause: a new one, or the one that was open, updated.

    Of any number of conditions that are told at once one opens the alert and the others update it.
    """
    async with database.transaction() as connection:
        condition = _check_condition(condition, await read_database_clock(connection))
        await _lock_machine(connection, condition.machine_id)
        before = await _lock_open(connection, condition)
        after = await _open(connection, condition) if before is None else raise_again(before, condition)
        if after == before:
            return after
        step = Step(AlertAction.RAISE, await read_database_clock(connection), deed.by.name)
        if before is not None:
            await _write(connection, [after])
        await _tell(connection, [Happening(step, before, after)], deed)
    return after


async def change_alert(
    database: Database,
    alert_id: str,
    action: AlertAction,
    deed: Deed,
    note: str | None = None,
    until: datetime | None = None,
) -> StoredAlert:
    """An alert after CLEAR, ACKNOWLEDGE, RESOLVE or SHELVE."""
    (changed,) = await _change(database, {alert_id: "alertId"}, action, deed, note, until)
    return changed


async def change_alerts(
    database: Database, alert_ids: Sequence[str], action: AlertAction, deed: Deed, note: str | None = None
) -> list[StoredAlert]:
    """All of them after ACKNOWLEDGE or RESOLVE, in their order, or none. Errors blame alertIds.INDEX."""
    if len(alert_ids) > MOST_AT_ONCE:
        raise InvalidInput(
            f"alertIds holds {len(alert_ids):,}: send at most {MOST_AT_ONCE:,} at once.", field="alertIds"
        )
    fields: dict[str, str] = {}
    for index, alert_id in enumerate(alert_ids):
        if alert_id in fields:
            raise InvalidInput(f"Alert {quote_text(alert_id)} is in the list twice.", field=f"alertIds.{index}")
        fields[alert_id] = f"alertIds.{index}"
    return await _change(database, fields, action, deed, note, None)


async def find_transitions(connection: Connection, alert_ids: Sequence[int]) -> dict[int, list[Transition]]:
    """What happened to each of the alerts, the oldest first; of one with more than MOST_TRANSITIONS the newest."""
    rows = await connection.fetch(
        """
        SELECT kept.*
        FROM unnest($1::bigint[]) AS wanted (alert_id)
        CROSS JOIN LATERAL (
            SELECT id, alert_id, at, action, state_before, state_after, by, note, shelved_until
            FROM alert_transitions WHERE alert_id = wanted.alert_id ORDER BY id DESC LIMIT $2
        ) AS kept
        ORDER BY kept.id
        """,
        list(alert_ids),
        MOST_TRANSITIONS,
    )
    found: dict[int, list[Transition]] = {}
    for row in rows:
        found.setdefault(row["alert_id"], []).append(msgspec.convert(dict(row), Transition))
    return found


def _check_condition(condition: Condition, now: datetime) -> Condition:
    return msgspec.structs.replace(
        condition,
        cause=check_line(condition.cause, "cause"),
        title=check_line(condition.title, "title"),
        description=check_prose(condition.description, "description"),
        timestamp=check_event_time(condition.timestamp, now, "timestamp"),
        evidence=check_object(condition.evidence, "evidence"),
    )


def _check_until(until: datetime | None, now: datetime) -> None:
    if until is not None and not now < until <= now + LONGEST_SHELF:
        raise InvalidInput(
            f"until must be in the future, at most {LONGEST_SHELF.days} days from now: "
            "resolve an alert that nobody is to see again.",
            field="until",
        )


async def _change(
    database: Database,
    fields: dict[str, str],
    action: AlertAction,
    deed: Deed,
    note: str | None,
    until: datetime | None,
) -> list[StoredAlert]:
    """`fields` are the ids and what to blame for each."""
    note = check_prose(note, "note")
    if not fields:
        return []
    async with database.transaction() as connection:
        found = await _lock(connection, [int(alert_id) for alert_id in fields if can_be_id(alert_id)])
        step = Step(action, await read_database_clock(connection), deed.by.name, note, until)
        _check_until(until, step.at)
        happenings = []
        for alert_id, field in fields.items():
            before = found.get(alert_id)
            if before is None:
                raise NotFound(f"There is no alert {quote_text(alert_id)}.", field=field)
            try:
                happenings.append(Happening(step, before, take_step(before, step)))
            except RequestError as error:
                error.field = field
                raise
        await _write(connection, [each.after for each in happenings])
        await _tell(connection, happenings, deed)
    return [each.after for each in happenings]


def can_be_id(text: str) -> bool:
    """Whether a text could be the id of an alert."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


async def _lock(connection: Connection, alert_ids: Sequence[int]) -> dict[str, StoredAlert]:
    # In the order of their ids, so that two requests with the same alerts wait for each other and don't deadlock.
    rows = await connection.fetch(
        f"SELECT {ALERT_COLUMNS} FROM alerts WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE", list(alert_ids)
    )
    return {str(row["id"]): decode_alert(row) for row in rows}


async def _lock_machine(connection: Connection, machine_id: str) -> None:
    # Whoever raises on one machine does so one after the other. Its readings, which only refer to it, don't wait.
    found = await connection.fetchval("SELECT 1 FROM machines WHERE machine_id = $1 FOR NO KEY UPDATE", machine_id)
    if found is None:
        raise NotFound(f"No machine {quote_text(machine_id)} is registered.", field="machineId")


async def _lock_open(connection: Connection, condition: Condition) -> StoredAlert | None:
    row = await connection.fetchrow(
        f"""
        SELECT {ALERT_COLUMNS} FROM alerts
        WHERE machine_id = $1 AND cause = $2 AND resolved_at IS NULL FOR UPDATE
        """,
        condition.machine_id,
        condition.cause,
    )
    return None if row is None else decode_alert(row)


async def _open(connection: Connection, condition: Condition) -> StoredAlert:
    row = await connection.fetchrow(
        f"""
        INSERT INTO alerts (machine_id, cause, alert_type, severity, title, description, timestamp, evidence)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)
        RETURNING {ALERT_COLUMNS}
        """,
        condition.machine_id,
        condition.cause,
        condition.alert_type.value,
        condition.severity.value,
        condition.title,
        condition.description,
        condition.timestamp,
        msgspec.json.encode(condition.evidence).decode(),
    )
    assert row is not None  # noqa: S101 - one row was inserted
    return decode_alert(row)


async def _write(connection: Connection, alerts: Sequence[StoredAlert]) -> None:
    assignments = ", ".join(f"{name} = ${place}" for place, name in enumerate(_CHANGED, start=2))
    await connection.executemany(
        f"UPDATE alerts SET {assignments} WHERE id = $1",
        [(alert.id, *(_encode(getattr(alert, name)) for name in _CHANGED)) for alert in alerts],
    )


def _encode(value: object) -> object:
    """A text for what PostgreSQL keeps as one, or as JSON."""
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return getattr(value, "value", value)


async def _tell(connection: Connection, happenings: Sequence[Happening], deed: Deed) -> None:
    await connection.executemany(
        """
        INSERT INTO alert_transitions (alert_id, at, action, state_before, state_after, by, note, shelved_until)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        [
            (
                each.after.id,
                each.step.at,
                each.step.action.value,
                None if each.before is None else each.before.state.value,
                each.after.state.value,
                each.step.by,
                each.step.note,
                each.step.until,
            )
            for each in happenings
            if each.before is None or is_worth_keeping(each.before, each.after)
        ],
    )
    changes = [describe_change(Subject.ALERT, str(each.after.id), each.before, each.after) for each in happenings]
    await record_changes(connection, deed, changes)
    await publish_events(connection, Topic.ALERTS, [_describe(each) for each in happenings])


def _describe(happening: Happening) -> dict[str, object]:
    # By the higher of both severities, so that whoever follows the severe ones hears of one that no longer is.
    seen = [alert.severity for alert in (happening.before, happening.after) if alert is not None]
    return {
        "alert_id": happening.after.id,
        "machine_id": happening.after.machine_id,
        "action": happening.step.action.value,
        "severity": max(seen, key=list(Severity).index).value,
    }
