"""Any order over any rows, with nulls and ties, walked either way by any page size while rows come and go.

What is right is found by sorting all rows in Python.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cmp_to_key
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.alert import AlertState, AlertType, Severity
from app.database import probe_edition
from app.history.keyset import complete_order
from app.history.pages import PageRequest, find_page, write_page
from app.history.shapes import ALERTS, MEASUREMENTS, PREDICTIONS, Ordering, TableShape
from tests.client import ServiceClient

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Row: TypeAlias = dict[str, Any]

TRIES = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
START = datetime(2026, 1, 31, 12, tzinfo=UTC)

instants = st.integers(0, 2).map(lambda second: START + timedelta(microseconds=second))
numbers = st.sampled_from([0.0, 0.1, 0.5, 1.0])

ALERT_ROWS = st.fixed_dictionaries(
    {
        "machine_id": st.sampled_from("ab"),
        "timestamp": instants,
        "alert_type": st.sampled_from(AlertType).map(lambda choice: choice.value),
        "severity": st.sampled_from(Severity).map(lambda choice: choice.value),
        "cause": st.just("x"),
        "title": st.just("x"),
        "acknowledged_at": st.none() | instants,
        "acknowledged_by": st.none() | st.sampled_from(["", "ana", "ben"]),
        "cleared_at": st.none() | instants,
    }
)
PREDICTION_ROWS = st.fixed_dictionaries(
    {
        "machine_id": st.sampled_from("ab"),
        "timestamp": instants,
        "model_version": st.sampled_from(["v1", "v2"]),
        "risk_score": numbers,
        "confidence": st.none() | numbers,
        "maintenance_hours": st.none() | st.sampled_from([-math.inf, -1.5, 1e300, math.inf, math.nan]),
        "features_used": st.just("{}"),
    }
)
ALERT_FIELDS = ("machine_id", "timestamp", "alert_type", "severity", "state", "acknowledged_at", "acknowledged_by")
PREDICTION_FIELDS = ("machine_id", "timestamp", "risk_score", "confidence", "maintenance_hours")


def orders(*fields: str) -> st.SearchStrategy[tuple[Ordering, ...]]:
    terms = st.builds(Ordering, st.sampled_from(fields), st.booleans(), st.sampled_from([None, False, True]))
    return st.lists(terms, max_size=3).map(tuple)


@dataclass(frozen=True)
class Walk:
    """Which way rows are walked, by how many, and how many come and how many go between two pages."""

    size: int
    backwards: bool
    coming: int
    going: int


WALKS = st.builds(Walk, st.integers(1, 5), st.booleans(), st.integers(0, 2), st.integers(0, 1))


def rank(shape: TableShape, name: str, value: Any) -> Any:
    choices = shape.fields[name].choices
    if choices is not None:
        return [choice.value for choice in choices].index(value)
    # PostgreSQL has NaN above everything.
    return (math.isnan(value), 0.0 if math.isnan(value) else value) if isinstance(value, float) else value


def sort(shape: TableShape, rows: Sequence[Row], order: Sequence[Ordering]) -> list[Row]:
    def compare(one: Row, other: Row) -> int:
        for term in order:
            first, second = one[term.column], other[term.column]
            if first is None or second is None:
                nulls_first = term.descending if term.nulls_first is None else term.nulls_first
                if (first is None) != (second is None):
                    return -1 if (first is None) is nulls_first else 1
                continue
            ranks = rank(shape, term.column, first), rank(shape, term.column, second)
            if ranks[0] != ranks[1]:
                return -1 if (ranks[0] < ranks[1]) is not term.descending else 1
        return 0

    return sorted(rows, key=cmp_to_key(compare))


def place(shape: TableShape, rows: Sequence[Row], order: Sequence[Ordering], row: Row) -> int:
    """How many of the rows stand before this one, which may have gone."""
    others = [each for each in rows if identify(shape, each) != identify(shape, row)]
    return [identify(shape, each) for each in sort(shape, [*others, row], order)].index(identify(shape, row))


def identify(shape: TableShape, row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in shape.key)


async def insert(connection: Connection, shape: TableShape, row: Row) -> None:
    columns = ", ".join(row)
    values = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await connection.execute(
        f"INSERT INTO {shape.name} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING", *row.values()
    )


async def fetch_all(connection: Connection, shape: TableShape) -> list[Row]:
    return [dict(row) for row in await connection.fetch(f"SELECT {shape.select('r')} FROM {shape.name} AS r")]


async def check(
    connection: Connection, shape: TableShape, rows: list[Row], order: tuple[Ordering, ...], walk: Walk
) -> None:
    await connection.execute(
        f"DELETE FROM {shape.name}; INSERT INTO machines (machine_id, machine_type, location) "
        "VALUES ('a', 'x', 'x'), ('b', 'x', 'x') ON CONFLICT DO NOTHING"
    )
    later = rows[len(rows) // 2 :]
    for row in rows[: len(rows) // 2]:
        await insert(connection, shape, row)
    whole = complete_order(shape, order)
    last: tuple[str, Row] | None = None
    more = True
    while more:
        present = await fetch_all(connection, shape)
        expected = sort(shape, present, whole)
        if walk.backwards:
            request = PageRequest(order=order, last=walk.size, before=last and last[0])
            left = expected if last is None else expected[: place(shape, present, whole, last[1])]
            shown = left[-walk.size :]
        else:
            request = PageRequest(order=order, first=walk.size, after=last and last[0])
            there = last is not None and identify(shape, last[1]) in {identify(shape, row) for row in present}
            left = expected if last is None else expected[place(shape, present, whole, last[1]) + there :]
            shown = left[: walk.size]
        page = await find_page(connection, shape, request)
        assert [identify(shape, dict(row)) for row in page.rows] == [identify(shape, row) for row in shown], order
        more = page.has_previous if walk.backwards else page.has_next
        assert more is (len(left) > walk.size)
        if page.rows:
            end = 0 if walk.backwards else -1
            last = page.cursors[end], dict(page.rows[end])
            for row in later[: walk.coming]:
                await insert(connection, shape, row)
            later = later[walk.coming :]
            if walk.going:
                await delete(connection, shape, last[1])


async def delete(connection: Connection, shape: TableShape, row: Row) -> None:
    conditions = " AND ".join(f"{shape.express(name, 'r')} = ${n}" for n, name in enumerate(shape.key, 1))
    await connection.execute(f"DELETE FROM {shape.name} AS r WHERE {conditions}", *identify(shape, row))


@TRIES
@given(rows=st.lists(ALERT_ROWS, max_size=16), order=orders(*ALERT_FIELDS), walk=WALKS)
async def test_alerts_in_any_order_are_walked_as_they_are_sorted(
    connection: Connection, rows: list[Row], order: tuple[Ordering, ...], walk: Walk
) -> None:
    await check(connection, ALERTS, rows, order, walk)


@TRIES
@given(rows=st.lists(PREDICTION_ROWS, max_size=16), order=orders(*PREDICTION_FIELDS), walk=WALKS)
async def test_predictions_in_any_order_are_walked_as_they_are_sorted(
    connection: Connection, rows: list[Row], order: tuple[Ordering, ...], walk: Walk
) -> None:
    await check(connection, PREDICTIONS, rows, order, walk)


@pytest.mark.parametrize(
    ("term", "alerts"),
    [
        ("field: ACKNOWLEDGED_AT", "24135"),
        ("field: ACKNOWLEDGED_AT, nulls: LAST", "24135"),
        ("field: ACKNOWLEDGED_AT, nulls: FIRST", "13524"),
        ("field: ACKNOWLEDGED_AT, direction: DESC", "53142"),
        ("field: ACKNOWLEDGED_AT, direction: DESC, nulls: FIRST", "53142"),
        ("field: ACKNOWLEDGED_AT, direction: DESC, nulls: LAST", "42531"),
        ("field: ALERT_TYPE", "15234"),
        ("field: STATE, direction: DESC", "54321"),
        ("field: SEVERITY, nulls: FIRST", "14352"),
    ],
)
async def test_nulls_and_choices_stand_where_the_order_says(seeded: ServiceClient, term: str, alerts: str) -> None:
    for size in range(1, 6):
        for arguments, cursor, more in (
            (f"first: {size}, after", "endCursor", "hasNextPage"),
            (f"last: {size}, before", "startCursor", "hasPreviousPage"),
        ):
            query = f"""
                query ($cursor: String) {{
                  alerts(orderBy: [{{ {term} }}], {arguments}: $cursor) {{
                    nodes {{ alertId }} pageInfo {{ {cursor} {more} }}
                  }}
                }}
            """
            pages: list[str] = []
            info: dict[str, Any] = {cursor: None, more: True}
            while info[more]:
                page = (await seeded.ask(query, cursor=info[cursor]))["alerts"]
                info = page["pageInfo"]
                pages.append("".join(node["alertId"] for node in page["nodes"]))
            assert "".join(pages if cursor == "endCursor" else reversed(pages)) == alerts


async def test_a_cursor_belongs_to_where_its_order_has_nulls(seeded: ServiceClient) -> None:
    query = """
        query ($after: String, $nulls: Nulls) {
          alerts(first: 1, after: $after, orderBy: [{ field: CLEARED_AT, nulls: $nulls }]) { pageInfo { endCursor } }
        }
    """
    cursor = (await seeded.ask(query))["alerts"]["pageInfo"]["endCursor"]
    assert "errors" not in await seeded.post_graphql(query, after=cursor, nulls="LAST")
    error = await seeded.refuse(query, after=cursor, nulls="FIRST")
    assert error["message"] == "after is a cursor of another orderBy: start again without it."
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "after"}


@pytest.mark.parametrize(
    "order",
    [
        (Ordering("timestamp", descending=True),),
        (Ordering("timestamp", descending=True), Ordering("created_at")),
        (Ordering("timestamp"), Ordering("created_at", descending=True)),
    ],
)
async def test_a_page_behind_a_cursor_opens_no_chunk_before_it(
    connection: Connection, order: tuple[Ordering, ...]
) -> None:
    edition = await probe_edition(connection, timescale="auto")
    if not edition.has_hypertables:
        pytest.skip("the server has no TimescaleDB")
    await connection.execute(
        """
        SET plan_cache_mode = 'force_custom_plan';
        INSERT INTO machines (machine_id, machine_type, location) VALUES ('a', 'x', 'x');
        INSERT INTO raw_measurements (machine_id, timestamp, metrics)
          SELECT 'a', '2026-01-01T12:00:00Z'::timestamptz + n * interval '1 day', '{}' FROM generate_series(1, 20) AS n
        """
    )
    seventh = (await find_page(connection, MEASUREMENTS, PageRequest(order=order, first=7))).cursors[-1]
    statement, arguments = write_page(MEASUREMENTS, PageRequest(order=order, after=seventh), row="r").number()
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *arguments))
    # The cursor's own, and those of the 13 days behind it.
    assert len(set(re.findall(r" on (_hyper_\w+_chunk)", plan))) == 14, plan


def test_states_are_named_in_the_order_of_an_alert_s_life() -> None:
    assert [state.value for state in AlertState] == [
        "ACTIVE_UNACKNOWLEDGED",
        "ACTIVE_ACKNOWLEDGED",
        "CLEARED_UNACKNOWLEDGED",
        "RESOLVED",
    ]
