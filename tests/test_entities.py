"""Features, predictions, ESG records and alerts over GraphQL, at the root and on their machine."""

from __future__ import annotations

from typing import Any

import pytest

from app.graphql.schema import make_schema
from app.history.shapes import SHAPES, TableShape
from tests.client import ServiceClient
from tests.seed import IDS


async def test_a_feature_is_shown_as_it_is_stored(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        "{ features(first: 1) { nodes { machineId timestamp features createdAt machine { location } } } }"
    )
    assert data["features"]["nodes"] == [
        {
            "machineId": "A",
            "timestamp": "2026-01-02T00:00:00.000000Z",
            "features": {"mean": {"rpm": 2}, "count": 61},
            "createdAt": "2026-01-02T00:01:00.000000Z",
            "machine": {"location": "Hall 1"},
        }
    ]


async def test_a_prediction_is_shown_as_it_is_stored(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{ predictions { totalCount nodes {
            predictionId machineId timestamp riskScore failureProbability maintenanceHours failureType confidence
            modelVersion featuresUsed createdAt machine { machineId }
        } } }"""
    )
    assert data["predictions"]["totalCount"] == 4
    assert [node["predictionId"] for node in data["predictions"]["nodes"]] == [IDS[3], IDS[2], IDS[1], IDS[0]]
    assert data["predictions"]["nodes"][2:] == [
        {
            "predictionId": IDS[1],
            "machineId": "A",
            "timestamp": "2026-01-02T00:00:00.000000Z",
            "riskScore": 0.5,
            "failureProbability": None,
            "maintenanceHours": None,
            "failureType": None,
            "confidence": None,
            "modelVersion": "v1",
            "featuresUsed": {},
            "createdAt": "2026-01-02T00:00:01.000000Z",
            "machine": {"machineId": "A"},
        },
        {
            "predictionId": IDS[0],
            "machineId": "A",
            "timestamp": "2026-01-01T00:00:00.000000Z",
            "riskScore": 0.25,
            "failureProbability": 0.5,
            "maintenanceHours": 120.5,
            "failureType": "bearing",
            "confidence": 0.75,
            "modelVersion": "v1",
            "featuresUsed": {"rpm": 0.5},
            "createdAt": "2026-01-01T00:00:01.000000Z",
            "machine": {"machineId": "A"},
        },
    ]


async def test_an_esg_record_is_shown_as_it_is_stored(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{ esgRecords { nodes {
            machineId timestamp instantCo2eqKg cumulativeCo2eqKg fuelRateLh powerConsumptionKw efficiencyScore factors
            metadata createdAt machine { machineType }
        } } }"""
    )
    assert data["esgRecords"]["nodes"] == [
        {
            "machineId": "A",
            "timestamp": "2026-01-01T01:00:00.000000Z",
            "instantCo2eqKg": 0.25,
            "cumulativeCo2eqKg": 10.25,
            "fuelRateLh": None,
            "powerConsumptionKw": 12.5,
            "efficiencyScore": None,
            "factors": {"grid": 0.2},
            "metadata": {"site": "x"},
            "createdAt": "2026-01-01T01:00:01.000000Z",
            "machine": {"machineType": "press"},
        },
        {
            "machineId": "A",
            "timestamp": "2026-01-01T00:00:00.000000Z",
            "instantCo2eqKg": 0.125,
            "cumulativeCo2eqKg": 10.0,
            "fuelRateLh": 4.5,
            "powerConsumptionKw": None,
            "efficiencyScore": 0.5,
            "factors": {"diesel": 2.68},
            "metadata": None,
            "createdAt": "2026-01-01T00:00:01.000000Z",
            "machine": {"machineType": "press"},
        },
    ]


async def test_an_alert_is_shown_as_it_is_stored(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{ alerts(where: { alertId: { eq: "2" } }) { totalCount nodes {
            alertId machineId timestamp alertType severity state cause title description evidence clearedAt acknowledgedAt
            acknowledgedBy resolvedAt resolvedBy shelvedAt shelvedBy shelvedUntil createdAt machine { machineId }
        } } }"""
    )
    assert data["alerts"] == {
        "totalCount": 1,
        "nodes": [
            {
                "alertId": "2",
                "machineId": "A",
                "timestamp": "2026-01-02T00:00:00.000000Z",
                "alertType": "THRESHOLD",
                "severity": "CRITICAL",
                "state": "ACTIVE_ACKNOWLEDGED",
                "cause": "hot",
                "title": "Hot",
                "description": "Very",
                "evidence": {},
                "clearedAt": None,
                "acknowledgedAt": "2026-01-02T01:00:00.000000Z",
                "acknowledgedBy": "ana",
                "resolvedAt": None,
                "resolvedBy": None,
                "shelvedAt": "2026-01-02T02:00:00.000000Z",
                "shelvedBy": "ben",
                "shelvedUntil": "2026-01-03T00:00:00.000000Z",
                "createdAt": "2026-01-02T00:00:01.000000Z",
                "machine": {"machineId": "A"},
            }
        ],
    }


async def test_an_alert_s_state_follows_from_what_happened_to_it(seeded: ServiceClient) -> None:
    data = await seeded.ask("{ alerts(orderBy: [{ field: ALERT_ID }]) { nodes { alertId state } } }")
    assert [(node["alertId"], node["state"]) for node in data["alerts"]["nodes"]] == [
        ("1", "ACTIVE_UNACKNOWLEDGED"),
        ("2", "ACTIVE_ACKNOWLEDGED"),
        ("3", "CLEARED_UNACKNOWLEDGED"),
        ("4", "RESOLVED"),
        ("5", "RESOLVED"),
    ]


async def test_alerts_are_ordered_by_how_bad_they_are(seeded: ServiceClient) -> None:
    query = """
        query ($after: String) {
          alerts(orderBy: [{ field: SEVERITY, direction: DESC }], first: 2, after: $after) {
            nodes { alertId severity } pageInfo { hasNextPage endCursor }
          }
        }
    """
    found: list[Any] = []
    after, more = None, True
    while more:
        page = (await seeded.ask(query, after=after))["alerts"]
        found += [(node["severity"], node["alertId"]) for node in page["nodes"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert found == [("CRITICAL", "2"), ("HIGH", "5"), ("HIGH", "3"), ("MEDIUM", "4"), ("LOW", "1")]


async def test_each_machine_has_its_own_rows_in_every_table(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{ machines { nodes {
            machineId
            latestPrediction { predictionId machine { machineId } }
            features(first: 1) { totalCount nodes { timestamp } }
            predictions(last: 2) { totalCount nodes { predictionId } pageInfo { hasPreviousPage } }
            esgRecords(orderBy: [{ field: TIMESTAMP }]) { nodes { cumulativeCo2eqKg } }
            alerts(where: { state: { in: [ACTIVE_ACKNOWLEDGED, RESOLVED] } }) { totalCount edges { node { alertId } } }
        } } }"""
    )
    assert data["machines"]["nodes"] == [
        {
            "machineId": "A",
            "latestPrediction": {"predictionId": IDS[2], "machine": {"machineId": "A"}},
            "features": {"totalCount": 2, "nodes": [{"timestamp": "2026-01-02T00:00:00.000000Z"}]},
            "predictions": {
                "totalCount": 3,
                "nodes": [{"predictionId": IDS[1]}, {"predictionId": IDS[0]}],
                "pageInfo": {"hasPreviousPage": True},
            },
            "esgRecords": {"nodes": [{"cumulativeCo2eqKg": 10.0}, {"cumulativeCo2eqKg": 10.25}]},
            "alerts": {"totalCount": 2, "edges": [{"node": {"alertId": "4"}}, {"node": {"alertId": "2"}}]},
        },
        {
            "machineId": "B",
            "latestPrediction": {"predictionId": IDS[3], "machine": {"machineId": "B"}},
            "features": {"totalCount": 0, "nodes": []},
            "predictions": {
                "totalCount": 1,
                "nodes": [{"predictionId": IDS[3]}],
                "pageInfo": {"hasPreviousPage": False},
            },
            "esgRecords": {"nodes": []},
            "alerts": {"totalCount": 1, "edges": [{"node": {"alertId": "5"}}]},
        },
        {
            "machineId": "C",
            "latestPrediction": None,
            "features": {"totalCount": 0, "nodes": []},
            "predictions": {"totalCount": 0, "nodes": [], "pageInfo": {"hasPreviousPage": False}},
            "esgRecords": {"nodes": []},
            "alerts": {"totalCount": 0, "edges": []},
        },
    ]


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ('alerts(where: { alertId: { eq: "x" } })', "where.alertId.eq"),
        ('alerts(where: { alertId: { in: ["9223372036854775808"] } })', "where.alertId.in.0"),
        ('predictions(where: { predictionId: { eq: "1" } })', "where.predictionId.eq"),
    ],
)
async def test_an_id_that_cannot_be_is_refused_by_name(seeded: ServiceClient, where: str, field: str) -> None:
    error = await seeded.refuse(f"{{ {where} {{ totalCount }} }}")
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_type_shows_every_field_of_its_table(shape: TableShape) -> None:
    entity: Any = make_schema().get_type_by_name(shape.entity)
    fields = {field.python_name: field.base_resolver is None for field in entity.fields}
    assert {name for name, is_stored in fields.items() if is_stored} == set(shape.fields)
    assert set(shape.relations) <= set(fields)
