"""The GraphQL API, as a client sees it: machines, measurements, the fleet, the storage, and how errors look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.migrations.state import list_migrations
from tests.client import ServiceClient
from tests.conftest import run_service
from tests.statements import count_statements

REGISTER = """
    mutation ($input: RegisterMachineInput!) {
      registerMachine(input: $input) { machineId machineType location operational liveness lastSeenAt latest { timestamp } }
    }
"""
UPDATE = """
    mutation ($id: ID!, $input: UpdateMachineInput!) {
      updateMachine(machineId: $id, input: $input) { machineType location operational createdAt updatedAt }
    }
"""


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


async def test_a_machine_is_registered(service: ServiceClient) -> None:
    data = await service.ask(
        REGISTER, input={"machineId": "MILL-3", "machineType": "grinding_mill", "location": "  Concentrator "}
    )
    assert data["registerMachine"] == {
        "machineId": "MILL-3",
        "machineType": "grinding_mill",
        "location": "Concentrator",
        "operational": True,
        "liveness": "NEVER_SEEN",
        "lastSeenAt": None,
        "latest": None,
    }


async def test_a_machine_is_registered_once(service: ServiceClient) -> None:
    await service.register("MILL-3")
    error = await service.refuse(REGISTER, input={"machineId": "MILL-3", "machineType": "mill", "location": "x"})
    assert error["message"] == "A machine 'MILL-3' is registered already."
    assert error["extensions"] == {"code": "ALREADY_EXISTS", "field": "machineId"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"machineId": ""}, "machineId"),
        ({"machineId": "-1"}, "machineId"),
        ({"machineId": "a b"}, "machineId"),
        ({"machineId": "x" * 65}, "machineId"),
        ({"machineId": "a\n"}, "machineId"),
        ({"machineType": " "}, "machineType"),
        ({"machineType": "a\u0000b"}, "machineType"),
        ({"location": "x" * 201}, "location"),
    ],
)
async def test_a_machine_with_a_name_that_cannot_be_is_refused(
    service: ServiceClient, changes: dict[str, str], field: str
) -> None:
    machine = {"machineId": "MILL-3", "machineType": "mill", "location": "x", **changes}
    error = await service.refuse(REGISTER, input=machine)
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}


async def test_a_machine_is_updated_and_what_is_left_out_stays(service: ServiceClient) -> None:
    await service.register("MILL-3")
    data = (await service.ask(UPDATE, id="MILL-3", input={"location": "Hall 9"}))["updateMachine"]
    assert (data["machineType"], data["location"], data["operational"]) == ("press", "Hall 9", True)
    assert data["updatedAt"] > data["createdAt"]


async def test_an_update_of_nothing_or_of_nobody_is_refused(service: ServiceClient) -> None:
    await service.register("MILL-3")
    nothing = await service.refuse(UPDATE, id="MILL-3", input={})
    assert nothing["extensions"] == {"code": "BAD_USER_INPUT", "field": "input"}
    nobody = await service.refuse(UPDATE, id="MILL-4", input={"location": "x"})
    assert nobody["extensions"] == {"code": "NOT_FOUND", "field": "machineId"}


async def test_a_retired_machine_keeps_its_history(service: ServiceClient) -> None:
    await service.register("MILL-3")
    await service.ingest({"machine_id": "MILL-3", "timestamp": ago(seconds=5), "metrics": {"rpm": 1300}})
    data = await service.ask('mutation { retireMachine(machineId: "MILL-3") { operational latest { metrics } } }')
    assert data["retireMachine"] == {"operational": False, "latest": {"metrics": {"rpm": 1300.0}}}


async def test_a_machine_that_is_not_there_is_null(service: ServiceClient) -> None:
    assert await service.ask('{ machine(machineId: "X") { machineId } }') == {"machine": None}


async def test_latest_is_by_event_time_whatever_arrives_last(service: ServiceClient) -> None:
    await service.register("MILL-3")
    for timestamp, rpm in (("2026-01-02T00:00:00Z", 2), ("2026-01-03T00:00:00Z", 3), ("2026-01-01T00:00:00Z", 1)):
        await service.ingest({"machine_id": "MILL-3", "timestamp": timestamp, "metrics": {"rpm": rpm}})
    data = await service.ask(
        '{ machine(machineId: "MILL-3") { lastSeenAt latest { timestamp metrics machine { machineId } } } }'
    )
    assert data["machine"] == {
        "lastSeenAt": "2026-01-03T00:00:00.000000Z",
        "latest": {
            "timestamp": "2026-01-03T00:00:00.000000Z",
            "metrics": {"rpm": 3.0},
            "machine": {"machineId": "MILL-3"},
        },
    }


async def test_the_fleet_counts_every_machine_once(service: ServiceClient) -> None:
    await service.register("A", "B", "C", "D")
    for machine_id, timestamp in (("A", ago(seconds=5)), ("B", ago(minutes=5)), ("C", "2026-01-01T00:00:00Z")):
        await service.ingest({"machine_id": machine_id, "timestamp": timestamp, "metrics": {"a": 1}})
    await service.ask('mutation { retireMachine(machineId: "D") { machineId } }')
    data = await service.ask(
        "{ fleet { machines operational live stale silent neverSeen } machines { nodes { liveness } } }"
    )
    assert data["fleet"] == {"machines": 4, "operational": 3, "live": 1, "stale": 1, "silent": 1, "neverSeen": 1}
    assert [node["liveness"] for node in data["machines"]["nodes"]] == ["LIVE", "STALE", "SILENT", "NEVER_SEEN"]


async def test_an_empty_fleet_has_never_been_seen(service: ServiceClient) -> None:
    data = await service.ask("{ fleet { machines live lastSeenAt } machines { totalCount nodes { machineId } } }")
    assert data == {
        "fleet": {"machines": 0, "live": 0, "lastSeenAt": None},
        "machines": {"totalCount": 0, "nodes": []},
    }


async def test_liveness_goes_by_the_settings(database_url: str) -> None:
    async with run_service(database_url, AURUM_STALE_AFTER="PT1S", AURUM_SILENT_AFTER="PT2S") as service:
        await service.register("A")
        await service.ingest({"machine_id": "A", "timestamp": ago(seconds=10), "metrics": {"a": 1}})
        assert (await service.ask("{ fleet { silent } }"))["fleet"] == {"silent": 1}


async def test_machines_are_found_by_what_they_are(service: ServiceClient) -> None:
    for number, kind in enumerate(("mill", "truck", "truck", "boiler")):
        await service.ask(
            REGISTER, input={"machineId": f"M{number}", "machineType": kind, "location": f"Hall {number % 2}"}
        )
    query = """
        query ($where: MachineWhere, $orderBy: [MachineOrder!]) {
          machines(where: $where, orderBy: $orderBy) { totalCount nodes { machineId } }
        }
    """

    async def find(where: Any, order: Any = None) -> list[str]:
        machines = (await service.ask(query, where=where, orderBy=order))["machines"]
        assert machines["totalCount"] == len(machines["nodes"])
        return [node["machineId"] for node in machines["nodes"]]

    assert await find({"machineType": {"eq": "truck"}}) == ["M1", "M2"]
    assert await find({"machineType": {"in": ["mill", "boiler"]}}) == ["M0", "M3"]
    assert await find({"machineType": {"in": []}}) == []
    assert await find({"not": {"machineType": {"eq": "truck"}}}) == ["M0", "M3"]
    assert await find({"or": [{"machineId": {"eq": "M0"}}, {"location": {"eq": "Hall 1"}}]}) == ["M0", "M1", "M3"]
    assert await find({"and": [{"machineType": {"eq": "truck"}}, {"location": {"eq": "Hall 1"}}]}) == ["M1"]
    assert await find({"operational": {"eq": False}}) == []
    assert await find({"machineId": {"eq": "'; DROP TABLE machines; --"}}) == []
    assert await find({}, [{"field": "MACHINE_TYPE", "direction": "DESC"}, {"field": "LOCATION"}]) == [
        "M2",
        "M1",
        "M0",
        "M3",
    ]


async def test_measurements_are_paged_newest_first(service: ServiceClient) -> None:
    await service.register("A", "B")
    await service.ingest(
        [
            {"machine_id": name, "timestamp": second * 1000, "metrics": {"a": second}}
            for second in range(5)
            for name in "AB"
        ]
    )
    query = """
        query ($after: String) {
          measurements(first: 4, after: $after, where: { timestamp: { lt: "1970-01-01T00:00:04Z" } }) {
            totalCount nodes { machineId metrics } pageInfo { hasNextPage hasPreviousPage endCursor }
          }
        }
    """
    first = (await service.ask(query))["measurements"]
    second = (await service.ask(query, after=first["pageInfo"]["endCursor"]))["measurements"]
    assert first["totalCount"] == second["totalCount"] == 8
    assert [(node["machineId"], node["metrics"]["a"]) for node in first["nodes"] + second["nodes"]] == [
        (name, float(second)) for second in (3, 2, 1, 0) for name in "BA"
    ]
    assert first["pageInfo"]["hasNextPage"] is True
    assert (second["pageInfo"]["hasNextPage"], second["pageInfo"]["hasPreviousPage"]) == (False, True)


async def test_each_machine_has_a_page_and_a_count_of_its_own(service: ServiceClient) -> None:
    await service.register("A", "B", "C")
    await service.ingest(
        [
            {"machine_id": name, "timestamp": n, "metrics": {"a": n}}
            for name, count in (("A", 3), ("B", 1))
            for n in range(count)
        ]
    )
    query = """
        { machines { nodes { machineId measurements(first: 2) {
            totalCount nodes { metrics } pageInfo { hasNextPage }
        } } } }
    """
    assert (await service.ask(query))["machines"]["nodes"] == [
        {
            "machineId": "A",
            "measurements": {
                "totalCount": 3,
                "nodes": [{"metrics": {"a": 2.0}}, {"metrics": {"a": 1.0}}],
                "pageInfo": {"hasNextPage": True},
            },
        },
        {
            "machineId": "B",
            "measurements": {"totalCount": 1, "nodes": [{"metrics": {"a": 0.0}}], "pageInfo": {"hasNextPage": False}},
        },
        {"machineId": "C", "measurements": {"totalCount": 0, "nodes": [], "pageInfo": {"hasNextPage": False}}},
    ]


async def test_relations_take_as_many_statements_for_fifty_machines_as_for_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"M{number}" for number in range(50)]
    statements = count_statements(monkeypatch)
    query = """
        query ($first: Int!) { machines(first: $first) { nodes {
            liveness lastSeenAt latest { metrics machine { machineId } }
            measurements(first: 2) { totalCount nodes { metrics machine { latest { timestamp } } } }
            series(from: "1970-01-01T00:00:00Z", to: "1970-01-02T00:00:00Z") { values }
        } } }
    """
    # One connection, which has asked for the types that it meets before the counting begins.
    async with run_service(database_url, AURUM_POOL_SIZE="1") as service:
        await service.register(*names)
        await service.ingest(
            [{"machine_id": name, "timestamp": n, "metrics": {"a": n}} for name in names for n in range(3)]
        )
        await service.ask(query, first=1)
        counts = []
        for first in (1, 50):
            statements.clear()
            data = await service.ask(query, first=first)
            assert len(data["machines"]["nodes"]) == first
            counts.append(len(statements))
    assert counts == [7, 7]


async def test_storage_says_what_the_service_runs_on(service: ServiceClient, server_url: str) -> None:
    storage = (
        await service.ask(
            """{ storage {
                edition postgresVersion timescaleVersion sizeBytes leftOut
                hypertables { table timeColumn chunkInterval chunks sizeBytes } migrations { applied pending }
            } }"""
        )
    )["storage"]
    assert storage["migrations"] == {"applied": list(list_migrations()), "pending": []}
    assert storage["sizeBytes"] > 5_000_000
    if storage["edition"] == "NONE":
        assert storage["timescaleVersion"] is None
        assert storage["hypertables"] == []
        assert storage["leftOut"] == [
            "esg_records: chunks by timestamp need TimescaleDB.",
            "features: chunks by timestamp need TimescaleDB.",
            "predictions: chunks by timestamp need TimescaleDB.",
            "raw_measurements: chunks by timestamp need TimescaleDB.",
        ]
    else:
        assert [(table["table"], table["timeColumn"], table["chunkInterval"]) for table in storage["hypertables"]] == [
            ("esg_records", "timestamp", "P7D"),
            ("features", "timestamp", "P7D"),
            ("predictions", "timestamp", "P7D"),
            ("raw_measurements", "timestamp", "P1D"),
        ]
        assert storage["leftOut"] == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ fleet { machines", "GRAPHQL_PARSE_FAILED"),
        ('{ series(machineIds: ["A"], from: "yesterday") { metric } }', "BAD_USER_INPUT"),
        ('{ series(machineIds: ["A"], from: "2026-01-01T00:00:00") { metric } }', "BAD_USER_INPUT"),
        ('{ machines(where: { machineId: { eq: "a\\u0000" } }) { totalCount } }', "BAD_USER_INPUT"),
        ('{ machines(after: "x") { totalCount } }', "BAD_USER_INPUT"),
        ("{ machines(first: -1) { totalCount } }", "BAD_USER_INPUT"),
        ("{ machines(first: 1, last: 1) { totalCount } }", "BAD_USER_INPUT"),
    ],
)
async def test_every_error_has_a_code(service: ServiceClient, query: str, code: str) -> None:
    assert (await service.refuse(query))["extensions"]["code"] == code


async def test_what_no_one_foresaw_is_hidden_behind_an_id(
    service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*_: Any) -> None:
        raise RuntimeError("SELECT secret FROM somewhere")

    monkeypatch.setattr("app.graphql.queries.find_fleet", break_down)
    error = await service.refuse("{ fleet { machines } }")
    assert error["extensions"]["code"] == "INTERNAL"
    assert len(error["extensions"]["correlationId"]) == 32
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[", b"\xff", b"[" * 100_000, b'{"query": 5}', b"{}", b"null", b"[]", b"[null]"]
)
async def test_a_request_that_is_no_graphql_is_answered_with_400(service: ServiceClient, body: bytes) -> None:
    response = await service.http.post("/graphql", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


async def test_an_answer_has_its_own_time_to_the_microsecond(service: ServiceClient) -> None:
    await service.register("A")
    await service.ingest({"machine_id": "A", "timestamp": "2026-01-01T00:00:00.000001+02:00", "metrics": {"a": 1}})
    data = await service.ask("{ measurements { nodes { timestamp } } }")
    assert data["measurements"]["nodes"] == [{"timestamp": "2025-12-31T22:00:00.000001Z"}]


async def test_a_subscription_over_post_is_told_where_to_go(service: ServiceClient) -> None:
    response = await service.http.post("/graphql", json={"query": "subscription { measurements { cursor } }"})
    assert response.status_code == 400
    assert response.json()["errors"][0]["message"] == "subscriptions are not allowed when using POST"


async def test_a_where_of_too_many_conditions_is_refused(service: ServiceClient) -> None:
    query = "query ($where: MachineWhere) { machines(where: $where) { totalCount } }"
    error = await service.refuse(query, where={"or": [{"machineId": {"eq": str(n)}} for n in range(201)]})
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "where"}
    data = await service.ask(query, where={"machineId": {"in": [str(n) for n in range(40_000)]}})
    assert data["machines"]["totalCount"] == 0
