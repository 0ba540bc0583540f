"""Plans answer what resolvers answer: operations made up at random, over rows that are hard to write, the long way and the
short one."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import asyncpg
import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLObjectType, get_named_type, is_non_null_type

from app.graphql import shortcut
from app.graphql.prepared import Prepared
from app.graphql.schema import make_schema
from tests import comparing
from tests.client import ServiceClient
from tests.conftest import run_service

OPERATIONS = int(os.environ.get("AURUM_TEST_OPERATIONS", "150"))
SCHEMA = make_schema()._schema
PAGES = {"machines", "measurements", "features", "predictions", "esgRecords", "alerts"}

# Names that JSON, base64 and SQL could trip over; nulls, numbers at the ends of what a double is, and instants likewise.
SEED = r"""
INSERT INTO machines (machine_id, machine_type, location, operational, created_at, updated_at) VALUES
  ('A', 'press', 'Hall 1', true, '2026-01-01T00:00:00Z', '2026-01-01T00:00:00.000001Z'),
  (E'tab\tline\nquote"slash\\', E'\u0001', '', false, '1970-01-01T00:00:00Z', '2026-01-01T00:00:00.1Z'),
  ('Ünïcode 🏭', '<&>''', E'\u2028\u007f', true, '2026-01-01T00:00:00.999999Z', '2028-02-29T23:59:59.999999Z'),
  ('$$ $1 %s {row}', 'mill', '/*', true, '2026-01-01T12:00:00+02:00', '2026-01-01T00:00:00Z');
INSERT INTO raw_measurements (machine_id, timestamp, metrics, created_at)
  SELECT machine_id, instant, metrics, '2026-01-02T03:04:05.678901Z' FROM machines CROSS JOIN (VALUES
    ('1970-01-01T00:00:00Z'::timestamptz, '{"a": 1.7976931348623157e308, "b": -5e-324}'::jsonb),
    ('2026-01-01T00:00:00.000001Z', '{"a": 12345678901234567890, "ü": 0.1, "c": -0.0}'),
    ('2026-01-01T00:00:00.000002Z', '{}')) AS readings (instant, metrics);
INSERT INTO features (machine_id, timestamp, features)
  SELECT machine_id, '2026-01-01T00:00:00Z', '{"deep": [[[{"x": null}]], "text \" \\ ü", 1e20, true]}' FROM machines;
INSERT INTO predictions (machine_id, timestamp, risk_score, failure_probability, maintenance_hours, failure_type, confidence,
                         model_version, features_used)
  SELECT machine_id, '2026-01-01T00:00:00Z', 0.1, probability, hours, failure, confidence, version, '[]' FROM machines CROSS JOIN (VALUES
    (NULL::float8, 1.7976931348623157e308::float8, NULL, 1e-7::float8, 'v1'), (0.30000000000000004, 5e-324, '', NULL, 'v2'),
    (1, -0.0, 'bearing', 1, 'v "3"')) AS made (probability, hours, failure, confidence, version);
INSERT INTO esg_records (machine_id, timestamp, instant_co2eq_kg, cumulative_co2eq_kg, fuel_rate_lh, factors, metadata)
  SELECT machine_id, '2026-01-01T00:00:00Z', 1e22, 123456789012345.67, NULL, '{}', NULL FROM machines;
INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title, description, evidence, cleared_at, acknowledged_at,
                    acknowledged_by, resolved_at)
  SELECT machine_id, '2026-01-01T00:00:00Z'::timestamptz + number * interval '1 microsecond', 'ANOMALY',
    (ARRAY['LOW', 'MEDIUM', 'HIGH', 'CRITICAL'])[1 + number % 4], 'c' || number, 'Title', CASE number % 2 WHEN 0 THEN 'why' END,
    '{"z": [1.5]}', CASE number % 3 WHEN 0 THEN '2026-01-02T00:00:00Z'::timestamptz END,
    CASE number % 4 WHEN 1 THEN '2026-01-03T00:00:00Z'::timestamptz END, CASE number % 4 WHEN 1 THEN 'ana' END,
    CASE number WHEN 5 THEN '2026-01-04T00:00:00Z'::timestamptz END
  FROM machines CROSS JOIN generate_series(1, 6) AS number;
"""


@pytest.fixture
async def hard(database_url: str, connection: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[ServiceClient]:
    """The service, without the bounds of size, over rows that are hard to write."""
    await connection.execute(SEED)
    bounds = {"DEPTH": "30", "ALIASES": "2000", "TOKENS": "50000", "COST": "100000000"}
    variables = {f"AURUM_GRAPHQL_MAX_{name}": most for name, most in bounds.items()}
    async with run_service(database_url, **variables) as service:
        yield service


class Author:
    """Writes queries at random; each argument stands under an alias of its own."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._aliases = count(1)
        self._fragments: list[str] = []
        self.variables: dict[str, tuple[str, Any]] = {"yes": ("Boolean!", True), "no": ("Boolean!", False)}

    def write(self) -> str:
        root = SCHEMA.query_type
        assert root is not None
        fields = " ".join(self._write_field(root, name, 3) for name in self._chance.choices(sorted(PAGES), k=2))
        if self._chance.random() < 0.5:
            fields += " " + self._write_machine()
        names = ", ".join(f"${name}: {kind}" for name, (kind, _) in self.variables.items())
        # So that no variable is without a use.
        uses = " ".join(f"@include(if: ${name})" for name in ("yes",)) + " @skip(if: $no)"
        return f"query ({names}) {{ {fields} ... on Query {uses} {{ __typename }} }} {' '.join(self._fragments)}"

    def _write_machine(self) -> str:
        machine_id = self._chance.choice(["A", "Ünïcode 🏭", 'tab\tline\nquote"slash\\', "$$ $1 %s {row}", "nobody"])
        name = f"id{next(self._aliases)}"
        self.variables[name] = ("ID!", machine_id)
        return f"{self._alias()}: machine(machineId: ${name}) {self._write_selection('Machine', 3)}"

    def _alias(self) -> str:
        return f"x{next(self._aliases)}"

    def _write_selection(self, kind: str, depth: int) -> str:
        owner = SCHEMA.type_map[kind]
        assert isinstance(owner, GraphQLObjectType)
        names = [name for name in owner.fields if self._is_planned(owner, name, depth)]
        chosen = self._chance.sample(names, k=self._chance.randint(1, min(5, len(names))))
        fields = " ".join(self._write_field(owner, name, depth) for name in chosen)
        style = self._chance.random()
        if style < 0.15:
            return f"{{ ... on {kind} {{ {fields} }} __typename }}"
        if style < 0.3:
            fragment = f"F{next(self._aliases)}"
            self._fragments.append(f"fragment {fragment} on {kind} {{ {fields} }}")
            return f"{{ ...{fragment} }}"
        return f"{{ {fields} }}"

    def _is_planned(self, owner: GraphQLObjectType, name: str, depth: int) -> bool:
        if name in {"liveness", "series", "transitions"} or name.endswith("Aggregate"):
            return False
        return depth > 0 or not isinstance(get_named_type(owner.fields[name].type), GraphQLObjectType)

    def _write_field(self, owner: GraphQLObjectType, name: str, depth: int) -> str:
        definition = owner.fields[name]
        kind = get_named_type(definition.type)
        directive = self._chance.choice(["", "", "", "", "@include(if: $yes)", "@skip(if: $no)"])
        if not isinstance(kind, GraphQLObjectType):
            alias = f"{self._alias()}: " if self._chance.random() < 0.2 else ""
            return f"{alias}{name} {directive}"
        if not kind.name.endswith("Connection"):
            return f"{self._alias()}: {name} {directive} {self._write_selection(kind.name, depth - 1)}"
        node = get_named_type(kind.fields["nodes"].type).name
        parts: dict[str, Callable[[], str]] = {
            "nodes": lambda: f"nodes {self._write_selection(node, depth - 1)}",
            "edges": lambda: f"edges {{ cursor node {self._write_selection(node, depth - 1)} }}",
            "pageInfo": lambda: "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }",
            "totalCount": lambda: "totalCount",
            "__typename": lambda: "__typename",
        }
        chosen = self._chance.sample(sorted(parts), k=self._chance.randint(1, 3))
        return f"{self._alias()}: {name}{self._write_arguments(node)} {directive} {{ {' '.join(parts[each]() for each in chosen)} }}"

    def _write_arguments(self, node: str) -> str:
        arguments = [f"{self._chance.choice(['first', 'last'])}: {self._chance.randint(0, 4)}"]
        order = SCHEMA.type_map[f"{node}OrderField"]
        assert isinstance(order, GraphQLEnumType)
        if self._chance.random() < 0.6:
            terms = [
                f"{{ field: {self._chance.choice(sorted(order.values))}, direction: {self._chance.choice(['ASC', 'DESC'])} }}"
                for _ in range(self._chance.randint(1, 2))
            ]
            arguments.append(f"orderBy: [{', '.join(terms)}]")
        if self._chance.random() < 0.5:
            where = SCHEMA.type_map[f"{node}Where"]
            assert isinstance(where, GraphQLInputObjectType)
            condition = self._chance.choice(
                [
                    'machineId: { in: ["A", "Ünïcode 🏭"] }',
                    'not: { machineId: { eq: "A" } }',
                    'or: [{ machineId: { eq: "A" } }]',
                ]
            )
            arguments.append(f"where: {{ {condition} }}")
        return f"({', '.join(arguments)})"


async def test_operations_made_up_at_random_are_answered_alike_by_plans_and_resolvers(hard: ServiceClient) -> None:
    begun, short = comparing.compared, 0
    for number in range(OPERATIONS):
        author = Author(number)
        query = author.write()
        variables = {name: value for name, (_, value) in author.variables.items()}
        sent = {"query": query, "variables": variables}
        answers = [(await hard.http.post("/graphql", json=sent)).text for _ in range(2)]
        first, second = (json.loads(answer, parse_int=float) for answer in answers)
        assert "errors" not in first, (number, query, first["errors"])
        assert second == first, (number, query)
        assert comparing.list_keys(second) == comparing.list_keys(first)
        short += answers[0] == answers[1]
    assert comparing.compared - begun >= 2 * OPERATIONS  # each has two root fields at least
    assert short > OPERATIONS / 2


@pytest.mark.parametrize(
    ("query", "planned"),
    [
        ('{ machine(machineId: "A") { location latest { metrics } lastSeenAt latestPrediction { riskScore } } }', True),
        ("{ machines { nodes { alerts(first: 5) { edges { cursor node { state machine { location } } } } } } }", True),
        ('{ series(machineIds: ["A"], from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z") { values } }', True),
        ("{ machines { nodes { liveness } } }", False),
        ("{ fleet { live } machines { nodes { location } } }", False),
        ("{ alerts { nodes { transitions { action } } } }", False),
        ("{ __schema { types { name } } }", False),
        ('{ machine(machineId: "nobody") { location } }', False),  # null is for resolvers to say
    ],
)
async def test_what_stands_on_tables_alone_goes_the_short_way_once_its_document_is_known(
    hard: ServiceClient, monkeypatch: pytest.MonkeyPatch, query: str, planned: bool
) -> None:
    taken: list[bool] = []
    fetch = shortcut.Shortcut._answer

    async def note(self: shortcut.Shortcut, *arguments: Any) -> bytes | None:
        answer = await fetch(self, *arguments)
        taken.append(answer is not None)
        return answer

    monkeypatch.setattr(shortcut.Shortcut, "_answer", note)
    answers = [await hard.post_graphql(query) for _ in range(3)]
    assert taken == [False, planned, planned]
    assert answers[0] == answers[1] == answers[2]


KEYS = ["A", 'tab\tline\nquote"slash\\', "Ünïcode 🏭", "$$ $1 %s {row}", "A"]


@pytest.mark.parametrize(
    ("query", "prepared"),
    [
        ("query ($id: ID!) { machine(machineId: $id) { machineId alerts(first: 2) { nodes { title } } } }", True),
        ('query ($id: ID!) { a: machine(machineId: $id) { location } b: machine(machineId: "A") { machineId } }', True),
        ("query ($id: ID) { machines(first: 9, where: { machineId: { eq: $id } }) { nodes { machineId } } }", False),
        ("query ($id: ID! = 5) { machine(machineId: $id) { machineId } }", False),
        (
            "query ($id: ID!, $to: String = null) { machine(machineId: $id) { location alerts(after: $to) { nodes { title } } } }",
            False,
        ),
    ],
)
async def test_rows_by_their_keys_are_planned_once_for_all_keys(
    hard: ServiceClient, monkeypatch: pytest.MonkeyPatch, query: str, prepared: bool
) -> None:
    filled: list[bool] = []
    fill = Prepared.fill

    def note(self: Prepared, variables: Any) -> Any:
        fetches = fill(self, variables)
        filled.append(fetches is not None)
        return fetches

    monkeypatch.setattr(Prepared, "fill", note)
    answers = [await hard.post_graphql(query, id=key) for key in KEYS]
    assert filled == [True] * 3 * prepared  # the first makes the document known, the second plans it
    with comparing.resolve_everything():
        monkeypatch.setattr(Prepared, "fill", lambda *_: None)
        assert [await hard.post_graphql(query, id=key) for key in KEYS] == answers
    monkeypatch.setattr(Prepared, "fill", note)
    for odd in ({"id": None}, {}, {"id": ["A"]}, {"id": 5}, {"id": "A", "more": "B"}):
        first = await hard.post_graphql(query, **odd)
        assert await hard.post_graphql(query, **odd) == first
    assert filled == [True] * 3 * prepared + [False] * 10 * prepared


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
async def test_a_number_that_json_has_no_place_for_is_the_resolvers_error(
    hard: ServiceClient, connection: asyncpg.Connection[asyncpg.Record], value: str
) -> None:
    await connection.execute("UPDATE predictions SET maintenance_hours = $1 WHERE model_version = 'v1'", float(value))
    query = "{ predictions { nodes { modelVersion maintenanceHours } } }"
    first, second = await hard.post_graphql(query), await hard.post_graphql(query)
    assert first == second
    assert {error["path"][-1] for error in first["errors"]} == {"maintenanceHours"}
    assert len(first["errors"]) == 4
    assert {node["modelVersion"] for node in first["data"]["predictions"]["nodes"]} == {"v1", "v2", 'v "3"'}


async def test_what_is_wrong_with_arguments_is_said_by_the_field_that_they_are_of(hard: ServiceClient) -> None:
    query = "query ($after: String) { machines(first: 2) { nodes { alerts(after: $after) { nodes { title } } } } }"
    await hard.ask(query)
    for _ in range(2):
        answer = await hard.post_graphql(query, after="nonsense")
        assert [error["path"] for error in answer["errors"]] == [
            ["machines", "nodes", place, "alerts"] for place in (0,)
        ]
        assert answer["errors"][0]["extensions"]["field"] == "after"


async def test_a_null_where_the_schema_allows_none_is_the_field_s_error_on_both_ways(hard: ServiceClient) -> None:
    query = """query ($n: Int = 1000) {
      series(machineIds: ["A"], from: "2026-01-01T00:00:00Z", to: "2026-01-02T00:00:00Z", maxPoints: $n) { metric }
    }"""
    await hard.ask(query)
    for _ in range(2):
        answer = await hard.post_graphql(query, n=None)
        (error,) = answer["errors"]
        assert (error["path"], error["extensions"]["code"]) == (["series"], "GRAPHQL_VALIDATION_FAILED")


async def test_what_nobody_foresaw_is_masked_on_both_ways(
    hard: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    query = "{ esgRecords { nodes { timestamp } } }"
    await hard.ask(query)
    await connection.execute("DROP TABLE esg_records CASCADE")
    for _ in range(2):
        answer = await hard.post_graphql(query)
        (error,) = answer["errors"]
        assert (error["path"], error["extensions"]["code"]) == (["esgRecords"], "INTERNAL")
        assert "esg_records" not in error["message"]


def test_every_page_and_relation_of_the_schema_is_declared_to_stand_on_its_table() -> None:
    root = SCHEMA.query_type
    assert root is not None
    pages = {name for name, field in root.fields.items() if get_named_type(field.type).name.endswith("Connection")}
    assert pages == PAGES
    for owner, name in [("Query", each) for each in PAGES] + [("Machine", each) for each in PAGES - {"machines"}]:
        kind = SCHEMA.type_map[owner]
        assert isinstance(kind, GraphQLObjectType)
        assert "standing" in kind.fields[name].extensions["strawberry-definition"].metadata, (owner, name)
        assert is_non_null_type(kind.fields[name].type)  # a page that is late is never null
