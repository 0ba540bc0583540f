"""What operations are estimated to cost, and that those which cost too much are refused before they are executed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from graphql import GraphQLObjectType, get_named_type, get_operation_ast, is_list_type, is_non_null_type, parse

from app.errors import QueryTooExpensive
from app.graphql.cost import Cost, CostModel
from app.graphql.schema import make_schema
from app.graphql.weights import LISTS
from app.piccolo_app import APP_CONFIG
from app.timescale.declared import find_hypertables
from tests.client import ServiceClient
from tests.conftest import run_service

NOW = datetime(2026, 1, 31, tzinfo=UTC)
HYPERTABLES = find_hypertables(APP_CONFIG.table_classes)
SCHEMA = make_schema()._schema


def estimate(document: str, *, limit: int = 10**9, **variables: Any) -> Cost:
    """On TimescaleDB, at NOW."""
    parsed = parse(document)
    operation = get_operation_ast(parsed)
    assert operation is not None
    return CostModel(SCHEMA, limit).check(parsed, operation, variables, HYPERTABLES, NOW)


SERIES = 'series(machineIds: ["A", "B"], metrics: ["t", "p", "r"], from: "2026-01-01T00:00:00Z"'


@pytest.mark.parametrize(
    ("document", "rows", "chunks", "estimated"),
    [
        ("{ __typename }", 0, 0, 0),
        ("{ fleet { live stale } }", 1, 0, 1),
        ("{ machines { nodes { machineId } } }", 100, 0, 100),
        ("{ machines(first: 7) { nodes { machineId } } }", 7, 0, 7),
        ("{ machines(last: 8) { edges { node { machineId } } pageInfo { endCursor } } }", 8, 0, 8),
        ("{ machines(first: 0) { totalCount } }", 0, 0, 100),
        ("{ machines(first: 5) { nodes { latest { metrics machine { machineId } } } } }", 15, 1, 16),
        ("{ machines(first: 100) { nodes { alerts(first: 5) { nodes { title machine { location } } } } } }", 1100, 0, 1100),
        ("{ a: machines(first: 5) { nodes { machineId } } b: machines(first: 6) { totalCount } }", 11, 0, 111),
        ("{ machines(first: 5) { nodes { machineId } } ...M } fragment M on Query { machines(first: 5) { nodes { location } } }", 5, 0, 5),
        ("{ measurements { nodes { metrics } } }", 100, 1, 101),
        ('{ measurements(where: {timestamp: {gte: "2026-01-29T00:00:00Z"}}) { nodes { metrics } } }', 100, 3, 103),
        ('{ measurements(where: {and: [{timestamp: {gt: "2025-01-01T00:00:00Z"}}, {timestamp: {lt: "2025-01-03T00:00:00Z"}}]}) { nodes { metrics } } }', 100, 3, 103),
        ("{ measurements(orderBy: {field: MACHINE_ID}) { nodes { metrics } } }", 100, 3651, 3751),
        ("{ predictions { totalCount } }", 100, 523, 723),
        ("{ machines(first: 5, where: {alerts: {some: {severity: {gte: HIGH}}}}) { nodes { location } } }", 5, 0, 105),
        ("{ machines(first: 5, where: {alerts: {some: {cause: {eq: \"a\"}}, none: {cause: {eq: \"b\"}}}}) { nodes { location } } }", 5, 0, 205),
        ('{ machines(first: 5, where: {measurements: {some: {timestamp: {gte: "2026-01-29T00:00:00Z"}}}}) { nodes { location } } }', 5, 3, 108),
        ("{ machines(first: 5, where: {measurements: {none: {}}}) { nodes { location } } }", 5, 3651, 3756),
        ("{ machines(first: 5, where: {or: [{not: {and: {alerts: {none: {}}}}}, {alerts: {some: {machine: {alerts: {some: {}}}}}}]}) { nodes { location } } }", 5, 0, 705),
        ('{ measurements(first: 5, where: {machine: {location: {eq: "Hall 1"}}}) { nodes { metrics } } }', 5, 1, 106),
        ("{ machines(first: 2) { nodes { alerts(first: 3, where: {machine: {operational: {eq: true}}}) { nodes { title } } } } }", 8, 0, 208),
        ("{ alertsAggregate(first: 1, where: {machine: {operational: {eq: true}}}) { count } }", 1, 0, 201),
        (f"{{ {SERIES}) {{ values }} }}", 6000, 31, 337),
        (f'{{ {SERIES}, to: "2026-01-01T01:00:00Z", bucket: "PT1M") {{ values }} }}', 360, 2, 26),
        (f'{{ {SERIES}, bucket: "PT1S", maxPoints: 8) {{ values }} }}', 48, 31, 39),
        ('{ series(machineIds: ["A"], from: "1970-01-01T00:00:00Z") { values } }', 10_000, 3651, 4161),
        ('{ machines(first: 50) { nodes { series(metrics: ["t"], from: "2026-01-30T00:00:00Z", bucket: "PT1H") { values } } } }', 1250, 2, 162),
        ("{ machines @skip(if: true) { nodes { machineId } } fleet @include(if: true) { live } }", 1, 0, 1),
        ('mutation { retireMachine(machineId: "A") { measurements(first: 3) { nodes { metrics } } } }', 4, 1, 5),
        ("subscription { measurements { measurements { machine { location } } } }", 201, 1, 202),
        ("{ __schema { types { fields { name } } } }", 0, 0, 2802),
    ],
)  # fmt: skip
def test_rows_points_and_chunks_are_counted(document: str, rows: int, chunks: int, estimated: int) -> None:
    cost = estimate(document)
    assert (cost.rows, cost.chunks, cost.estimated) == (rows, chunks, estimated)


def test_fragments_that_spread_all_others_behind_them_are_gone_through_once() -> None:
    spreads = "".join(
        f" fragment F{n} on Query {{ {' '.join(f'...F{other}' for other in range(n + 1, 61))} }}" for n in range(60)
    )
    assert estimate(f"{{ ...F0 }}{spreads} fragment F60 on Query {{ fleet {{ live }} }}").rows == 1


def test_variables_count_as_what_they_hold() -> None:
    document = """
        query ($size: Int = 3, $ids: [ID!]!, $skipped: Boolean!) {
          machines(first: $size) { nodes { machineId } }
          series(machineIds: $ids, metrics: ["t"], from: "2026-01-30T00:00:00Z", bucket: "PT12H") { values }
          fleet @skip(if: $skipped) { live }
        }
    """
    assert estimate(document, ids=["A", "B", "A"], skipped=True).rows == 3 + 2 * 2
    assert estimate(document, size=50, ids=["A"], skipped=False).rows == 50 + 2 + 1


@pytest.mark.parametrize("variables", [{}, {"size": "many", "from": 5, "ids": None}, {"size": None, "ids": {"a": 1}}])
def test_variables_that_cannot_be_are_left_to_be_refused_by_execution(variables: dict[str, Any]) -> None:
    document = """
        query ($size: Int, $from: DateTime!, $ids: [ID!]!) {
          machines(first: $size) { nodes { machineId } }
          series(machineIds: $ids, from: $from, bucket: "PT1M") { values }
        }
    """
    assert estimate(document, **variables).rows >= 100


@pytest.mark.parametrize(
    "where", [5, [[[{"alerts": "none"}]]], {"alerts": [{"some": 1}]}, {"and": [{"or": [None, {"not": "x"}]}]}]
)
def test_relations_that_cannot_be_are_left_to_be_refused_by_execution(where: Any) -> None:
    document = "query ($where: MachineWhere) { machines(first: 1, where: $where) { nodes { location } } }"
    assert estimate(document, where=where).estimated == 1


def test_a_where_of_thousands_of_relations_is_not_looked_through_to_its_end() -> None:
    document = "query ($where: MachineWhere) { machines(first: 1, where: $where) { nodes { location } } }"
    where: Any = {"or": [{"alerts": {"some": {}}}] * 50_000}
    assert 100 * 200 < estimate(document, where=where).estimated < 100 * 500


def test_the_refusal_names_what_costs_the_most() -> None:
    document = "{ machines(first: 1000) { nodes { page: alerts(first: 1000) { nodes { title } } } } }"
    with pytest.raises(QueryTooExpensive) as caught:
        estimate(document, limit=100_000)
    assert str(caught.value) == (
        "The operation would cost 1,001,000 (1,001,000 rows and points, 0 chunks), and AURUM_GRAPHQL_MAX_COST allows 100,000; "
        "machines.nodes.page costs the most. Ask for smaller pages, fewer machines or metrics, longer buckets, "
        "a smaller maxPoints or a shorter range."
    )
    assert caught.value.extensions == {"code": "QUERY_TOO_EXPENSIVE", "field": "machines.nodes.page"}


def list_lists() -> Iterator[str]:
    for name, kind in SCHEMA.type_map.items():
        if isinstance(kind, GraphQLObjectType) and not name.endswith("Connection"):
            for field, definition in kind.fields.items():
                bare = definition.type.of_type if is_non_null_type(definition.type) else definition.type
                paged = "first" in definition.args or "last" in definition.args
                if is_list_type(bare) and isinstance(get_named_type(bare), GraphQLObjectType) and not paged:
                    yield f"{name}.{field}"


def test_every_list_of_objects_has_a_weight() -> None:
    assert sorted(list_lists()) == sorted(LISTS), "app/graphql/weights.py says how many objects each list holds"


def test_every_connection_can_be_paged() -> None:
    for kind in SCHEMA.type_map.values():
        if isinstance(kind, GraphQLObjectType):
            for field, definition in kind.fields.items():
                if get_named_type(definition.type).name.endswith("Connection"):
                    assert {"first", "after"} <= set(definition.args), f"{kind.name}.{field}"


def test_every_connection_of_a_hypertable_counts_chunks() -> None:
    for table in HYPERTABLES.values():
        assert table.chunk_interval
    fields = ("measurements", "features", "predictions", "esgRecords")
    assert [estimate(f"{{ {field} {{ nodes {{ machineId }} }} }}").chunks for field in fields] == [1, 1, 1, 1]


async def test_a_cost_beyond_all_bounds_is_told_in_a_number_that_clients_can_read(service: ServiceClient) -> None:
    document = """
        query ($first: Int) {
          machines(first: $first) { nodes { alerts(first: $first) { nodes { machine { alerts(first: $first) { totalCount } } } } } }
        }
    """
    answer = await service.post_graphql(document, first=10**18)
    assert answer["errors"][0]["extensions"]["code"] == "QUERY_TOO_EXPENSIVE"
    assert answer["extensions"]["cost"] == {"estimated": 2**53, "limit": 100_000, "rows": 2**53, "chunks": 0}


async def test_the_answer_says_what_it_was_estimated_to_cost(service: ServiceClient) -> None:
    answer = await service.post_graphql("{ machines(first: 7) { nodes { machineId } } fleet { live } }")
    assert answer["extensions"] == {"cost": {"estimated": 8, "limit": 100_000, "rows": 8, "chunks": 0}}


async def test_chunks_cost_only_where_there_are_any(service: ServiceClient) -> None:
    storage = (await service.ask("{ storage { hypertables { table } } }"))["storage"]
    answer = await service.post_graphql("{ measurements(first: 7) { nodes { metrics } } }")
    assert answer["extensions"]["cost"]["chunks"] == (1 if storage["hypertables"] else 0)


async def test_what_costs_too_much_is_refused_and_not_executed(database_url: str) -> None:
    async with run_service(database_url, AURUM_GRAPHQL_MAX_COST="10") as service:
        await service.register("A")
        document = 'mutation { retireMachine(machineId: "A") { alerts(first: 10) { nodes { title } } } }'
        answer = await service.post_graphql(document)
        assert answer["data"] is None
        assert answer["errors"][0]["extensions"] == {"code": "QUERY_TOO_EXPENSIVE", "field": "retireMachine.alerts"}
        assert answer["extensions"] == {"cost": {"estimated": 11, "limit": 10, "rows": 11, "chunks": 0}}
        assert (await service.ask('{ machine(machineId: "A") { operational } }'))["machine"] == {"operational": True}
        async with service.subscribe("{ machines { nodes { machineId } } }") as subscription:
            message = await subscription.next_message()
            assert message["type"] == "error"
            assert message["payload"][0]["extensions"]["code"] == "QUERY_TOO_EXPENSIVE"
