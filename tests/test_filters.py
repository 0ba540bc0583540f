"""`where` as a client writes it: on every kind of field, across relations, with nulls, and too large."""

from __future__ import annotations

from typing import Any

import pytest

from app.graphql.filters import DEEPEST, MOST_CONDITIONS
from tests.client import ServiceClient
from tests.seed import IDS


async def find(service: ServiceClient, field: str, key: str, where: Any) -> list[str]:
    """The keys of the rows for which `where` holds, in order; counted as well."""
    entity = {"esgRecords": "EsgRecord"}.get(field, field[0].upper() + field[1:-1])
    query = f"""
        query ($where: {entity}Where) {{
          {field}(where: $where, orderBy: [{{ field: MACHINE_ID }}]) {{ totalCount nodes {{ {key} }} }}
        }}
    """
    found = (await service.ask(query, where=where))[field]
    assert found["totalCount"] == len(found["nodes"])
    return [node[key] for node in found["nodes"]]


@pytest.mark.parametrize(
    ("where", "alerts"),
    [
        ({}, "12345"),
        ({"alertId": {"in": ["1", "5", "77"]}}, "15"),
        ({"machineId": {"eq": "A"}, "severity": {"eq": "HIGH"}}, "3"),
        ({"severity": {"in": ["LOW", "HIGH"]}}, "135"),
        ({"severity": {"gte": "HIGH"}}, "235"),
        ({"severity": {"gt": "HIGH"}}, "2"),
        ({"severity": {"lt": "HIGH"}}, "14"),
        ({"severity": {"gt": "LOW", "lte": "MEDIUM"}}, "4"),
        ({"alertType": {"in": ["ESG", "SILENCE"]}}, "34"),
        ({"state": {"eq": "RESOLVED"}}, "45"),
        ({"not": {"state": {"eq": "RESOLVED"}}}, "123"),
        ({"timestamp": {"in": ["2026-01-02T00:00:00Z", "2026-01-04T01:00:00+01:00"]}}, "24"),
        ({"timestamp": {"gt": "2026-01-02T00:00:00Z", "lte": "2026-01-04T00:00:00Z"}}, "34"),
        ({"title": {"like": "_ot"}}, "2"),
        ({"title": {"like": "%t%"}}, "234"),
        ({"title": {"like": "hot"}}, ""),
        ({"title": {"like": "%\\_%"}}, ""),
        ({"title": {"in": []}}, ""),
        ({"description": {"isNull": True}}, "1345"),
        ({"description": {"isNull": False}}, "2"),
        ({"not": {"description": {"eq": "Very"}}}, "1345"),
        ({"not": {"description": {"like": "%"}}}, "1345"),
        ({"not": {"description": {"in": []}}}, "12345"),
        ({"acknowledgedAt": {"lt": "2026-01-03T00:00:00Z"}}, "2"),
        ({"not": {"acknowledgedAt": {"lt": "2026-01-03T00:00:00Z"}}}, "1345"),
        ({"resolvedAt": {"isNull": True}, "clearedAt": {"isNull": False}}, "34"),
        ({"evidence": {"contains": {"z": 3.5}}}, "1"),
        ({"evidence": {"contains": {}}}, "12345"),
        ({"or": [{"severity": {"eq": "LOW"}}, {"and": [{"machineId": {"eq": "B"}}, {"cause": {"eq": "risk"}}]}]}, "15"),
        ({"or": []}, ""),
        ({"and": []}, "12345"),
        ({"machine": {"location": {"eq": "Hall 2"}}}, "5"),
        ({"machine": {"alerts": {"some": {"severity": {"eq": "CRITICAL"}}}}, "state": {"eq": "RESOLVED"}}, "4"),
        ({"machine": {"features": {"none": {}}}}, "5"),
        ({"not": {"machine": {"machineType": {"like": "m%"}}}}, "1234"),
    ],
)
async def test_alerts_are_found_by_what_they_are(seeded: ServiceClient, where: Any, alerts: str) -> None:
    assert "".join(sorted(await find(seeded, "alerts", "alertId", where))) == alerts


@pytest.mark.parametrize(
    ("where", "machines"),
    [
        ({"alerts": {"some": {"severity": {"eq": "CRITICAL"}, "state": {"in": ["ACTIVE_ACKNOWLEDGED"]}}}}, "A"),
        ({"alerts": {"some": {}}}, "AB"),
        ({"alerts": {"none": {}}}, "C"),
        ({"alerts": {"none": {"severity": {"eq": "CRITICAL"}}}}, "BC"),
        ({"alerts": {"some": {"severity": {"eq": "HIGH"}}, "none": {"severity": {"eq": "CRITICAL"}}}}, "B"),
        ({"not": {"alerts": {"some": {"severity": {"eq": "CRITICAL"}}}}}, "BC"),
        ({"predictions": {"some": {"riskScore": {"gte": 1}, "featuresUsed": {"contains": {"rpm": 1}}}}}, "A"),
        ({"predictions": {"some": {"machine": {"alerts": {"some": {"cause": {"eq": "risk"}}}}}}}, "B"),
        ({"features": {"some": {"features": {"contains": {"mean": {"rpm": 2.0}}}}}}, "A"),
        ({"esgRecords": {"some": {"factors": {"contains": {"grid": 0.2}}, "fuelRateLh": {"isNull": True}}}}, "A"),
        ({"measurements": {"some": {"metrics": {"contains": {"rpm": 1}}}}}, ""),
        ({"measurements": {"none": {}}, "machineType": {"eq": "mill"}}, "BC"),
        ({"or": [{"alerts": {"none": {}}}, {"features": {"some": {}}}]}, "AC"),
    ],
)
async def test_machines_are_found_by_what_they_are_related_to(seeded: ServiceClient, where: Any, machines: str) -> None:
    assert "".join(await find(seeded, "machines", "machineId", where)) == machines


async def test_predictions_and_esg_records_are_found_by_numbers_that_may_be_missing(seeded: ServiceClient) -> None:
    def sort(found: list[str]) -> list[int]:
        return sorted(IDS.index(each) for each in found)

    for where, places in (
        ({"confidence": {"lt": 1}}, [0, 3]),
        ({"not": {"confidence": {"lt": 1}}}, [1, 2]),
        ({"confidence": {"isNull": True}}, [1]),
        ({"confidence": {"in": [0.75, 1]}}, [0, 2]),
        ({"predictionId": {"in": [IDS[0].upper(), IDS[3]]}}, [0, 3]),
        ({"modelVersion": {"like": "v_"}, "riskScore": {"gt": 0, "lt": 1}}, [0, 1]),
        ({"featuresUsed": {"contains": {"rpm": 0.5}}}, [0]),
    ):
        assert sort(await find(seeded, "predictions", "predictionId", where)) == places, where
    records = {"metadata": {"isNull": False}, "powerConsumptionKw": {"eq": 12.5}}
    assert await find(seeded, "esgRecords", "timestamp", records) == ["2026-01-01T01:00:00.000000Z"]
    assert await find(seeded, "esgRecords", "timestamp", {"metadata": {"contains": {"site": "y"}}}) == []


async def test_a_machine_s_own_rows_are_filtered_across_relations_too(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{ machines { nodes { alerts(where: { machine: { alerts: { some: { severity: { eq: CRITICAL } } } } }) {
            totalCount nodes { alertId }
        } } } }"""
    )
    assert data["machines"]["nodes"] == [
        {"alerts": {"totalCount": 4, "nodes": [{"alertId": each} for each in "4321"]}},
        {"alerts": {"totalCount": 0, "nodes": []}},
        {"alerts": {"totalCount": 0, "nodes": []}},
    ]


@pytest.mark.parametrize(
    ("where", "field", "message"),
    [
        (
            {"cause": {"eq": None}},
            "where.cause.eq",
            "is null: leave it out, or give a value, which these rows always have.",
        ),
        ({"cause": None}, "where.cause", "is null: leave it out, or give a value, which these rows always have."),
        ({"description": {"in": None}}, "where.description.in", "is null: leave it out, or say isNull: true."),
        (
            {"description": None},
            "where.description",
            "is null: leave it out, or say description: { isNull: true }.",
        ),
        (
            {"description": {"isNull": None}},
            "where.description.isNull",
            "is null: leave it out, or give true or false.",
        ),
        ({"or": None}, "where.or", "is null: leave it out, or give a list."),
        ({"not": None}, "where.not", "is null: leave it out, or give conditions."),
        ({"machine": None}, "where.machine", "is null: leave it out, or give conditions."),
        (
            {"machine": {"alerts": {"some": None}}},
            "where.machine.alerts.some",
            "is null: leave it out, or give conditions.",
        ),
        (
            {"or": [{}, {"not": {"severity": {"gte": None}}}]},
            "where.or.1.not.severity.gte",
            "is null: leave it out, or give a value, which these rows always have.",
        ),
        (
            {"alertId": {"in": ["1", "x"]}},
            "where.alertId.in.1",
            "is not an id of these rows: it is a whole number, as answers have it.",
        ),
        (
            {"machine": {"predictions": {"some": {"predictionId": {"eq": "1"}}}}},
            "where.machine.predictions.some.predictionId.eq",
            "is not an id of these rows: it is a UUID, as answers have it.",
        ),
        (
            {"title": {"like": "x\\"}},
            "where.title.like",
            "ends with a backslash that escapes nothing: write two for one.",
        ),
        ({"title": {"like": "%" * 1001}}, "where.title.like", "must be at most 1,000 characters."),
        (
            {"evidence": {"contains": None}},
            "where.evidence.contains",
            "is null: leave it out, or give a value, which these rows always have.",
        ),
        (
            {"evidence": {"contains": [1]}},
            "where.evidence.contains",
            'must be an object of JSON, such as {"unit": "bar"}.',
        ),
    ],
)
async def test_a_condition_that_cannot_be_is_refused_by_its_path(
    seeded: ServiceClient, where: Any, field: str, message: str
) -> None:
    error = await seeded.refuse("query ($where: AlertWhere) { alerts(where: $where) { totalCount } }", where=where)
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}
    assert error["message"] == f"{field} {message}"


async def test_conditions_that_are_nested_too_deep_are_refused_by_their_path(seeded: ServiceClient) -> None:
    query = "query ($where: MachineWhere) { machines(where: $where) { totalCount } }"
    where: Any = {"machineType": {"eq": "mill"}}
    for _ in range(DEEPEST // 4):
        where = {"or": [{"not": {"alerts": {"some": {"machine": where}}}}]}
    assert await find(seeded, "machines", "machineId", where) == ["B", "C"]
    error = await seeded.refuse(query, where={"not": where})
    deepest = "where.not" + ".or.0.not.alerts.some.machine" * (DEEPEST // 4)
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": deepest}
    levels = f"is more than {DEEPEST} levels deep: put conditions side by side, where all of them must hold."
    assert error["message"] == f"{deepest} {levels}"


async def test_conditions_are_counted_wherever_they_stand(seeded: ServiceClient) -> None:
    query = "query ($where: AlertWhere) { alerts(where: $where) { totalCount } }"
    one = {"machine": {"alerts": {"none": {"description": {"isNull": False}}}}}  # the machine, its alerts, theirs
    half = MOST_CONDITIONS // 4
    assert (await seeded.ask(query, where={"or": [one] * half}))["alerts"] == {"totalCount": 1}
    error = await seeded.refuse(query, where={"or": [*[one] * half, {}]})
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "where"}
    assert error["message"] == f"where has more than {MOST_CONDITIONS} conditions: name many values with `in`."


@pytest.mark.parametrize("text", ["a\u0000", "\ud800"])
async def test_characters_that_cannot_be_stored_are_refused_in_objects_too(seeded: ServiceClient, text: str) -> None:
    body = '{"query": "query ($w: AlertWhere) { alerts(where: $w) { totalCount } }", "variables": {"w": {"evidence": {"contains": {"a": "%s"}}}}}'
    escaped = text.encode("unicode_escape").decode().replace("\\x00", "\\u0000")
    response = await seeded.http.post("/graphql", content=body % escaped)
    assert response.status_code in {200, 400}
    assert response.json()["errors"][0]["extensions"]["code"] in {"BAD_USER_INPUT", "BAD_REQUEST"}
