"""Groups and their figures, as a client asks for them: by columns, by buckets in any time zone, of every machine."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from app.history.aggregates import AggregateRequest, find_groups
from app.history.buckets import Bucket
from app.history.shapes import ALERTS, MEASUREMENTS
from tests.client import ServiceClient

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def test_all_rows_are_one_group_where_nothing_is_grouped_by(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{
          machinesAggregate { count key { machineType bucket } }
          alertsAggregate { count min { timestamp severity acknowledgedAt } max { severity resolvedAt shelvedUntil } }
          predictionsAggregate {
            count min { riskScore maintenanceHours } max { riskScore timestamp } avg { riskScore confidence } sum { failureProbability }
          }
          esgRecordsAggregate { count sum { instantCo2eqKg fuelRateLh } avg { fuelRateLh } max { cumulativeCo2eqKg } }
          featuresAggregate { count max { timestamp } }
          measurementsAggregate { count max { timestamp } metrics(names: ["rpm"]) { name count min max avg sum } }
        }"""
    )
    assert data == {
        "machinesAggregate": [{"count": 3.0, "key": {"machineType": None, "bucket": None}}],
        "alertsAggregate": [
            {
                "count": 5.0,
                "min": {
                    "timestamp": "2026-01-01T00:00:00.000000Z",
                    "severity": "LOW",
                    "acknowledgedAt": "2026-01-02T01:00:00.000000Z",
                },
                "max": {
                    "severity": "CRITICAL",
                    "resolvedAt": "2026-01-05T01:00:00.000000Z",
                    "shelvedUntil": "2026-01-03T00:00:00.000000Z",
                },
            }
        ],
        "predictionsAggregate": [
            {
                "count": 4.0,
                "min": {"riskScore": 0.0, "maintenanceHours": 0.0},
                "max": {"riskScore": 1.0, "timestamp": "2026-01-03T00:00:00.000000Z"},
                "avg": {"riskScore": 0.4375, "confidence": 1.75 / 3},
                "sum": {"failureProbability": 1.5},
            }
        ],
        "esgRecordsAggregate": [
            {
                "count": 2.0,
                "sum": {"instantCo2eqKg": 0.375, "fuelRateLh": 4.5},
                "avg": {"fuelRateLh": 4.5},
                "max": {"cumulativeCo2eqKg": 10.25},
            }
        ],
        "featuresAggregate": [{"count": 2.0, "max": {"timestamp": "2026-01-02T00:00:00.000000Z"}}],
        "measurementsAggregate": [
            {
                "count": 0.0,
                "max": {"timestamp": None},
                "metrics": [{"name": "rpm", "count": 0.0, "min": None, "max": None, "avg": None, "sum": None}],
            }
        ],
    }


async def test_groups_stand_in_the_order_of_their_keys(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{
          bySeverity: alertsAggregate(groupBy: { columns: [SEVERITY] }) { key { severity machineId } count }
          byPerson: alertsAggregate(groupBy: { columns: [ACKNOWLEDGED_BY, MACHINE_ID] }) {
            key { acknowledgedBy machineId } count max { severity }
          }
          open: alertsAggregate(where: { not: { state: { eq: RESOLVED } } }, groupBy: { columns: [STATE] }, first: 2) {
            key { state } count
          }
          none: alertsAggregate(where: { cause: { eq: "x" } }, groupBy: { columns: [STATE] }) { count }
        }"""
    )
    assert [(each["key"]["severity"], each["count"]) for each in data["bySeverity"]] == [
        ("LOW", 1.0),
        ("MEDIUM", 1.0),
        ("HIGH", 2.0),
        ("CRITICAL", 1.0),
    ]
    assert {each["key"]["machineId"] for each in data["bySeverity"]} == {None}
    assert data["byPerson"] == [
        {"key": {"acknowledgedBy": "ana", "machineId": "A"}, "count": 2.0, "max": {"severity": "CRITICAL"}},
        {"key": {"acknowledgedBy": None, "machineId": "A"}, "count": 2.0, "max": {"severity": "HIGH"}},
        {"key": {"acknowledgedBy": None, "machineId": "B"}, "count": 1.0, "max": {"severity": "HIGH"}},
    ]
    assert data["open"] == [
        {"key": {"state": "ACTIVE_UNACKNOWLEDGED"}, "count": 1.0},
        {"key": {"state": "ACTIVE_ACKNOWLEDGED"}, "count": 1.0},
    ]
    assert data["none"] == []


async def test_each_machine_has_groups_of_its_own(seeded: ServiceClient) -> None:
    data = await seeded.ask(
        """{ machines { nodes {
            machineId
            predictionsAggregate { ...figures }
            alertsAggregate(groupBy: { columns: [STATE] }, first: 2) { ... { key { state } } count }
        } } }
        fragment figures on PredictionGroup { count max { ... on PredictionExtremes { riskScore } } avg { riskScore } }"""
    )
    assert data["machines"]["nodes"] == [
        {
            "machineId": "A",
            "predictionsAggregate": [{"count": 3.0, "max": {"riskScore": 1.0}, "avg": {"riskScore": 1.75 / 3}}],
            "alertsAggregate": [
                {"key": {"state": "ACTIVE_UNACKNOWLEDGED"}, "count": 1.0},
                {"key": {"state": "ACTIVE_ACKNOWLEDGED"}, "count": 1.0},
            ],
        },
        {
            "machineId": "B",
            "predictionsAggregate": [{"count": 1.0, "max": {"riskScore": 0.0}, "avg": {"riskScore": 0.0}}],
            "alertsAggregate": [{"key": {"state": "RESOLVED"}, "count": 1.0}],
        },
        {
            "machineId": "C",
            "predictionsAggregate": [{"count": 0.0, "max": {"riskScore": None}, "avg": {"riskScore": None}}],
            "alertsAggregate": [],
        },
    ]


async def test_metrics_are_summed_up_by_name(service: ServiceClient) -> None:
    await service.register("A", "B")
    await service.ingest(
        [
            {"machine_id": name, "timestamp": second * 1000, "metrics": metrics}
            for name in "AB"
            for second, metrics in enumerate(({"rpm": 1, "bar": 0.5}, {"rpm": 2.5}, {"bar": 1.25}, {"x": 1}))
        ]
    )
    query = """
        query ($names: [String!]!) {
          measurementsAggregate(groupBy: { columns: [MACHINE_ID] }, where: { machineId: { eq: "A" } }) {
            key { machineId } count
            metrics(names: $names) { name count min max avg sum }
            one: metrics(names: "rpm") { sum }
          }
        }
    """
    (group,) = (await service.ask(query, names=["bar", "nope", "bar"]))["measurementsAggregate"]
    bar = {"name": "bar", "count": 2.0, "min": 0.5, "max": 1.25, "avg": 0.875, "sum": 1.75}
    nope = {"name": "nope", "count": 0.0, "min": None, "max": None, "avg": None, "sum": None}
    assert group == {"key": {"machineId": "A"}, "count": 4.0, "metrics": [bar, nope, bar], "one": [{"sum": 3.5}]}
    many = await service.refuse(query, names=[str(number) for number in range(101)])
    assert many["extensions"] == {"code": "BAD_USER_INPUT", "field": "names"}
    await service.ingest([{"machine_id": "A", "timestamp": 5000 + n, "metrics": {"huge": 1.7e308}} for n in range(2)])
    beyond = await service.refuse(query, names=["huge"])
    assert beyond["extensions"] == {"code": "BAD_USER_INPUT", "field": "groupBy"}


async def fill(connection: Connection, start: datetime, end: datetime, step: timedelta) -> None:
    """A reading at every step from the start until before the end."""
    await connection.execute(
        """
        INSERT INTO machines (machine_id, machine_type, location) VALUES ('A', 'press', 'x') ON CONFLICT DO NOTHING
        """
    )
    await connection.execute(
        """
        INSERT INTO raw_measurements (machine_id, timestamp, metrics)
        SELECT 'A', instant, '{}' FROM generate_series($1::timestamptz, $2::timestamptz - interval '1 microsecond', $3::interval) AS instant
        """,
        start,
        end,
        step,
    )


async def group(service: ServiceClient, width: str, time_zone: str, **extra: Any) -> list[tuple[str, float]]:
    query = """
        query ($width: Duration!, $timeZone: String!, $first: Int) {
          measurementsAggregate(
            groupBy: { bucket: { field: TIMESTAMP, width: $width, timeZone: $timeZone } }, first: $first
          ) { key { bucket } count }
        }
    """
    groups = (await service.ask(query, width=width, timeZone=time_zone, **extra))["measurementsAggregate"]
    return [(each["key"]["bucket"].replace(":00.000000Z", "Z"), each["count"]) for each in groups]


@pytest.mark.parametrize(
    ("time_zone", "start", "days", "width", "buckets"),
    [
        (
            "Europe/Berlin",
            "2026-03-27T23:00Z",
            3,
            "P1D",
            [
                ("2026-03-27T23:00Z", 48.0),
                ("2026-03-28T23:00Z", 46.0),
                ("2026-03-29T22:00Z", 48.0),
                ("2026-03-30T22:00Z", 2.0),
            ],
        ),
        (
            "Europe/Berlin",
            "2026-10-23T22:00Z",
            3,
            "PT24H",
            [("2026-10-23T22:00Z", 48.0), ("2026-10-24T22:00Z", 50.0), ("2026-10-25T23:00Z", 46.0)],
        ),
        # Weeks begin on Mondays of the zone; the one in which the clocks change has 167 hours.
        (
            "Europe/Berlin",
            "2026-03-22T23:00Z",
            7,
            "P7D",
            [("2026-03-22T23:00Z", 334.0), ("2026-03-29T22:00Z", 2.0)],
        ),
        # Twelve hours are twelve hours, whatever the clocks do.
        (
            "Europe/Berlin",
            "2026-03-28T11:00Z",
            1.5,
            "PT12H",
            [("2026-03-28T11:00Z", 24.0), ("2026-03-28T23:00Z", 24.0), ("2026-03-29T11:00Z", 24.0)],
        ),
        (
            "Asia/Kolkata",
            "2026-01-01T00:00Z",
            1,
            "P1D",
            [("2025-12-31T18:30Z", 37.0), ("2026-01-01T18:30Z", 11.0)],
        ),
        (
            "Asia/Kolkata",
            "2026-01-01T00:00Z",
            0.125,
            "PT1H",
            [
                ("2025-12-31T23:30Z", 1.0),
                ("2026-01-01T00:30Z", 2.0),
                ("2026-01-01T01:30Z", 2.0),
                ("2026-01-01T02:30Z", 1.0),
            ],
        ),
        # Half an hour back: a day of 24.5 hours.
        (
            "Australia/Lord_Howe",
            "2026-04-03T13:00Z",
            3,
            "P1D",
            [("2026-04-03T13:00Z", 48.0), ("2026-04-04T13:00Z", 49.0), ("2026-04-05T13:30Z", 47.0)],
        ),
        # Back at one to midnight, so that midnight comes twice.
        (
            "America/Havana",
            "2026-10-31T04:00Z",
            3,
            "P1D",
            [("2026-10-31T04:00Z", 48.0), ("2026-11-01T04:00Z", 50.0), ("2026-11-02T05:00Z", 46.0)],
        ),
        ("UTC", "2026-01-01T00:00Z", 1, "P1D", [("2026-01-01T00:00Z", 48.0)]),
        ("UTC", "2026-01-01T00:00Z", 0.0625, "PT45M", [("2026-01-01T00:00Z", 2.0), ("2026-01-01T00:45Z", 1.0)]),
    ],
)
async def test_a_day_is_the_zone_s_own_and_an_hour_is_absolute(
    service: ServiceClient,
    connection: Connection,
    time_zone: str,
    start: str,
    days: float,
    width: str,
    buckets: list[tuple[str, float]],
) -> None:
    first = datetime.fromisoformat(start)
    await fill(connection, first, first + timedelta(days=days), timedelta(minutes=30))
    assert await group(service, width, time_zone) == buckets
    assert await group(service, width, time_zone, first=1) == buckets[:1]


def start_day(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


@pytest.mark.parametrize(
    "time_zone",
    [
        "Africa/Cairo",
        "America/Havana",
        "America/St_Johns",
        "Antarctica/Troll",
        "Asia/Beirut",
        "Asia/Kathmandu",
        "Atlantic/Azores",
        "Australia/Lord_Howe",
        "Europe/Berlin",
        "Europe/Dublin",
        "Pacific/Chatham",
    ],
)
async def test_every_day_of_a_year_has_all_its_readings_and_begins_at_midnight(
    connection: Connection, time_zone: str
) -> None:
    zone = ZoneInfo(time_zone)
    step = timedelta(minutes=30)
    first, end = start_day(date(2025, 1, 1), zone), start_day(date(2026, 1, 1), zone)
    await fill(connection, first, end, step)
    request = AggregateRequest(bucket=Bucket("timestamp", timedelta(days=1), time_zone))
    found = [(each.key["bucket"], each.count) for each in await find_groups(connection, MEASUREMENTS, request)]
    starts = [start_day(date(2025, 1, 1) + timedelta(days=number), zone) for number in range(366)]
    assert found == [(start, round((after - start) / step)) for start, after in pairwise(starts)]


async def test_a_bucket_over_times_that_are_missing_has_them_under_null(
    connection: Connection, seeded: ServiceClient
) -> None:
    request = AggregateRequest(
        columns=("machine_id",), bucket=Bucket("acknowledged_at", timedelta(days=1), "Asia/Kolkata")
    )
    found = [(each.key, each.count) for each in await find_groups(connection, ALERTS, request)]
    assert found == [
        ({"machine_id": "A", "bucket": datetime(2026, 1, 1, 18, 30, tzinfo=UTC)}, 1),
        ({"machine_id": "A", "bucket": datetime(2026, 1, 3, 18, 30, tzinfo=UTC)}, 1),
        ({"machine_id": "A", "bucket": None}, 2),
        ({"machine_id": "B", "bucket": None}, 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        (
            'groupBy: { bucket: { field: TIMESTAMP, width: "P1D", timeZone: "Mars/Olympus" } }',
            "groupBy.bucket.timeZone",
            "groupBy.bucket.timeZone is not the name of a time zone: it is one of IANA's, such as Europe/Berlin.",
        ),
        (
            'groupBy: { bucket: { field: TIMESTAMP, width: "P1D", timeZone: "XYZ+3" } }',
            "groupBy.bucket.timeZone",
            "groupBy.bucket.timeZone is not the name of a time zone: it is one of IANA's, such as Europe/Berlin.",
        ),
        (
            'groupBy: { bucket: { field: TIMESTAMP, width: "PT0S" } }',
            "groupBy.bucket.width",
            "groupBy.bucket.width must be from a millisecond to 36,500 days, such as PT1H or P1D.",
        ),
        (
            'groupBy: { bucket: { field: TIMESTAMP, width: "-P1D" } }',
            "groupBy.bucket.width",
            "groupBy.bucket.width must be from a millisecond to 36,500 days, such as PT1H or P1D.",
        ),
        ("first: -1", "first", "first must be from 0 to 10,000 (AURUM_MAX_PAGE_ROWS)."),
        ("first: 10001", "first", "first must be from 0 to 10,000 (AURUM_MAX_PAGE_ROWS)."),
        (
            "where: { timestamp: { gt: null } }",
            "where.timestamp.gt",
            "where.timestamp.gt is null: leave it out, or give a value, which these rows always have.",
        ),
    ],
)
async def test_groups_that_cannot_be_are_refused_by_name(
    service: ServiceClient, arguments: str, field: str, message: str
) -> None:
    error = await service.refuse(f"{{ measurementsAggregate({arguments}) {{ count }} }}")
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}
    assert error["message"] == message


async def test_more_groups_than_may_be_are_refused_unless_the_first_are_asked_for(
    service: ServiceClient, connection: Connection
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    await fill(connection, start, start + timedelta(milliseconds=10_001), timedelta(milliseconds=1))
    bucket = 'groupBy: { bucket: { field: TIMESTAMP, width: "PT0.001S" } }'
    error = await service.refuse(f"{{ measurementsAggregate({bucket}) {{ count }} }}")
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "groupBy"}
    assert error["message"].startswith("groupBy makes more than 10,000 groups (AURUM_MAX_PAGE_ROWS): ")
    query = f"{{ machines(first: 1) {{ nodes {{ measurementsAggregate({bucket}, first: 10000) {{ count }} }} }} }}"
    (machine,) = (await service.ask(query))["machines"]["nodes"]
    assert machine["measurementsAggregate"] == [{"count": 1.0}] * 10_000
