"""The matrix of roles: everything that can be asked has a rule, and every role may do what its rules say and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from graphql import GraphQLField, GraphQLObjectType, get_named_type, is_required_argument

from app.access.matrix import FIELDS, ROUTES, Entry, Rule
from app.access.roles import Role
from app.graphql.schema import make_schema
from app.ingest.endpoint import PATH as INGEST
from app.main import create_app
from app.ops import health
from app.settings import load_settings
from tests.client import ServiceClient
from tests.conftest import ROOT, run_service
from tests.keys import PRODUCTION, make

SCHEMA = make_schema()._schema
ROOTS = [root for root in (SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type) if root is not None]

# What the matrix must come to, as a person would say it: who reads, attends to alerts, engineers, and sends readings.
READ = {"viewer", "operator", "engineer", "admin"}
ATTEND = {"operator", "engineer", "admin"}
ENGINEER = {"engineer", "admin"}
SEND = {"ingest", "admin"}
SAID = {
    "Query.storage": ENGINEER,
    "Mutation.ingest": SEND,
    **dict.fromkeys(("registerMachine", "registerMachines", "updateMachine", "retireMachine"), ENGINEER),
    **dict.fromkeys(("recordPrediction", "recordPredictions", "raiseAlert"), ENGINEER),
    **dict.fromkeys(("clearAlert", "acknowledgeAlert", "acknowledgeAlerts", "resolveAlert"), ATTEND),
    **dict.fromkeys(("resolveAlerts", "shelveAlert"), ATTEND),
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the database to answer whoever asks for the health, on a busy machine as well."""
    monkeypatch.setattr(health, "PATIENCE", 30.0)


def list_fields() -> list[tuple[GraphQLObjectType, str]]:
    return [(root, name) for root in ROOTS for name in root.fields]


def say(root: str, name: str) -> set[str]:
    return SAID.get(f"{root}.{name}") or SAID.get(name) or READ


def write_operation(root: GraphQLObjectType, name: str) -> str:
    """An operation of that field alone, whose arguments are right by their types and whatever else."""
    field = root.fields[name]
    arguments = ", ".join(
        f"{key}: {write_value(argument.type)}" for key, argument in field.args.items() if is_required_argument(argument)
    )
    called = f"{name}({arguments})" if arguments else name
    return f"{root.name.lower()} {{ {called} {write_selection(field)} }}"


def write_value(kind: Any) -> str:
    text = str(kind).rstrip("!")
    if text.startswith("["):
        return "[]"
    plain = {"ID": '"1"', "DateTime": '"2026-01-01T00:00:00Z"', "String": '"x"', "Float": "0.5"}
    if text in plain:
        return plain[text]
    named = get_named_type(kind)
    if hasattr(named, "values"):
        return str(next(iter(named.values)))
    assert hasattr(named, "fields"), text
    inner = ", ".join(
        f"{key}: {write_value(each.type)}" for key, each in named.fields.items() if str(each.type).endswith("!")
    )
    return f"{{ {inner} }}"


def write_selection(field: GraphQLField) -> str:
    return "{ __typename }" if isinstance(get_named_type(field.type), GraphQLObjectType) else ""


def test_every_field_of_the_roots_has_a_rule() -> None:
    assert {f"{root.name}.{name}" for root, name in list_fields()} - set(FIELDS) == set()


def test_every_rule_is_of_a_field_that_there_is() -> None:
    for path in FIELDS:
        owner, _, name = path.partition(".")
        kind = SCHEMA.type_map[owner]
        assert isinstance(kind, GraphQLObjectType)
        assert name in kind.fields


def test_every_route_has_a_rule() -> None:
    app = create_app(load_settings({"AURUM_GRAPHIQL": "true"}))
    assert {route.path_format for route in app.routes} | {INGEST} == set(ROUTES)


def test_the_rules_are_what_was_agreed_on() -> None:
    for root, name in list_fields():
        assert {role.value for role in FIELDS[f"{root.name}.{name}"].roles} == say(root.name, name), name


@pytest.fixture
async def closed(database_url: str, connection: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[ServiceClient]:
    """The service in production, and a client that it doesn't know."""
    await make(connection, Role.VIEWER)
    async with run_service(database_url, **PRODUCTION) as service:
        yield service


@pytest.mark.parametrize("role", list(Role))
async def test_a_role_may_do_what_its_rules_say_and_nothing_else(
    role: Role, closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with ServiceClient(closed.url, await make(connection, role)) as client:
        # Before anything is done that there could be an event of.
        for name in ("measurements", "predictions", "alerts"):
            async with client.subscribe(f"subscription {{ {name} {{ cursor }} }}") as subscription:
                if role.value in READ:
                    await subscription.expect_silence(0.05)
                else:
                    message = await subscription.next_message()
                    assert message["type"] == "error"
                    assert message["payload"][0]["extensions"] == {
                        "code": "FORBIDDEN",
                        "field": f"Subscription.{name}",
                        "correlationId": message["payload"][0]["extensions"]["correlationId"],
                    }
        for root, name in list_fields():
            if root is not SCHEMA.subscription_type:
                refused = find_codes(await client.post_graphql(write_operation(root, name)))
                assert ("FORBIDDEN" in refused) is (role.value not in say(root.name, name)), (name, refused)


def find_codes(answer: Any) -> set[str]:
    return {error["extensions"]["code"] for error in answer.get("errors", [])}


@pytest.mark.parametrize("role", [None, *Role])
async def test_a_route_lets_in_whom_its_rule_names(
    role: Role | None, closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with ServiceClient(closed.url, None if role is None else await make(connection, role)) as client:
        for path, rule in ROUTES.items():
            method = "POST" if path in {"/ingest", "/graphql"} else "GET"
            body = {"query": "{ __typename }"} if path == "/graphql" else []
            response = await client.http.request(
                method, path.replace("{name}", "page.css"), json=body if method == "POST" else None
            )
            assert response.status_code == judge(rule, role, path), path


def judge(rule: Rule | Entry, role: Role | None, path: str) -> int:
    if path == "/graphql":
        return httpx.codes.OK if role else httpx.codes.UNAUTHORIZED
    if path.startswith("/graphql/"):
        return httpx.codes.NOT_FOUND  # GraphiQL is off in production
    if isinstance(rule, Entry):
        return httpx.codes.OK
    if role is None:
        return httpx.codes.UNAUTHORIZED
    return httpx.codes.OK if role in rule.roles else httpx.codes.FORBIDDEN


async def test_an_operation_is_refused_as_a_whole_whatever_its_directives_say(
    closed: ServiceClient, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with ServiceClient(closed.url, await make(connection, Role.VIEWER, name="screen")) as client:
        query = """
            query One($yes: Boolean!) { fleet { machines } ...More @skip(if: $yes) }
            query Two { fleet { machines } }
            fragment More on Query { ...Most }
            fragment Most on Query { seen: storage { sizeBytes } }
        """
        refused = await client.http.post(
            "/graphql", json={"query": query, "variables": {"yes": True}, "operationName": "One"}
        )
        assert refused.json() == {
            "data": None,
            "errors": [
                {
                    "message": "Query.storage is for engineer and admin, and key:screen is none of these.",
                    "extensions": {"code": "FORBIDDEN", "field": "Query.storage"},
                }
            ],
        }
        # An operation beside it in the document is none of it.
        fine = await client.http.post("/graphql", json={"query": query, "operationName": "Two"})
        assert fine.json()["data"] == {"fleet": {"machines": 0}}
        # What was allowed to another before, and is known to the short way, is refused as well.
        async with ServiceClient(closed.url, await make(connection, Role.ENGINEER)) as engineer:
            for _ in range(2):
                assert "errors" not in await engineer.post_graphql("{ machines { nodes { machineId } } }")
        async with ServiceClient(closed.url, await make(connection, Role.INGEST)) as sender:
            answer = await sender.post_graphql("{ machines { nodes { machineId } } }")
            assert find_codes(answer) == {"FORBIDDEN"}


def write_table() -> str:
    """The matrix as docs/security.md shows it."""
    roles = [role.value for role in Role]
    rows = [f"| what | {' | '.join(roles)} |", f"|---|{'---|' * len(roles)}"]
    rules: dict[Rule, list[str]] = {}
    for name, rule in [*FIELDS.items(), *ROUTES.items()]:
        if isinstance(rule, Rule):
            rules.setdefault(rule, []).append(f"`{name}`")
    for rule, names in rules.items():
        marks = ["yes" if role in rule.roles else "" for role in Role]
        where = ", of all locations" if rule.everywhere else ""
        rows.append(f"| {', '.join(names)}{where} | {' | '.join(marks)} |")
    return "\n".join(rows) + "\n"


def test_the_guide_to_security_shows_the_matrix() -> None:
    assert write_table() in (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
