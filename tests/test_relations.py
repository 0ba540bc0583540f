"""How many statements relations take: as many for fifty rows as for one, however deep they are."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest
from strawberry.utils.str_converters import to_camel_case

from app.history.shapes import MACHINES
from tests.client import ServiceClient
from tests.comparing import answer_once, resolve_everything
from tests.conftest import run_service
from tests.statements import count_statements

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

MANY = 50

SEED = """
INSERT INTO machines (machine_id, machine_type, location)
  SELECT 'M' || lpad(n::text, 2, '0'), 'press', 'x' FROM generate_series(1, 50) AS n;
CREATE TEMPORARY TABLE places AS
  SELECT machine_id, '2026-01-01T00:00:00Z'::timestamptz + hour * interval '1 hour' AS timestamp
  FROM machines CROSS JOIN generate_series(1, 4) AS hour;
INSERT INTO raw_measurements (machine_id, timestamp, metrics) SELECT machine_id, timestamp, '{"rpm": 1}' FROM places;
INSERT INTO features (machine_id, timestamp, features) SELECT machine_id, timestamp, '{}' FROM places;
INSERT INTO predictions (machine_id, timestamp, risk_score, model_version, features_used)
  SELECT machine_id, timestamp, 0.5, 'v1', '{}' FROM places;
INSERT INTO esg_records (machine_id, timestamp, instant_co2eq_kg, cumulative_co2eq_kg, factors)
  SELECT machine_id, timestamp, 1, 2, '{}' FROM places;
INSERT INTO alerts (machine_id, timestamp, alert_type, severity, cause, title)
  SELECT machine_id, timestamp, 'ESG', 'LOW', 'x', 'x' FROM places;
"""


async def measure(service: ServiceClient, statements: list[str], query: str) -> list[int]:
    """The statements of a query that takes `$first` machines, for one of them and for all."""
    await service.ask(query, first=1)  # The connection asks for the types that it meets once.
    counts = []
    for first in (1, MANY):
        statements.clear()
        data = await service.ask(query, first=first)
        assert len(data["machines"]["nodes"]) == first
        counts.append(len(statements))
    return counts


def write_query(relation: str) -> str:
    """From machines to their rows, from those to their machine, and the same way twice more: a page and its count, groups
    and the newest prediction at each depth, no page asked for twice alike."""
    inner = f"machineId latestPrediction {{ riskScore }} {relation}Aggregate(first: 1) {{ count }}"
    for size in (4, 3, 2):
        groups = f"{relation}Aggregate(first: {size + 1}) {{ count max {{ timestamp }} }}"
        page = f"{relation}(first: {size}) {{ totalCount nodes {{ machineId machine {{ {inner} }} }} }}"
        inner = f"{groups} {page}"
    return f"query ($first: Int!) {{ machines(first: $first) {{ totalCount nodes {{ {inner} }} }} }}"


@pytest.mark.parametrize("relation", [to_camel_case(name) for name in MACHINES.relations])
async def test_three_depths_of_a_relation_take_as_many_statements_for_fifty_machines_as_for_one(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, relation: str
) -> None:
    await connection.execute(SEED)
    statements = count_statements(monkeypatch)
    async with run_service(database_url, AURUM_POOL_SIZE="1", AURUM_GRAPHQL_MAX_COST="100000000") as service:
        with resolve_everything():
            counts = await measure(service, statements, write_query(relation))
            data: Any = await service.ask(write_query(relation), first=MANY)
    # machines and their number; three pages, one number of their rows, one machine, four aggregates; one prediction
    assert counts == [12, 12], statements
    (rows,) = {len(node[relation]["nodes"]) for node in data["machines"]["nodes"]}
    assert rows == 2
    third = data["machines"]["nodes"][7][relation]["nodes"][0]["machine"][relation]["nodes"][1]["machine"]
    assert third[relation]["totalCount"] == 4
    assert [row["machine"]["machineId"] for row in third[relation]["nodes"]] == ["M08"] * 4


async def test_all_relations_side_by_side_take_a_statement_each(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute(SEED)
    fields = " ".join(f"{to_camel_case(name)}(first: 2) {{ nodes {{ timestamp }} }}" for name in MACHINES.relations)
    statements = count_statements(monkeypatch)
    async with run_service(database_url, AURUM_POOL_SIZE="1", AURUM_GRAPHQL_MAX_COST="100000000") as service:
        query = f"query ($first: Int!) {{ machines(first: $first) {{ nodes {{ {fields} }} }} }}"
        with resolve_everything():
            assert await measure(service, statements, query) == [6, 6], statements
        with answer_once():
            assert await measure(service, statements, query) == [1, 1], statements


@pytest.mark.parametrize("relation", [to_camel_case(name) for name in MACHINES.relations])
async def test_what_is_planned_takes_one_statement_at_any_depth(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, relation: str
) -> None:
    await connection.execute(SEED)
    inner = "machineId latestPrediction { riskScore }"
    for size in (4, 3, 2):
        inner = f"{relation}(first: {size}) {{ totalCount nodes {{ machineId machine {{ {inner} }} }} }}"
    query = f"query ($first: Int!) {{ machines(first: $first) {{ totalCount nodes {{ {inner} }} }} }}"
    statements = count_statements(monkeypatch)
    async with run_service(database_url, AURUM_POOL_SIZE="1", AURUM_GRAPHQL_MAX_COST="100000000") as service:
        with answer_once():
            assert await measure(service, statements, query) == [1, 1], statements


async def test_rows_are_counted_only_where_their_number_is_asked_for(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute(SEED)
    statements = count_statements(monkeypatch)
    async with run_service(database_url, AURUM_POOL_SIZE="1", AURUM_GRAPHQL_MAX_COST="100000000") as service:
        for total, counted in (("", 0), ("totalCount", 1)):
            statements.clear()
            with resolve_everything():
                await service.ask(f"{{ alerts(first: 1) {{ {total} nodes {{ alertId }} }} }}")
            of_alerts = [each for each in statements if "FROM alerts" in each]
            assert len(of_alerts) == 1 + counted
            assert len([each for each in of_alerts if "count(*)" in each]) == counted
