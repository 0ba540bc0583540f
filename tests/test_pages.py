"""Pages of a table on a real database: every row once, in order, whatever comes and goes meanwhile."""

from __future__ import annotations

import base64
import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
import pytest

from app.errors import InvalidInput
from app.history.clauses import Clause
from app.history.fields import Field, Kind
from app.history.pages import Page, PageRequest, count_rows, count_rows_by_machine, find_page, find_pages
from app.history.shapes import MACHINES, MEASUREMENTS, Ordering, TableShape
from tests.client import ServiceClient
from tests.conftest import run_service

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Order: TypeAlias = tuple[Ordering, ...]

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
NEWEST = (Ordering("timestamp", descending=True),)


async def add_machines(connection: Connection, *machine_ids: str) -> None:
    await connection.executemany(
        "INSERT INTO machines (machine_id, machine_type, location) VALUES ($1, 'press', 'Hall 2')",
        [(machine_id,) for machine_id in machine_ids],
    )


async def add_readings(connection: Connection, machine_id: str, *seconds: float) -> None:
    await connection.executemany(
        """INSERT INTO raw_measurements (machine_id, timestamp, metrics) VALUES ($1, $2, '{"rpm": 1}')""",
        [(machine_id, START + timedelta(seconds=second)) for second in seconds],
    )


async def fill(connection: Connection) -> None:
    """12 machines with many ties, some with microseconds between them; 4 of them with 21 readings, ties too."""
    await connection.executemany(
        "INSERT INTO machines (machine_id, machine_type, location, operational, created_at, updated_at) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        [
            (
                machine_id,
                ("press", "Lathe", "lathe")[place % 3],
                ("Hall 2", "Hall 10", "", "hall 2")[place % 4],
                place % 2 == 0,
                START + timedelta(microseconds=place // 4),
                START - timedelta(days=place % 5),
            )
            for place, machine_id in enumerate(["a", "B", "b", "C", "d", "E1", "e2", "e-3", "e_4", "F", "f:1", "g.2"])
        ],
    )
    for place, machine_id in enumerate(["a", "B", "e-3", "g.2"]):
        await add_readings(connection, machine_id, *range(5), *([10 + place] * (place % 2)))
    await connection.execute(
        "UPDATE raw_measurements SET created_at = timestamp - interval '1 day' WHERE machine_id < 'c'"
    )


def directions(*columns: str) -> list[Order]:
    """Every mix of directions of these columns."""
    return [
        tuple(Ordering(column, descending) for column, descending in zip(columns, mix, strict=True))
        for mix in itertools.product([False, True], repeat=len(columns))
    ]


MACHINE_ORDERS: list[Order] = [
    (),
    *directions("machine_id"),
    *directions("machine_type"),
    *directions("operational", "location"),
    *directions("created_at", "machine_id"),
    *directions("machine_type", "updated_at", "location"),
    (Ordering("location"), Ordering("location", descending=True)),
]
MEASUREMENT_ORDERS: list[Order] = [
    (),
    *directions("timestamp"),
    *directions("machine_id"),
    *directions("machine_id", "timestamp"),
    *directions("timestamp", "machine_id"),
    *directions("created_at", "machine_id", "timestamp"),
]
SHAPES = [(MACHINES, MACHINE_ORDERS), (MEASUREMENTS, MEASUREMENT_ORDERS)]


async def select(connection: Connection, shape: TableShape, order: Order) -> list[asyncpg.Record]:
    """All rows by plain SQL. The first word on a column counts, and the key goes on as the last term goes."""
    terms = [f"{term.column} {'DESC' if term.descending else 'ASC'}" for term in order]
    ends = "ASC"
    for place, term in enumerate(order):
        if term.column not in [earlier.column for earlier in order[:place]]:
            ends = "DESC" if term.descending else "ASC"
    terms += [f"{column} {ends}" for column in shape.key if column not in [term.column for term in order]]
    return await connection.fetch(f"SELECT {', '.join(shape.fields)} FROM {shape.name} ORDER BY {', '.join(terms)}")


async def walk(connection: Connection, shape: TableShape, order: Order, size: int) -> list[list[asyncpg.Record]]:
    """The pages, from the first row on."""
    pages: list[list[asyncpg.Record]] = []
    cursor: str | None = None
    while True:
        page = await find_page(connection, shape, PageRequest(order=order, first=size, after=cursor))
        assert page.has_previous is (cursor is not None)
        pages.append(page.rows)
        if not page.has_next:
            return pages
        cursor = page.cursors[-1]


async def walk_back(connection: Connection, shape: TableShape, order: Order, size: int) -> list[list[asyncpg.Record]]:
    """The pages, from the last row back, in the order of the table."""
    pages: list[list[asyncpg.Record]] = []
    cursor: str | None = None
    while True:
        page = await find_page(connection, shape, PageRequest(order=order, last=size, before=cursor))
        assert page.has_next is (cursor is not None)
        pages.insert(0, page.rows)
        if not page.has_previous:
            return pages
        cursor = page.cursors[0]


def lengths(pages: list[list[asyncpg.Record]]) -> list[int]:
    return [len(rows) for rows in pages]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_every_order_shows_every_row_once_forwards_and_backwards(connection: Connection, size: int) -> None:
    await fill(connection)
    for shape, orders in SHAPES:
        for order in orders:
            expected = await select(connection, shape, order)
            whole, rest = divmod(len(expected), size)
            assert len(expected) == {"machines": 12, "raw_measurements": 22}[shape.name]
            forwards = await walk(connection, shape, order, size)
            assert list(itertools.chain(*forwards)) == expected, order
            assert lengths(forwards) == [size] * whole + [rest] * (rest > 0)
            backwards = await walk_back(connection, shape, order, size)
            assert list(itertools.chain(*backwards)) == expected, order
            assert lengths(backwards) == [rest] * (rest > 0) + [size] * whole


def read_seconds(page: Page) -> list[tuple[str, float]]:
    return [(row["machine_id"], (row["timestamp"] - START).total_seconds()) for row in page.rows]


async def test_rows_that_come_and_go_between_pages_are_neither_repeated_nor_skipped(connection: Connection) -> None:
    await add_machines(connection, "A", "B")
    await add_readings(connection, "A", *range(0, 100, 10))
    first = await find_page(connection, MEASUREMENTS, PageRequest(order=NEWEST, first=4))
    assert read_seconds(first) == [("A", 90.0), ("A", 80.0), ("A", 70.0), ("A", 60.0)]
    # Before the cursor, at its very instant on both sides of it, after it; and the row of the cursor goes.
    await add_readings(connection, "A", 200, 65, 55)
    await add_readings(connection, "B", 60)
    await connection.execute("DELETE FROM raw_measurements WHERE timestamp = ANY($1)", [START + timedelta(seconds=50)])
    await connection.execute(
        "DELETE FROM raw_measurements WHERE timestamp = $1 AND machine_id = 'A'", START + timedelta(seconds=60)
    )
    second = await find_page(connection, MEASUREMENTS, PageRequest(order=NEWEST, first=3, after=first.cursors[-1]))
    assert read_seconds(second) == [("A", 55.0), ("A", 40.0), ("A", 30.0)]
    back = await find_page(connection, MEASUREMENTS, PageRequest(order=NEWEST, last=3, before=second.cursors[0]))
    assert read_seconds(back) == [("A", 70.0), ("A", 65.0), ("B", 60.0)]
    assert (back.has_previous, back.has_next) == (True, True)


async def test_a_walk_through_a_table_that_changes_sees_what_stayed_exactly_once(connection: Connection) -> None:
    chance = random.Random(7)
    await add_machines(connection, "A")
    await add_readings(connection, "A", *range(0, 400, 2))
    kept = {second for second in range(0, 400, 2) if second % 10 == 0}
    seen: list[float] = []
    cursor: str | None = None
    while True:
        page = await find_page(connection, MEASUREMENTS, PageRequest(order=NEWEST, first=7, after=cursor))
        seen.extend(second for _, second in read_seconds(page))
        if not page.has_next:
            break
        cursor = page.cursors[-1]
        gone = [START + timedelta(seconds=second) for second in chance.sample(range(400), 20) if second not in kept]
        await connection.execute("DELETE FROM raw_measurements WHERE timestamp = ANY($1)", gone)
        await add_readings(connection, "A", chance.randrange(1000, 1_000_000), 398 - len(seen) + 0.5)
    assert len(seen) == len(set(seen)) > 40
    assert seen == sorted(seen, reverse=True)
    assert kept <= set(seen)


@pytest.mark.parametrize(
    ("request_", "seconds", "has_next", "has_previous"),
    [
        ({"first": 0}, [], True, False),
        ({"first": 1}, [0], True, False),
        ({"first": 4}, [0, 1, 2, 3], True, False),
        ({"first": 5}, [0, 1, 2, 3, 4], False, False),
        ({"first": 6}, [0, 1, 2, 3, 4], False, False),
        ({"first": 10_000}, [0, 1, 2, 3, 4], False, False),
        ({}, [0, 1, 2, 3, 4], False, False),
        ({"last": 0}, [], False, True),
        ({"last": 1}, [4], False, True),
        ({"last": 5}, [0, 1, 2, 3, 4], False, False),
        ({"first": 2, "after": 2}, [3, 4], False, True),
        ({"first": 1, "after": 2}, [3], True, True),
        ({"first": 0, "after": 4}, [], False, True),
        ({"first": 1, "after": 4}, [], False, True),
        ({"last": 2, "before": 2}, [0, 1], True, False),
        ({"last": 1, "before": 2}, [1], True, True),
        ({"last": 1, "before": 0}, [], True, False),
        ({"first": 9, "after": 0, "before": 4}, [1, 2, 3], False, True),
        ({"first": 2, "after": 0, "before": 4}, [1, 2], True, True),
        ({"last": 2, "after": 0, "before": 4}, [2, 3], True, True),
        ({"first": 9, "after": 3, "before": 2}, [], False, True),
    ],
)
async def test_a_page_says_whether_there_is_more_on_either_side(
    connection: Connection, request_: dict[str, int], seconds: list[float], has_next: bool, has_previous: bool
) -> None:
    await add_machines(connection, "A")
    await add_readings(connection, "A", *range(5))
    order = (Ordering("timestamp"),)
    every = await find_page(connection, MEASUREMENTS, PageRequest(order=order))
    arguments: dict[str, Any] = {
        name: every.cursors[value] if name in {"after", "before"} else value for name, value in request_.items()
    }
    page = await find_page(connection, MEASUREMENTS, PageRequest(order=order, **arguments))
    assert [second for _, second in read_seconds(page)] == seconds
    assert (page.has_next, page.has_previous) == (has_next, has_previous)
    assert page.cursors == [every.cursors[int(second)] for second in seconds]


async def test_an_empty_table_is_one_empty_page(connection: Connection) -> None:
    for request in (PageRequest(first=3), PageRequest(last=3), PageRequest(first=0), PageRequest()):
        assert await find_page(connection, MACHINES, request) == Page([], [], False, False)


async def test_without_a_size_a_page_has_a_hundred_rows(connection: Connection) -> None:
    await add_machines(connection, "A")
    await add_readings(connection, "A", *range(101))
    page = await find_page(connection, MEASUREMENTS, PageRequest(order=NEWEST))
    assert (len(page.rows), page.has_next) == (100, True)


@pytest.mark.parametrize(
    ("request_", "message", "field"),
    [
        (PageRequest(first=-1), "first must be from 0 to 10,000 (AURUM_MAX_PAGE_ROWS).", "first"),
        (PageRequest(first=10_001), "first must be from 0 to 10,000 (AURUM_MAX_PAGE_ROWS).", "first"),
        (PageRequest(last=-1), "last must be from 0 to 10,000 (AURUM_MAX_PAGE_ROWS).", "last"),
        (PageRequest(last=10_001), "last must be from 0 to 10,000 (AURUM_MAX_PAGE_ROWS).", "last"),
        (PageRequest(first=1, last=1), "Ask for first or for last, not for both.", "last"),
    ],
)
async def test_a_size_that_cannot_be_is_refused_by_name(
    connection: Connection, request_: PageRequest, message: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await find_page(connection, MACHINES, request_)
    assert (str(caught.value), caught.value.field) == (message, field)


def write_cursor(signature: object, values: object) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([signature, values])).decode()


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode()


NOT_OURS = "is not a cursor of this connection: take it from pageInfo or an edge."
OTHER_ORDER = "is a cursor of another orderBy: start again without it."
SIGNATURE = ["-timestamp", "-machine_id"]
INSTANT = "2026-01-31T12:00:00Z"

TAMPERED = [
    ("", NOT_OURS),
    ("?", NOT_OURS),
    ("ü", NOT_OURS),
    ("\ud800", NOT_OURS),
    ("\0", NOT_OURS),
    ("A" * 1_000_001, NOT_OURS),
    (encode(b"\xff\xfe"), NOT_OURS),
    (encode(b"null"), NOT_OURS),
    (encode(b"[[]]"), NOT_OURS),
    (encode(b"[" * 100_000), NOT_OURS),
    (encode(b'[["-timestamp","-machine_id"],[' + b"[" * 100_000), NOT_OURS),
    (encode(rb'[["-timestamp","-machine_id"],["2026-01-31T12:00:00Z","\ud800"]]'), NOT_OURS),
    (encode(b'[["-timestamp","-machine_id"],["2026-01-31T12:00:00Z","\xed\xa0\x80"]]'), NOT_OURS),
    (encode(b'[["-timestamp","-machine_id"],[' + b"9" * 10_000 + b',"A"]]'), NOT_OURS),
    (write_cursor(SIGNATURE, []), NOT_OURS),
    (write_cursor(SIGNATURE, [INSTANT]), NOT_OURS),
    (write_cursor(SIGNATURE, [INSTANT, "A", "A"]), NOT_OURS),
    (write_cursor(SIGNATURE, [INSTANT, 1]), NOT_OURS),
    (write_cursor(SIGNATURE, [INSTANT, None]), NOT_OURS),
    (write_cursor(SIGNATURE, [INSTANT, "A\0"]), NOT_OURS),
    (write_cursor(SIGNATURE, [None, "A"]), NOT_OURS),
    (write_cursor(SIGNATURE, [0, "A"]), NOT_OURS),
    (write_cursor(SIGNATURE, ["now", "A"]), NOT_OURS),
    (write_cursor(SIGNATURE, ["2026-01-31T12:00:00", "A"]), NOT_OURS),
    (write_cursor(SIGNATURE, ["0001-01-01T00:00:00+14:00", "A"]), NOT_OURS),
    (write_cursor(SIGNATURE, ["9999-12-31T23:59:59-14:00", "A"]), NOT_OURS),
    (write_cursor(["-timestamp"], [INSTANT]), OTHER_ORDER),
    (write_cursor(["+timestamp", "-machine_id"], [INSTANT, "A"]), OTHER_ORDER),
    (write_cursor(["-machine_id", "-timestamp"], ["A", INSTANT]), OTHER_ORDER),
    (write_cursor(["+machine_id"], ["A"]), OTHER_ORDER),
]


async def refuse(connection: Connection, order: Order, cursor: str, name: str) -> str:
    """The refusal of a cursor, which must name its argument."""
    with pytest.raises(InvalidInput) as caught:
        await find_page(connection, MEASUREMENTS, PageRequest(order=order, **{name: cursor}))  # type: ignore[arg-type]  # after or before, as the case says
    assert caught.value.field == name
    return str(caught.value)


@pytest.mark.parametrize("name", ["after", "before"])
async def test_a_cursor_that_is_not_ours_is_refused_by_name(connection: Connection, name: str) -> None:
    for cursor, reason in TAMPERED:
        assert await refuse(connection, NEWEST, cursor, name) == f"{name} {reason}", cursor[:200]


async def test_a_cursor_of_another_order_is_refused(connection: Connection) -> None:
    await fill(connection)
    for shape, orders in SHAPES:
        cursors = {
            order: (await find_page(connection, shape, PageRequest(order=order, first=1))).cursors[0]
            for order in orders
        }
        for order in orders:
            same = {other for other, cursor in cursors.items() if cursor == cursors[order]}
            for other in orders:
                request_ = PageRequest(order=order, first=1, after=cursors[other])
                if other in same:
                    assert len((await find_page(connection, shape, request_)).rows) == 1
                    continue
                with pytest.raises(InvalidInput) as caught:
                    await find_page(connection, shape, request_)
                assert str(caught.value) == f"after {OTHER_ORDER}"


async def test_a_cursor_with_bytes_changed_is_taken_for_a_place_or_refused(connection: Connection) -> None:
    await add_machines(connection, "A")
    await add_readings(connection, "A", *range(5))
    chance = random.Random(13)
    cursor = (await find_page(connection, MEASUREMENTS, PageRequest(order=NEWEST))).cursors[2]
    outcomes: Counter[str] = Counter()
    for _ in range(600):
        content = bytearray(base64.urlsafe_b64decode(cursor))
        for _ in range(chance.randint(1, 2)):
            content[chance.randrange(len(content))] = chance.choice(b'0123456789-+:.TZA"[],\\\0\xff')
        request = PageRequest(order=NEWEST, after=encode(bytes(content)))
        try:
            page = await find_page(connection, MEASUREMENTS, request)
        except InvalidInput as error:
            outcomes[str(error.field)] += 1
        else:
            outcomes["page" if len(page.rows) <= 5 and not page.has_next else "odd page"] += 1
    assert set(outcomes) == {"page", "after"}
    assert min(outcomes.values()) > 20, outcomes


def show(page: Page) -> tuple[object, ...]:
    """A page without the column that says whose it is."""
    rows = [{name: row[name] for name in MEASUREMENTS.fields} for row in page.rows]
    return rows, page.cursors, page.has_next, page.has_previous


async def test_pages_of_several_machines_are_the_pages_of_each(connection: Connection) -> None:
    await fill(connection)
    machine_ids = ["g.2", "B", "nobody", "e-3", "a", "d"]
    sizes = [PageRequest(first=2), PageRequest(last=2), PageRequest(first=0), PageRequest(first=9)]
    for order, size in itertools.product(MEASUREMENT_ORDERS, sizes):
        together = await find_pages(connection, MEASUREMENTS, replace(size, order=order), machine_ids)
        for machine_id, page in zip(machine_ids, together, strict=True):
            own = Clause("machine_id = $$::text", (machine_id,))
            alone = await find_page(connection, MEASUREMENTS, replace(size, order=order, where=own))
            assert show(page) == show(alone)
    assert [len(page.rows) for page in together] == [6, 6, 0, 5, 5, 0]


async def test_pages_of_several_machines_go_on_from_a_cursor_with_a_condition(connection: Connection) -> None:
    await fill(connection)
    where = Clause.all_of(
        [
            Clause("timestamp >= $$::timestamptz", (START + timedelta(seconds=1),)),
            Clause("timestamp < $$::timestamptz", (START + timedelta(seconds=4),)),
        ]
    )
    order = (Ordering("timestamp"),)
    for machine_id in ("a", "B"):
        first = (await find_pages(connection, MEASUREMENTS, PageRequest(where, order, first=1), [machine_id]))[0]
        rest = (
            await find_pages(
                connection, MEASUREMENTS, PageRequest(where, order, first=5, after=first.cursors[0]), [machine_id]
            )
        )[0]
        assert read_seconds(first) + read_seconds(rest) == [(machine_id, 1.0), (machine_id, 2.0), (machine_id, 3.0)]
        assert (first.has_next, rest.has_next) == (True, False)


async def test_a_machine_asked_for_twice_has_the_same_page_twice(connection: Connection) -> None:
    await fill(connection)
    one, other, again = await find_pages(connection, MEASUREMENTS, PageRequest(order=NEWEST, first=3), ["a", "B", "a"])
    assert one == again
    assert read_seconds(one) == [("a", 4.0), ("a", 3.0), ("a", 2.0)]
    assert read_seconds(other) == [("B", 11.0), ("B", 4.0), ("B", 3.0)]
    assert await find_pages(connection, MEASUREMENTS, PageRequest(), []) == []


def above(second: int) -> Clause:
    return Clause("timestamp > $$::timestamptz", (START + timedelta(seconds=second),))


@pytest.mark.parametrize(
    ("where", "total", "by_machine"),
    [
        (Clause.all_of([]), 22, [6, 0, 5, 5]),
        (above(2), 10, [3, 0, 2, 2]),
        (above(100), 0, [0, 0, 0, 0]),
        (Clause.any_of([]), 0, [0, 0, 0, 0]),
        (above(2).negate(), 12, [3, 0, 3, 3]),
        (Clause.any_of([above(9), Clause("machine_id = $$::text", ("a",))]), 7, [1, 0, 5, 0]),
    ],
)
async def test_rows_are_counted_over_all_pages(
    connection: Connection, where: Clause, total: int, by_machine: Sequence[int]
) -> None:
    await fill(connection)
    assert await count_rows(connection, MEASUREMENTS, where) == total
    assert await count_rows_by_machine(connection, MEASUREMENTS, where, ["B", "nobody", "a", "e-3"]) == by_machine
    assert len((await find_page(connection, MEASUREMENTS, PageRequest(where=where))).rows) == total


@pytest.mark.parametrize(
    ("kind", "value", "restored"),
    [
        (Kind.TEXT, "größe", "größe"),
        (Kind.TEXT_ID, "", ""),
        (Kind.NUMBER_ID, 2**63 - 1, 2**63 - 1),
        (Kind.UUID_ID, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")),
        (Kind.BOOLEAN, False, False),
        (Kind.INSTANT, "2026-01-31T13:00:00.000001+01:00", START + timedelta(microseconds=1)),
        (Kind.FLOAT, 0.1, 0.1),
        (Kind.FLOAT, 1, 1.0),
        (Kind.FLOAT, "-inf", -math.inf),
    ],
)
def test_a_value_of_a_cursor_is_restored_exactly(kind: Kind, value: object, restored: object) -> None:
    assert Field(kind).restore(value) == restored
    assert Field(kind, nullable=True).restore(None) is None


async def test_how_many_rows_a_page_may_have_is_set(database_url: str) -> None:
    async with run_service(database_url, AURUM_MAX_PAGE_ROWS="2") as service:
        await service.register("A", "B", "C")
        page = (await service.ask("{ machines { nodes { machineId } pageInfo { hasNextPage } } }"))["machines"]
        assert page == {"nodes": [{"machineId": "A"}, {"machineId": "B"}], "pageInfo": {"hasNextPage": True}}
        groups = await service.ask("{ machinesAggregate(groupBy: { columns: [MACHINE_TYPE] }) { count } }")
        assert groups == {"machinesAggregate": [{"count": 3.0}]}
        for query, field, message in (
            ("machines(first: 3) { totalCount }", "first", "first must be from 0 to 2 (AURUM_MAX_PAGE_ROWS)."),
            ("machines(last: 3) { totalCount }", "last", "last must be from 0 to 2 (AURUM_MAX_PAGE_ROWS)."),
            (
                "machinesAggregate(groupBy: { columns: [MACHINE_ID] }) { count }",
                "groupBy",
                "groupBy makes more than 2 groups (AURUM_MAX_PAGE_ROWS): choose fewer columns or a longer bucket, "
                "or ask for the first of them.",
            ),
        ):
            error = await service.refuse(f"{{ {query} }}")
            assert (error["extensions"]["field"], error["message"]) == (field, message)


async def test_a_count_beyond_an_int_is_refused_with_where_to_find_it(
    seeded: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two thousand million rows are too many for a test: the bound comes down to the three machines instead.
    for module in ("connections", "statement"):
        monkeypatch.setattr(f"app.graphql.{module}.MOST_COUNTED", 2)
    message = (
        "totalCount is 3, and an Int holds 2 at most: the aggregate beside this connection has it as `count`, a Float."
    )
    for query, path in (
        ("{ machines { totalCount } }", ["machines", "totalCount"]),
        ('{ machine(machineId: "A") { predictions { totalCount } } }', ["machine", "predictions", "totalCount"]),
    ):
        error = await seeded.refuse(query)
        assert (error["message"], error["path"]) == (message, path)
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "totalCount"}
    assert await seeded.ask("{ machinesAggregate { count } }") == {"machinesAggregate": [{"count": 3.0}]}
    assert await seeded.ask('{ machines(where: { machineId: { in: ["A", "B"] } }) { totalCount } }') == {
        "machines": {"totalCount": 2}
    }
