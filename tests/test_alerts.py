"""Alerts over GraphQL, as operators and the programs that find something wrong meet them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.client import ServiceClient
from tests.conftest import run_service
from tests.statements import count_statements

RAISE = """
    mutation ($input: RaiseAlertInput!) { raiseAlert(input: $input) {
      alertId machineId timestamp alertType severity state cause title description evidence machine { location }
    } }
"""
STEP = """
    mutation ($id: ID!, $note: String) { %s(alertId: $id, note: $note) {
      state clearedBy acknowledgedBy resolvedBy shelvedUntil
      transitions { action stateBefore stateAfter by note shelvedUntil }
    } }
"""
SHELVE = """
    mutation ($id: ID!, $until: DateTime!) { shelveAlert(alertId: $id, until: $until, note: "night shift") {
      state shelvedBy shelvedUntil transitions { action stateBefore stateAfter shelvedUntil note }
    } }
"""
CONDITION = {
    "machineId": "A",
    "alertType": "THRESHOLD",
    "severity": "HIGH",
    "cause": "temperature",
    "title": "Too hot",
    "timestamp": "2026-01-31T12:00:00Z",
    "evidence": {"readings": [90.5, 91.5], "limit": 90},
}


async def raise_alert(service: ServiceClient, **changes: Any) -> Any:
    return (await service.ask(RAISE, input={**CONDITION, **changes}))["raiseAlert"]


async def take(service: ServiceClient, mutation: str, alert_id: str, note: str | None = None) -> Any:
    return (await service.ask(STEP % mutation, id=alert_id, note=note))[mutation]


async def test_an_alert_is_raised_with_what_raised_it(service: ServiceClient) -> None:
    await service.register("A")
    alert = await raise_alert(service, description="Both sensors agree.\nCheck the cooling.")
    assert alert.pop("alertId").isdecimal()
    assert alert == {
        "machineId": "A",
        "timestamp": "2026-01-31T12:00:00.000000Z",
        "alertType": "THRESHOLD",
        "severity": "HIGH",
        "state": "ACTIVE_UNACKNOWLEDGED",
        "cause": "temperature",
        "title": "Too hot",
        "description": "Both sensors agree.\nCheck the cooling.",
        "evidence": {"readings": [90.5, 91.5], "limit": 90},
        "machine": {"location": "Hall 2"},
    }


async def test_an_open_alert_is_updated_and_another_cause_is_another_alert(service: ServiceClient) -> None:
    await service.register("A", "B")
    first = await raise_alert(service)
    again = await raise_alert(service, timestamp="2026-01-31T12:05:00Z", severity="CRITICAL", evidence={"now": 99})
    assert again == {
        **first,
        "timestamp": "2026-01-31T12:05:00.000000Z",
        "severity": "CRITICAL",
        "evidence": {"now": 99},
    }
    late = await raise_alert(service, timestamp="2026-01-31T11:00:00Z", severity="LOW")
    assert late == again
    others = [await raise_alert(service, cause="vibration"), await raise_alert(service, machineId="B")]
    assert len({alert["alertId"] for alert in (first, *others)}) == 3
    assert (await service.ask("{ alerts { totalCount } }"))["alerts"] == {"totalCount": 3}


async def test_an_alert_is_seen_cleared_and_thereby_resolved_and_every_step_is_kept(service: ServiceClient) -> None:
    await service.register("A")
    alert_id = (await raise_alert(service))["alertId"]
    await take(service, "acknowledgeAlert", alert_id, "on my way")
    cleared = await take(service, "clearAlert", alert_id)
    assert cleared == {
        "state": "RESOLVED",
        "clearedBy": "anonymous",
        "acknowledgedBy": "anonymous",
        "resolvedBy": "anonymous",
        "shelvedUntil": None,
        "transitions": [
            {
                "action": action,
                "stateBefore": before,
                "stateAfter": after,
                "by": "anonymous",
                "note": note,
                "shelvedUntil": None,
            }
            for action, before, after, note in (
                ("RAISE", None, "ACTIVE_UNACKNOWLEDGED", None),
                ("ACKNOWLEDGE", "ACTIVE_UNACKNOWLEDGED", "ACTIVE_ACKNOWLEDGED", "on my way"),
                ("CLEAR", "ACTIVE_ACKNOWLEDGED", "RESOLVED", None),
            )
        ],
    }
    assert (await raise_alert(service))["alertId"] != alert_id


async def test_a_cause_that_comes_back_before_anybody_looked_is_the_same_alert(service: ServiceClient) -> None:
    await service.register("A")
    alert_id = (await raise_alert(service))["alertId"]
    assert (await take(service, "clearAlert", alert_id))["state"] == "CLEARED_UNACKNOWLEDGED"
    back = await raise_alert(service, timestamp="2026-01-31T13:00:00Z")
    assert (back["alertId"], back["state"]) == (alert_id, "ACTIVE_UNACKNOWLEDGED")
    steps = (await take(service, "acknowledgeAlert", alert_id))["transitions"]
    assert [step["action"] for step in steps] == ["RAISE", "CLEAR", "RAISE", "ACKNOWLEDGE"]


async def test_what_was_done_already_is_refused_with_who_did_it_and_when(service: ServiceClient) -> None:
    await service.register("A")
    alert_id = (await raise_alert(service))["alertId"]
    await take(service, "acknowledgeAlert", alert_id)
    error = await service.refuse(STEP % "acknowledgeAlert", id=alert_id)
    assert error["extensions"] == {"code": "ALERT_STATE", "field": "alertId"}
    assert error["message"].startswith(f"Alert {alert_id} is ACTIVE_ACKNOWLEDGED: it is acknowledged already, since 20")
    assert error["message"].endswith("Z, by anonymous; clear or resolve it.")


async def test_an_alert_is_shelved_until_an_instant(service: ServiceClient) -> None:
    await service.register("A")
    alert_id = (await raise_alert(service))["alertId"]
    until = (datetime.now(UTC) + timedelta(hours=8)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    shelved = (await service.ask(SHELVE, id=alert_id, until=until))["shelveAlert"]
    assert (shelved["state"], shelved["shelvedBy"], shelved["shelvedUntil"]) == (
        "ACTIVE_UNACKNOWLEDGED",
        "anonymous",
        until,
    )
    assert shelved["transitions"][-1] == {
        "action": "SHELVE",
        "stateBefore": "ACTIVE_UNACKNOWLEDGED",
        "stateAfter": "ACTIVE_UNACKNOWLEDGED",
        "shelvedUntil": until,
        "note": "night shift",
    }
    assert (await service.refuse(SHELVE, id=alert_id, until=until))["extensions"]["code"] == "ALERT_STATE"
    for wrong in ("2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z"):
        error = await service.refuse(SHELVE, id=alert_id, until=wrong)
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "until"}
    assert (await take(service, "resolveAlert", alert_id))["shelvedUntil"] is None


@pytest.mark.parametrize("alert_id", ["1", "-1", "x", "", "9" * 18, "9" * 40, "\u0661"])
async def test_an_alert_that_is_not_there_is_not_found(service: ServiceClient, alert_id: str) -> None:
    for mutation in ("clearAlert", "acknowledgeAlert", "resolveAlert"):
        error = await service.refuse(STEP % mutation, id=alert_id)
        assert error["extensions"] == {"code": "NOT_FOUND", "field": "alertId"}


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"machineId": "Z"}, "NOT_FOUND", "machineId"),
        ({"cause": " "}, "BAD_USER_INPUT", "cause"),
        ({"title": "x" * 201}, "BAD_USER_INPUT", "title"),
        ({"title": "a\nb"}, "BAD_USER_INPUT", "title"),
        ({"description": "x" * 4_001}, "BAD_USER_INPUT", "description"),
        ({"description": "a\u0000"}, "BAD_USER_INPUT", "description"),
        ({"timestamp": "2099-01-01T00:00:00Z"}, "BAD_USER_INPUT", "timestamp"),
        ({"timestamp": "1969-01-01T00:00:00Z"}, "BAD_USER_INPUT", "timestamp"),
        ({"evidence": [1]}, "BAD_USER_INPUT", "evidence"),
        ({"evidence": {"a": "\u0000"}}, "BAD_USER_INPUT", "evidence"),
        ({"evidence": {"a\u0000": 1}}, "BAD_USER_INPUT", "evidence"),
        ({"evidence": {"a": "x" * 65_536}}, "BAD_USER_INPUT", "evidence"),
        ({"evidence": {"a": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}}, "BAD_USER_INPUT", "evidence"),
    ],
)
async def test_a_condition_that_cannot_be_is_refused_with_its_field(
    service: ServiceClient, changes: dict[str, Any], code: str, field: str
) -> None:
    await service.register("A")
    error = await service.refuse(RAISE, input={**CONDITION, **changes})
    assert error["extensions"] == {"code": code, "field": field}


async def test_a_number_too_large_for_a_float_is_refused(service: ServiceClient) -> None:
    await service.register("A")
    error = await service.refuse(
        'mutation { raiseAlert(input: { machineId: "A", alertType: ESG, severity: LOW, cause: "c", title: "t", '
        "evidence: { value: 1e999 } }) { alertId } }"
    )
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "evidence"}


async def test_many_alerts_are_acknowledged_and_resolved_at_once(service: ServiceClient) -> None:
    await service.register("A")
    ids = [(await raise_alert(service, cause=f"cause {n}"))["alertId"] for n in range(5)]
    for mutation, state in (("acknowledgeAlerts", "ACTIVE_ACKNOWLEDGED"), ("resolveAlerts", "RESOLVED")):
        query = f'mutation ($ids: [ID!]!) {{ {mutation}(alertIds: $ids, note: "shift") {{ alertId state }} }}'
        wanted = [ids[place] for place in (3, 0, 4, 1, 2)]
        changed = (await service.ask(query, ids=wanted))[mutation]
        assert changed == [{"alertId": alert_id, "state": state} for alert_id in wanted]
        assert (await service.ask(query, ids=[]))[mutation] == []


async def test_of_many_alerts_all_are_changed_or_none(service: ServiceClient) -> None:
    await service.register("A")
    ids = [(await raise_alert(service, cause=f"cause {n}"))["alertId"] for n in range(3)]
    await take(service, "acknowledgeAlert", ids[2])
    query = "mutation ($ids: [ID!]!) { acknowledgeAlerts(alertIds: $ids) { alertId } }"
    for wanted, code, field in (
        (ids, "ALERT_STATE", "alertIds.2"),
        ([ids[0], "77777"], "NOT_FOUND", "alertIds.1"),
        ([ids[0], ids[1], ids[0]], "BAD_USER_INPUT", "alertIds.2"),
        ([str(n) for n in range(1_001)], "BAD_USER_INPUT", "alertIds"),
    ):
        error = await service.refuse(query, ids=wanted)
        assert error["extensions"] == {"code": code, "field": field}
    data = await service.ask(
        "{ alerts(where: { state: { eq: ACTIVE_UNACKNOWLEDGED } }) { nodes { alertId transitions { action } } } }"
    )
    assert [node["alertId"] for node in data["alerts"]["nodes"]] == [ids[1], ids[0]]
    assert all(node["transitions"] == [{"action": "RAISE"}] for node in data["alerts"]["nodes"])


async def test_the_newest_hundred_transitions_are_told_oldest_first(
    service: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await service.register("A")
    alert_id = (await raise_alert(service))["alertId"]
    await connection.execute(
        """
        INSERT INTO alert_transitions (alert_id, at, action, state_before, state_after, by, note)
        SELECT $1, now(), 'RAISE', 'ACTIVE_UNACKNOWLEDGED', 'ACTIVE_UNACKNOWLEDGED', 'ana', n::text
        FROM generate_series(1, 130) AS n
        """,
        int(alert_id),
    )
    data = await service.ask("{ alerts { nodes { transitions { note } } } }")
    assert [each["note"] for each in data["alerts"]["nodes"][0]["transitions"]] == [str(n) for n in range(31, 131)]


async def test_machines_are_registered_all_or_none(service: ServiceClient) -> None:
    query = "mutation ($machines: [RegisterMachineInput!]!) { registerMachines(machines: $machines) { machineId } }"

    def machines(*names: str) -> list[dict[str, str]]:
        return [{"machineId": name, "machineType": "press", "location": "Hall 2"} for name in names]

    assert (await service.ask(query, machines=machines("B", "A", "C")))["registerMachines"] == [
        {"machineId": name} for name in ("B", "A", "C")
    ]
    for names, code, field in (
        (("D", "A"), "ALREADY_EXISTS", "machines.1.machineId"),
        (("D", "E", "D"), "BAD_USER_INPUT", "machines.2.machineId"),
        (("D", "-"), "BAD_USER_INPUT", "machines.1.machineId"),
        (tuple(f"M{n}" for n in range(1_001)), "BAD_USER_INPUT", "machines"),
    ):
        error = await service.refuse(query, machines=machines(*names))
        assert error["extensions"] == {"code": code, "field": field}
    error = await service.refuse(query, machines=[*machines("D"), {**machines("E")[0], "location": ""}])
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "machines.1.location"}
    assert (await service.ask("{ machines { totalCount } }"))["machines"] == {"totalCount": 3}


async def test_transitions_of_fifty_alerts_take_as_many_statements_as_of_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "query ($first: Int!) { alerts(first: $first) { nodes { transitions { action } machine { machineId } } } }"
    async with run_service(database_url, AURUM_POOL_SIZE="1") as service:
        await service.register("A")
        for n in range(50):
            await raise_alert(service, cause=f"cause {n}")
        await service.ask(query, first=1)
        statements = count_statements(monkeypatch)
        counts = []
        for first in (1, 50):
            statements.clear()
            assert len((await service.ask(query, first=first))["alerts"]["nodes"]) == first
            counts.append(len(statements))
    assert counts == [3, 3]
