"""Alerts and predictions under many clients at once, on a real server: one open alert for each cause, each event in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import app.database
from app.access.audit import Deed, begin_deed
from app.access.principal import Principal, PrincipalKind
from app.alert import AlertState, AlertType, Severity
from app.database import Database
from app.errors import RequestError, WrongState
from app.ingest.merge import OnConflict
from app.insight.alert_log import change_alert, find_transitions, raise_alert
from app.insight.alerts import AlertAction, Condition
from app.insight.prediction_log import record_prediction
from app.insight.predictions import Forecast
from tests.conftest import run_sql

BEGIN = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    # All wait for the same row, one after the other, on a machine that may be slow.
    monkeypatch.setattr(app.database, "ACQUIRE_TIMEOUT", 120.0)
    await run_sql(database_url, "INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x')")
    database = Database(timescale="auto", pool_size=10, statement_timeout=timedelta(seconds=120))
    await database.open(database_url)
    yield database
    await database.close()


def act(name: str) -> Deed:
    return begin_deed(Principal(f"user:{name}", PrincipalKind.USER, frozenset()), "test")


def condition(second: int, severity: Severity = Severity.HIGH) -> Condition:
    instant = BEGIN + timedelta(seconds=second)
    return Condition("A", "heat", AlertType.THRESHOLD, severity, f"Heat {second}", None, instant, {"second": second})


async def test_of_many_that_raise_at_once_one_opens_the_alert_and_the_newest_event_time_wins(
    database: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    raised = await asyncio.gather(*(raise_alert(database, condition(second), act("ana")) for second in range(40)))
    assert len({alert.id for alert in raised}) == 1
    rows = await connection.fetch("SELECT title, evidence->'second' AS second, resolved_at FROM alerts")
    assert [tuple(row) for row in rows] == [("Heat 39", "39", None)]
    kept = (await find_transitions(connection, [raised[0].id]))[raised[0].id]
    opened = [each for each in kept if each.state_before is None]
    assert len(opened) == 1
    assert kept[0] == opened[0]
    assert await connection.fetchval("SELECT count(*) FROM outbox WHERE topic = 'alerts'") == len(kept)


async def test_raising_and_resolving_at_once_leaves_one_open_alert_at_most(
    database: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    refused = 0

    async def raise_and_resolve(second: int) -> None:
        nonlocal refused
        alert = await raise_alert(database, condition(second), act("ana"))
        try:
            await change_alert(database, str(alert.id), AlertAction.RESOLVE, act("bo"))
        except WrongState:
            refused += 1

    await asyncio.gather(*(raise_and_resolve(second) for second in range(40)))
    resolved = await connection.fetchval("SELECT count(*) FROM alerts WHERE resolved_at IS NOT NULL")
    assert await connection.fetchval("SELECT count(*) FROM alerts WHERE resolved_at IS NULL") == 0
    assert resolved == 40 - refused
    steps = await connection.fetch("SELECT alert_id, action FROM alert_transitions ORDER BY id")
    assert sum(row["action"] == "RESOLVE" for row in steps) == resolved


async def test_of_many_that_acknowledge_at_once_one_does(
    database: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    alert = await raise_alert(database, condition(0), act("ana"))
    answers = await asyncio.gather(
        *(change_alert(database, str(alert.id), AlertAction.ACKNOWLEDGE, act(f"user {n}")) for n in range(20)),
        return_exceptions=True,
    )
    (winner,) = [each for each in answers if not isinstance(each, BaseException)]
    assert winner.state is AlertState.ACTIVE_ACKNOWLEDGED
    refused = {each.code for each in answers if isinstance(each, RequestError)}
    assert refused == {"ALERT_STATE"}
    assert await connection.fetchval("SELECT acknowledged_by FROM alerts") == winner.acknowledged_by
    assert await connection.fetchval("SELECT count(*) FROM alert_transitions") == 2


async def test_what_fails_leaves_neither_transition_nor_event(
    database: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    alert = await raise_alert(database, condition(0), act("ana"))
    await connection.execute("ALTER TABLE outbox ADD CHECK (payload->>'action' <> 'RESOLVE') NOT VALID")
    with pytest.raises(asyncpg.CheckViolationError):
        await change_alert(database, str(alert.id), AlertAction.RESOLVE, act("bo"))
    assert await connection.fetchval("SELECT resolved_at FROM alerts") is None
    assert await connection.fetchval("SELECT count(*) FROM alert_transitions") == 1


async def test_of_many_that_record_one_prediction_at_once_one_writes_it(
    database: Database, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    forecast = Forecast("A", BEGIN, "m1", 0.25, None, None, None, None, {"heat": 0.5})
    stored = await asyncio.gather(
        *(record_prediction(database, forecast, OnConflict.KEEP, act("ana")) for _ in range(20))
    )
    assert len({each.prediction_id for each in stored}) == 1
    assert await connection.fetchval("SELECT count(*) FROM predictions") == 1
    assert await connection.fetchval("SELECT count(*) FROM outbox WHERE topic = 'predictions'") == 1
