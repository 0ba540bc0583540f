"""Somebody who is bound to locations sees a database in which there is nothing else: every answer is held to that of a
service over a database from which the rest was deleted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest

from app.access.roles import Role
from app.access.visibility import CONDITIONS, UNBOUND, VisibleDatabase, narrow_statement
from app.piccolo_app import APP_CONFIG
from tests.client import ServiceClient
from tests.conftest import make_database, run_service, run_sql
from tests.keys import PRODUCTION, make
from tests.seed import SEED
from tests.test_planning import OPERATIONS, Author
from tests.test_planning import SEED as HARD_SEED

# What is else made up or goes by the clock is the same in both databases.
READINGS = """
UPDATE machines SET created_at = '2026-01-01T00:00:00Z', updated_at = '2026-01-01T00:00:00Z';
UPDATE features SET created_at = '2026-01-01T00:00:00Z';
UPDATE esg_records SET created_at = '2026-01-01T00:00:00Z';
UPDATE alerts SET created_at = '2026-01-01T00:00:00Z';
UPDATE predictions SET created_at = '2026-01-01T00:00:00Z', prediction_id = md5(machine_id || timestamp || model_version)::uuid;
INSERT INTO raw_measurements (machine_id, timestamp, metrics, created_at)
  SELECT machine_id, '2026-01-01T00:00:00Z'::timestamptz + number * interval '1 hour',
    jsonb_build_object('rpm', number, machine_id, 1), '2026-01-03T00:00:00Z'
  FROM machines CROSS JOIN generate_series(0, 40) AS number WHERE machine_id IN ('A', 'B', 'C');
INSERT INTO alert_transitions (alert_id, at, action, state_after, by)
  SELECT id, '2026-01-06T00:00:00Z', 'RAISE', 'ACTIVE_UNACKNOWLEDGED', 'x' FROM alerts;
SELECT setval('alerts_id_seq', 100);
"""
TABLES = ("raw_measurements", "features", "predictions", "esg_records", "machine_pulses", "machines")


class Both(NamedTuple):
    """One who is bound to locations, and everybody at a service that has nothing else; `url` is of the whole."""

    bound: ServiceClient
    apart: ServiceClient
    url: str


@asynccontextmanager
async def open_both(
    server_url: str,
    template: str,
    seed: str,
    *locations: str,
    roles: Sequence[Role] = (Role.VIEWER,),
    bounds: Mapping[str, str] = {},
) -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        whole, apart = [await stack.enter_async_context(make_database(server_url, template)) for _ in range(2)]
        for url in (whole, apart):
            await run_sql(url, seed, READINGS)
        connection = await asyncpg.connect(apart)
        others = "machine_id IN (SELECT machine_id FROM machines WHERE location <> ALL($1::text[]))"
        await connection.execute(
            f"DELETE FROM alert_transitions WHERE alert_id IN (SELECT id FROM alerts WHERE {others})", locations
        )
        for table in ("alerts", *TABLES):
            await connection.execute(f"DELETE FROM {table} WHERE {others}", locations)
        await connection.close()
        connection = await asyncpg.connect(whole)
        key = await make(connection, *roles, locations=locations, name="hall")
        await connection.close()
        service = await stack.enter_async_context(run_service(whole, **PRODUCTION, **bounds))
        bound = await stack.enter_async_context(ServiceClient(service.url, key))
        yield Both(bound, await stack.enter_async_context(run_service(apart, **bounds)), whole)


@pytest.fixture
async def both(server_url: str, template: str) -> AsyncIterator[Both]:
    """Machines A and C of Hall 1, beside B of Hall 2."""
    roles = (Role.ENGINEER, Role.INGEST)
    async with open_both(server_url, template, SEED, "Hall 1", roles=roles) as opened:
        yield opened


PAGE = "totalCount pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
RELATIONS = f"""
  measurements(first: 2) {{ {PAGE} nodes {{ timestamp metrics }} }} features {{ {PAGE} nodes {{ timestamp }} }}
  predictions {{ {PAGE} nodes {{ riskScore }} }} esgRecords {{ {PAGE} nodes {{ cumulativeCo2eqKg }} }}
  alerts {{ {PAGE} nodes {{ title transitions {{ by }} }} }} latest {{ metrics }} lastSeenAt latestPrediction {{ riskScore }}
"""
COMPUTED = """
  liveness series(from: "2026-01-01T00:00:00Z", to: "2026-01-03T00:00:00Z", bucket: "PT1H") { metric values sourceRows }
  measurementsAggregate { count metrics(names: ["rpm"]) { sum } } alertsAggregate(groupBy: { columns: [SEVERITY] }) { count }
"""
QUERIES = [
    f"{{ machines {{ {PAGE} nodes {{ machineId location {RELATIONS} }} }} }}",
    f"{{ machines {{ nodes {{ machineId {COMPUTED} {RELATIONS} }} }} }}",
    '{ a: machine(machineId: "A") { location } b: machine(machineId: "B") { location alerts { nodes { title } } } }',
    "{ fleet { machines operational live stale silent neverSeen lastSeenAt } }",
    f"{{ measurements(first: 5) {{ {PAGE} nodes {{ machineId machine {{ location }} metrics }} }} }}",
    f"{{ measurements(last: 3, orderBy: [{{ field: MACHINE_ID }}]) {{ {PAGE} edges {{ cursor node {{ machineId }} }} }} }}",
    f"{{ features {{ {PAGE} nodes {{ machineId features }} }} predictions {{ {PAGE} nodes {{ machineId riskScore }} }} }}",
    f"{{ esgRecords {{ {PAGE} nodes {{ machineId factors }} }} alerts {{ {PAGE} nodes {{ alertId transitions {{ at }} }} }} }}",
    '{ alerts(where: { alertId: { in: ["1", "5"] } }) { nodes { alertId title } } }',
    '{ alerts(where: { machine: { location: { eq: "Hall 2" } } }) { totalCount nodes { alertId } } }',
    "{ machines(where: { alerts: { some: { severity: { gte: HIGH } } } }) { nodes { machineId } } }",
    "{ machines(where: { not: { predictions: { some: { riskScore: { gte: 0 } } } } }) { nodes { machineId } } }",
    '{ machines(where: { alerts: { none: { machine: { alerts: { some: { cause: { eq: "risk" } } } } } } }) { totalCount } }',
    "{ machinesAggregate(groupBy: { columns: [LOCATION] }) { key { location } count } }",
    '{ measurementsAggregate { count min { timestamp } metrics(names: ["rpm", "B"]) { count sum max } } }',
    "{ featuresAggregate { count } predictionsAggregate(groupBy: { columns: [MACHINE_ID] }) { key { machineId } count } }",
    "{ esgRecordsAggregate { count sum { instantCo2eqKg } } alertsAggregate(groupBy: { columns: [CAUSE] }) { key { cause } } }",
    '{ series(machineIds: ["A", "C"], from: "2026-01-01T00:00:00Z", to: "2026-01-03T00:00:00Z") { machineId metric values } }',
    '{ series(machineIds: ["A", "B"], from: "2026-01-01T00:00:00Z", to: "2026-01-03T00:00:00Z") { values } }',
    """{ series(machineIds: ["A"], metrics: ["rpm", "B"], from: "2026-01-01T00:00:00Z", to: "2026-01-03T00:00:00Z",
         bucket: "P1D", fill: LOCF) { metric values sourceRows } }""",
]


@pytest.mark.parametrize("query", QUERIES)
async def test_an_answer_is_that_of_a_database_without_the_rest(both: Both, query: str) -> None:
    for _ in range(2):  # the second time it goes the short way, where there is one
        answer = await both.bound.post_graphql(query)
        assert answer == await both.apart.post_graphql(query)
    assert "Hall 2" not in json.dumps(answer)


async def test_operations_made_up_at_random_are_answered_as_without_the_rest(server_url: str, template: str) -> None:
    bounds = {"DEPTH": "30", "ALIASES": "2000", "TOKENS": "50000", "COST": "100000000"}
    variables = {f"AURUM_GRAPHQL_MAX_{name}": most for name, most in bounds.items()}
    places = ("Hall 1", "/*", "\u2028\u007f")
    async with open_both(server_url, template, HARD_SEED, *places, bounds=variables) as both:
        for number in range(OPERATIONS // 3):
            author = Author(number)
            query = author.write()
            asked = {name: value for name, (_, value) in author.variables.items()}
            for _ in range(2):
                assert await both.bound.post_graphql(query, **asked) == await both.apart.post_graphql(query, **asked)


ALERT = '{ machineId: "%s", alertType: ANOMALY, severity: LOW, cause: "c", title: "t" }'
MUTATIONS = [
    'mutation { updateMachine(machineId: "B", input: { operational: false }) { machineId } }',
    'mutation { retireMachine(machineId: "B") { machineId } }',
    f"mutation {{ raiseAlert(input: {ALERT % 'B'}) {{ machineId }} }}",
    'mutation { recordPrediction(input: { machineId: "B", riskScore: 0.5, modelVersion: "m" }) { machineId } }',
    """mutation { recordPredictions(predictions: [{ machineId: "A", riskScore: 0.5, modelVersion: "m" },
       { machineId: "B", riskScore: 0.5, modelVersion: "m" }]) { machineId } }""",
    'mutation { acknowledgeAlert(alertId: "5") { alertId } }',
    'mutation { clearAlert(alertId: "5") { alertId } }',
    'mutation { resolveAlert(alertId: "5") { alertId } }',
    'mutation { shelveAlert(alertId: "5", until: "{soon}") { alertId } }',
    'mutation { acknowledgeAlerts(alertIds: ["1", "5"]) { alertId } }',
    'mutation { resolveAlerts(alertIds: ["1", "5"]) { alertId } }',
    'mutation { resolveAlerts(alertIds: ["x", "5"]) { alertId } }',
]


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_what_is_elsewhere_is_refused_like_what_isn_t_there(both: Both, mutation: str) -> None:
    mutation = mutation.replace("{soon}", (datetime.now(UTC) + timedelta(days=1)).isoformat())
    before = await read_rows(both.url)
    answer = await both.bound.post_graphql(mutation)
    assert answer["errors"][0]["extensions"]["code"] == "NOT_FOUND"
    assert answer == await both.apart.post_graphql(mutation)
    assert await read_rows(both.url) == before


async def read_rows(url: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetch(f"SELECT * FROM {table}") for table in ("machines", "alerts", "predictions")]
    finally:
        await connection.close()


async def test_what_is_here_may_be_changed_and_not_taken_elsewhere(both: Both) -> None:
    bound = both.bound
    assert (await bound.ask('mutation { acknowledgeAlert(alertId: "1") { acknowledgedBy } }'))["acknowledgeAlert"] == {
        "acknowledgedBy": "key:hall"
    }
    await bound.ask(f"mutation {{ raiseAlert(input: {ALERT % 'A'}) {{ machineId }} }}")
    await bound.ask(
        'mutation { recordPrediction(input: { machineId: "C", riskScore: 0, modelVersion: "m" }) { riskScore } }'
    )
    moved = 'mutation { updateMachine(machineId: "A", input: { location: "Hall 2" }) { machineId } }'
    assert (await bound.refuse(moved))["extensions"] == {"code": "FORBIDDEN", "field": "location"}
    made = 'mutation { registerMachine(input: { machineId: "N", machineType: "x", location: "%s" }) { machineId } }'
    assert (await bound.refuse(made % "Hall 2"))["message"] == "key:hall is bound to other locations than 'Hall 2'."
    await bound.ask(made % "Hall 1")
    both_places = """mutation { registerMachines(machines: [{ machineId: "O", machineType: "x", location: "Hall 1" },
        { machineId: "P", machineType: "x", location: "Hall 2" }]) { machineId } }"""
    assert (await bound.refuse(both_places))["extensions"]["field"] == "machines.1.location"
    refused = await bound.refuse("{ storage { edition } }")
    assert refused["message"] == (
        "Query.storage is for engineer and admin of all locations, and key:hall is bound to some."
    )
    metrics = await bound.http.get("/metrics")
    assert (metrics.status_code, metrics.json()["message"]) == (
        403,
        "/metrics is for viewer, operator, engineer and admin of all locations, and key:hall is bound to some.",
    )


async def test_readings_of_a_machine_elsewhere_are_refused_like_those_of_none(both: Both) -> None:
    readings = [{"machine_id": name, "timestamp": 1_000, "metrics": {"a": 1}} for name in ("A", "B", "nobody", "C")]
    wanted = {
        "accepted": 2,
        "duplicates": 0,
        "conflicts": 0,
        "rejectedCount": 2,
        "rejected": [
            {
                "index": index,
                "code": "UNKNOWN_MACHINE",
                "message": f"no machine {name!r} is registered: register it first, with registerMachine.",
            }
            for index, name in ((1, "B"), (2, "nobody"))
        ],
    }
    assert await both.bound.ingest(readings) == wanted
    assert await both.apart.ingest(readings) == wanted
    lines = "\n".join(json.dumps({**each, "timestamp": 2_000}) for each in readings)
    response = await both.bound.http.post("/ingest", content=lines, headers={"content-type": "application/x-ndjson"})
    assert response.json() == wanted
    sent = [{"machineId": "B", "timestamp": "2026-01-01T00:00:00Z", "metrics": {"a": 1}}]
    answer = await both.bound.ask(
        "mutation ($sent: [MeasurementInput!]!) { ingest(measurements: $sent) { accepted rejected { code } } }",
        sent=sent,
    )
    assert answer["ingest"] == {"accepted": 0, "rejected": [{"code": "UNKNOWN_MACHINE"}]}


async def test_events_are_of_the_machines_here_alone_and_nobody_gets_another_s(both: Both) -> None:
    connection = await asyncpg.connect(both.url)
    everywhere = await make(
        connection, Role.ADMIN, name="hall"
    )  # the same name, so the same question but for the place
    other = await make(connection, Role.VIEWER, name="hall", locations=("Hall 2",))
    await connection.close()
    query = "subscription { measurements { measurements { machineId metrics machine { location } } } }"
    async with (
        ServiceClient(both.bound.url, everywhere) as whole,
        ServiceClient(both.bound.url, other) as second,
        AsyncExitStack() as stack,
    ):
        told = [await stack.enter_async_context(client.subscribe(query)) for client in (both.bound, whole, second)]
        changes = await stack.enter_async_context(
            both.bound.subscribe("subscription { alerts { alert { machineId } } }")
        )
        made = await stack.enter_async_context(
            both.bound.subscribe("subscription { predictions { predictions { machineId } } }")
        )
        await whole.ingest([{"machine_id": name, "timestamp": 9_000, "metrics": {"a": 1}} for name in "AB"])
        batches = [[each["machineId"] for each in (await one.next())["measurements"]] for one in told]
        assert batches == [["A"], ["A", "B"], ["B"]]
        for name in "BA":
            await whole.ask(f"mutation {{ raiseAlert(input: {ALERT % name}) {{ alertId }} }}")
            await whole.ask(
                f'mutation {{ recordPrediction(input: {{ machineId: "{name}", riskScore: 0, modelVersion: "e" }}) '
                "{ riskScore } }"
            )
        assert await changes.next() == {"alert": {"machineId": "A"}}
        assert await made.next() == {"predictions": [{"machineId": "A"}]}
        # Replayed, it is the same.
        after = await stack.enter_async_context(
            second.subscribe('subscription { alerts(after: "1") { alert { machineId } } }')
        )
        assert await after.next() == {"alert": {"machineId": "B"}}
    refused = 'subscription { measurements(machineIds: ["B"]) { cursor } }'
    async with both.bound.subscribe(refused) as subscription:
        message = await subscription.next_message()
        assert message["payload"]["errors"][0]["message"] == "No machine 'B' is registered."


def test_every_table_is_narrowed_or_said_to_be_about_no_machine() -> None:
    tables = {table._meta.tablename for table in APP_CONFIG.table_classes}
    assert tables == set(CONDITIONS) | UNBOUND


def test_a_statement_is_narrowed_by_the_tables_that_it_names_and_no_others() -> None:
    assert narrow_statement("SELECT 1 FROM alerts WHERE id = $1", 1) == (
        "WITH machines AS NOT MATERIALIZED (SELECT * FROM machines WHERE location = ANY($2::text[])), "
        "alerts AS NOT MATERIALIZED (SELECT * FROM alerts WHERE machine_id IN (SELECT machine_id FROM machines)), "
        "bound AS (SELECT $2::text[]) SELECT 1 FROM alerts WHERE id = $1"
    )
    with pytest.raises(ValueError, match="only a SELECT"):
        narrow_statement("WITH alerts AS (SELECT 1) SELECT 1", 0)


async def test_what_somebody_sees_can_t_be_written_to(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    seen = VisibleDatabase(None, frozenset({"x"}))  # type: ignore[arg-type]  # which isn't reached
    with pytest.raises(RuntimeError, match="can't be written to"):
        async with seen.transaction():
            pass
    with pytest.raises(RuntimeError, match="can't be written to"):
        seen.engine  # noqa: B018 - raises
