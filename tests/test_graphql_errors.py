"""What errors of GraphQL say: what would be right, and of what was sent no more than it takes to find it."""

from __future__ import annotations

import pytest

from app.graphql.coding import LONGEST_MESSAGE
from tests.client import ServiceClient

LONG = "M" * 200_000
SHOWN = f"'{'M' * 80}'..."
UNKNOWN = f"No machine {SHOWN} is registered."
SERIES = 'query ($ids: [ID!]!) { series(machineIds: $ids, from: "2026-01-01T00:00:00Z") { metric } }'


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (SERIES.replace("$ids: [ID!]!", "$id: ID!").replace("$ids", "[$id]"), UNKNOWN),
        ("mutation ($id: ID!) { retireMachine(machineId: $id) { machineId } }", UNKNOWN),
        ('mutation ($id: ID!) { updateMachine(machineId: $id, input: {location: "x"}) { machineId } }', UNKNOWN),
        ("mutation ($id: ID!) { acknowledgeAlert(alertId: $id) { alertId } }", f"There is no alert {SHOWN}."),
        (
            "mutation ($id: ID!) { acknowledgeAlerts(alertIds: [$id, $id]) { alertId } }",
            f"Alert {SHOWN} is in the list twice.",
        ),
        (
            """mutation ($id: ID!) { raiseAlert(input: {
                machineId: $id, alertType: THRESHOLD, severity: HIGH, cause: "c", title: "t", evidence: {}}) { alertId } }""",
            UNKNOWN,
        ),
        (
            """mutation ($id: ID!) { recordPrediction(input: {
                machineId: $id, timestamp: "2026-01-01T00:00:00Z", riskScore: 0.5, modelVersion: "m", featuresUsed: {}
            }) { predictionId } }""",
            UNKNOWN,
        ),
    ],
)
async def test_an_id_that_is_not_there_is_quoted_in_a_line(service: ServiceClient, query: str, message: str) -> None:
    error = await service.refuse(query, id=LONG)
    assert error["message"] == message


async def test_a_machine_that_cannot_be_followed_is_quoted_in_a_line(service: ServiceClient) -> None:
    query = "subscription ($ids: [ID!]) { measurements(machineIds: $ids) { cursor } }"
    async with service.subscribe(query, ids=[LONG]) as subscription:
        message = await subscription.next_message()
    (error,) = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
    assert error["message"] == UNKNOWN


@pytest.mark.parametrize(
    "query",
    [
        "query ($it: Int) { machines(first: $it) { totalCount } }",
        "query ($it: Boolean!) { machines { totalCount @skip(if: $it) } }",
        "query ($it: DateTime!) { alerts(where: { timestamp: { gte: $it } }) { totalCount } }",
        "query ($it: Severity!) { alerts(where: { severity: { gte: $it } }) { totalCount } }",
        "query ($it: MachineWhere!) { machines(where: $it) { totalCount } }",
    ],
)
async def test_a_value_of_another_type_is_quoted_up_to_a_length(service: ServiceClient, query: str) -> None:
    error = await service.refuse(query, it=LONG)
    assert error["extensions"]["code"] in {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}
    assert len(error["message"]) <= LONGEST_MESSAGE + len("...")


NO_INSTANT = "a DateTime is RFC 3339 with an offset, such as 2026-01-31T12:00:00Z."
TOO_FAR = "a DateTime is from 0001-01-02T00:00:00Z to 9999-12-30T00:00:00Z: the days around that have no place in some time zones."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0001-01-01T00:00:00Z", TOO_FAR),
        ("0001-01-01T23:59:59.999999Z", TOO_FAR),
        ("0001-01-01T00:00:00+14:00", TOO_FAR),
        ("9999-12-31T23:59:59.999999Z", TOO_FAR),
        ("9999-12-31T23:59:59.999999-14:00", TOO_FAR),
        ("9999-12-30T00:00:00.000001Z", TOO_FAR),
        ("2026-01-31T12:00:00", NO_INSTANT),
        ("10000-01-01T00:00:00Z", NO_INSTANT),
        ("0000-01-01T00:00:00Z", NO_INSTANT),
        ("yesterday", NO_INSTANT),
        (1769860980000, NO_INSTANT),
    ],
)
async def test_an_instant_that_is_not_taken_is_refused_by_what_is_wrong_with_it(
    service: ServiceClient, given: object, message: str
) -> None:
    query = "query ($at: DateTime!) { alerts(where: { timestamp: { gte: $at } }) { totalCount } }"
    error = await service.refuse(query, at=given)
    assert f"encountered error '{message}'" in error["message"]


@pytest.mark.parametrize("given", ["0001-01-02T00:00:00Z", "9999-12-30T00:00:00Z", "9999-12-30T14:00:00+14:00"])
async def test_instants_at_the_ends_are_taken(service: ServiceClient, given: str) -> None:
    query = "query ($at: DateTime!) { alerts(where: { timestamp: { gte: $at } }) { totalCount } }"
    assert await service.ask(query, at=given) == {"alerts": {"totalCount": 0}}
