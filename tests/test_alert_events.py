"""The `alerts` and `predictions` subscriptions, on real sockets: each event once, in order, whatever breaks."""

from __future__ import annotations

from typing import Any

import asyncpg

from tests.client import ServiceClient
from tests.conftest import run_service

ALERTS = """
    subscription ($machineIds: [ID!], $minSeverity: Severity! = LOW, $after: String) {
      alerts(machineIds: $machineIds, minSeverity: $minSeverity, after: $after) {
        cursor dropped action alert { alertId machineId severity state title transitions { action } machine { location } }
      }
    }
"""
PREDICTIONS = """
    subscription ($machineIds: [ID!], $after: String) {
      predictions(machineIds: $machineIds, after: $after) {
        cursor dropped predictions { machineId riskScore modelVersion machine { machineId } }
      }
    }
"""


async def raise_alert(
    service: ServiceClient, machine_id: str = "A", severity: str = "HIGH", cause: str = "heat"
) -> str:
    condition = {
        "machineId": machine_id,
        "alertType": "ANOMALY",
        "severity": severity,
        "cause": cause,
        "title": f"{cause} {severity}",
    }
    query = "mutation ($input: RaiseAlertInput!) { raiseAlert(input: $input) { alertId } }"
    alert_id: str = (await service.ask(query, input=condition))["raiseAlert"]["alertId"]
    return alert_id


async def change(service: ServiceClient, mutation: str, *alert_ids: str) -> None:
    if mutation.endswith("s"):
        await service.ask(f"mutation ($ids: [ID!]!) {{ {mutation}(alertIds: $ids) {{ state }} }}", ids=alert_ids)
    else:
        await service.ask(f"mutation ($id: ID!) {{ {mutation}(alertId: $id) {{ state }} }}", id=alert_ids[0])


async def record(service: ServiceClient, *machine_ids: str, **values: Any) -> None:
    query = """
        mutation ($predictions: [RecordPredictionInput!]!) {
          recordPredictions(predictions: $predictions, onConflict: OVERWRITE) { predictionId }
        }
    """
    common = {"timestamp": "2026-01-31T12:00:00Z", "riskScore": 0.5, "modelVersion": "m1", **values}
    await service.ask(query, predictions=[{"machineId": machine_id, **common} for machine_id in machine_ids])


async def test_what_happens_to_an_alert_arrives_with_how_it_stands(service: ServiceClient) -> None:
    await service.register("A")
    async with service.subscribe(ALERTS) as subscription:
        alert_id = await raise_alert(service)
        event = await subscription.next()
        assert event.pop("cursor").isdecimal()
        assert event == {
            "dropped": 0,
            "action": "RAISE",
            "alert": {
                "alertId": alert_id,
                "machineId": "A",
                "severity": "HIGH",
                "state": "ACTIVE_UNACKNOWLEDGED",
                "title": "heat HIGH",
                "transitions": [{"action": "RAISE"}],
                "machine": {"location": "Hall 2"},
            },
        }
        await change(service, "acknowledgeAlert", alert_id)
        event = await subscription.next()
        assert (event["action"], event["alert"]["state"]) == ("ACKNOWLEDGE", "ACTIVE_ACKNOWLEDGED")
        assert event["alert"]["transitions"] == [{"action": "RAISE"}, {"action": "ACKNOWLEDGE"}]


async def test_a_condition_that_tells_nothing_new_is_no_event(service: ServiceClient) -> None:
    await service.register("A")
    query = """
        mutation { raiseAlert(input: { machineId: "A", alertType: ESG, severity: LOW, cause: "c", title: "t",
                                       timestamp: "2026-01-31T12:00:00Z" }) { alertId } }
    """
    async with service.subscribe(ALERTS) as subscription:
        await service.ask(query)
        await subscription.next()
        await service.ask(query)
        await subscription.expect_silence()


async def test_only_alerts_that_are_or_were_severe_enough_arrive(service: ServiceClient) -> None:
    await service.register("A", "B")
    async with service.subscribe(ALERTS, machineIds=["A"], minSeverity="HIGH") as subscription:
        await raise_alert(service, "B", "CRITICAL")
        await raise_alert(service, "A", "MEDIUM", "rattle")
        for severity in ("CRITICAL", "LOW", "LOW"):
            await raise_alert(service, "A", severity)
        events = [await subscription.next(), await subscription.next()]
        # The one that says that it isn't severe any longer is the last.
        assert [(event["action"], event["alert"]["title"]) for event in events][1] == ("RAISE", "heat LOW")
        await subscription.expect_silence()


async def test_alerts_that_are_changed_together_arrive_one_by_one_and_each_can_be_resumed_from(
    service: ServiceClient,
) -> None:
    await service.register("A")
    async with service.subscribe(ALERTS) as subscription:
        ids = [await raise_alert(service, cause=f"cause {n}") for n in range(5)]
        assert [(await subscription.next())["action"] for _ in ids] == ["RAISE"] * 5
        await change(service, "acknowledgeAlerts", *ids)
        events = [await subscription.next() for _ in ids]
    assert [event["alert"]["alertId"] for event in events] == ids
    async with service.subscribe(ALERTS, after=events[1]["cursor"]) as subscription:
        again = [await subscription.next() for _ in ids[2:]]
        assert again == events[2:]
        await subscription.expect_silence()


async def test_predictions_arrive_as_they_are_recorded_together(service: ServiceClient) -> None:
    await service.register("A", "B")
    async with service.subscribe(PREDICTIONS) as everything, service.subscribe(PREDICTIONS, machineIds=["B"]) as one:
        await record(service, "B", "A")
        batch = await everything.next()
        assert [(each["machineId"], each["riskScore"]) for each in batch["predictions"]] == [("A", 0.5), ("B", 0.5)]
        assert batch["predictions"][0]["machine"] == {"machineId": "A"}
        assert [each["machineId"] for each in (await one.next())["predictions"]] == ["B"]
        await record(service, "A", "B")  # which says nothing new
        await record(service, "A", riskScore=0.75)
        assert [(each["machineId"], each["riskScore"]) for each in (await everything.next())["predictions"]] == [
            ("A", 0.75)
        ]
        await one.expect_silence()


async def test_nothing_is_missed_or_doubled_over_a_restart(database_url: str) -> None:
    async with run_service(database_url) as first:
        await first.register("A")
        async with first.subscribe(ALERTS) as alerts, first.subscribe(PREDICTIONS) as predictions:
            alert_id = await raise_alert(first)
            assert (await alerts.next())["action"] == "RAISE"
            await change(first, "clearAlert", alert_id)
            await record(first, "A")
            cursors = [(await each.next())["cursor"] for each in (alerts, predictions)]
        await change(first, "acknowledgeAlert", alert_id)
        await record(first, "A", riskScore=0.25)
    async with (
        run_service(database_url) as second,
        second.subscribe(ALERTS, after=cursors[0]) as alerts,
        second.subscribe(PREDICTIONS, after=cursors[1]) as predictions,
    ):
        assert (await alerts.next())["action"] == "ACKNOWLEDGE"
        assert (await predictions.next())["predictions"][0]["riskScore"] == 0.25
        await raise_alert(second)
        assert (await alerts.next())["action"] == "RAISE"
        for each in (alerts, predictions):
            await each.expect_silence()


async def test_nothing_is_missed_or_doubled_when_the_listener_loses_its_connection(
    service: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    await service.register("A")
    async with service.subscribe(ALERTS) as alerts, service.subscribe(PREDICTIONS) as predictions:
        alert_id = await raise_alert(service)
        assert (await alerts.next())["action"] == "RAISE"
        killed = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'aurumai listener'"
        )
        assert len(killed) == 1
        await change(service, "clearAlert", alert_id)
        await record(service, "A")
        await change(service, "acknowledgeAlert", alert_id)
        assert [(await alerts.next())["action"] for _ in range(2)] == ["CLEAR", "ACKNOWLEDGE"]
        assert (await predictions.next())["predictions"][0]["riskScore"] == 0.5
        for each in (alerts, predictions):
            await each.expect_silence()
