"""`series`: raw, by buckets, filled, thinned out; exact values, the same on every edition."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.client import ServiceClient
from tests.conftest import run_service

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday

QUERY = """
    query ($machineIds: [ID!]!, $metrics: [String!], $from: DateTime!, $to: DateTime, $bucket: Duration,
           $aggregate: Aggregate! = AVG, $fill: Fill! = NONE, $maxPoints: Int! = 1000) {
      series(machineIds: $machineIds, metrics: $metrics, from: $from, to: $to, bucket: $bucket,
             aggregate: $aggregate, fill: $fill, maxPoints: $maxPoints) {
        machineId metric unit timestamps epochMillis values resolution sourceRows
      }
    }
"""


def at(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).isoformat()


def stamp(minutes: float) -> str:
    return (START + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def load(service: ServiceClient, machine_id: str, values: dict[float, dict[str, float]]) -> None:
    await service.ingest(
        [
            {"machine_id": machine_id, "timestamp": at(minutes), "metrics": metrics}
            for minutes, metrics in values.items()
        ]
    )


async def ask(service: ServiceClient, **variables: Any) -> Any:
    asked = {"machineIds": ["PRESS-1"], "from": at(0), "to": at(60), **variables}
    return (await service.ask(QUERY, **asked))["series"]


@pytest.fixture
async def press(service: ServiceClient) -> ServiceClient:
    """PRESS-1 with `a` at minutes 0, 1, 2, 10, 11, 30 and `b` at minute 2."""
    await service.register("PRESS-1")
    values: dict[float, dict[str, float]] = {0: {"a": 1}, 1: {"a": 2}, 10: {"a": 10}, 11: {"a": 20}, 30: {"a": 5}}
    await load(service, "PRESS-1", {**values, 2: {"a": 6, "b": -1}})
    return service


async def test_raw_readings_come_as_columns_of_equal_length(press: ServiceClient) -> None:
    (series,) = await ask(press, metrics=["a"])
    assert series == {
        "machineId": "PRESS-1",
        "metric": "a",
        "unit": None,
        "timestamps": [stamp(minute) for minute in (0, 1, 2, 10, 11, 30)],
        "epochMillis": [int(START.timestamp()) * 1000 + minute * 60_000 for minute in (0, 1, 2, 10, 11, 30)],
        "values": [1.0, 2.0, 6.0, 10.0, 20.0, 5.0],
        "resolution": "RAW",
        "sourceRows": 6,
    }


async def test_no_metrics_named_means_all_that_the_range_holds(press: ServiceClient) -> None:
    assert [series["metric"] for series in await ask(press)] == ["a", "b"]
    assert [series["metric"] for series in await ask(press, to=at(2))] == ["a"]


async def test_series_come_in_the_order_asked_for_even_where_there_is_nothing(press: ServiceClient) -> None:
    await press.register("PRESS-2")
    found = await ask(press, machineIds=["PRESS-2", "PRESS-1"], metrics=["b", "zzz", "a"])
    assert [(series["machineId"], series["metric"], len(series["values"])) for series in found] == [
        ("PRESS-2", "b", 0),
        ("PRESS-2", "zzz", 0),
        ("PRESS-2", "a", 0),
        ("PRESS-1", "b", 1),
        ("PRESS-1", "zzz", 0),
        ("PRESS-1", "a", 6),
    ]


async def test_the_range_holds_its_beginning_and_not_its_end(press: ServiceClient) -> None:
    (series,) = await ask(press, metrics=["a"], **{"from": at(1), "to": at(10)})
    assert series["values"] == [2.0, 6.0]


@pytest.mark.parametrize(
    ("aggregate", "values"),
    [
        ("AVG", [3.0, 15.0, 5.0]),
        ("MIN", [1.0, 10.0, 5.0]),
        ("MAX", [6.0, 20.0, 5.0]),
        ("SUM", [9.0, 30.0, 5.0]),
        ("COUNT", [3.0, 2.0, 1.0]),
        ("FIRST", [1.0, 10.0, 5.0]),
        ("LAST", [6.0, 20.0, 5.0]),
        ("STDDEV", [math.sqrt(7), math.sqrt(50), None]),
        ("P50", [2.0, 15.0, 5.0]),
        ("P95", [5.6, 19.5, 5.0]),
        ("P99", [5.92, 19.9, 5.0]),
    ],
)
async def test_buckets_show_each_aggregate(press: ServiceClient, aggregate: str, values: list[float | None]) -> None:
    (series,) = await ask(press, metrics=["a"], bucket="PT10M", aggregate=aggregate)
    assert series["timestamps"] == [stamp(0), stamp(10), stamp(30)]
    assert series["values"] == [None if value is None else pytest.approx(value) for value in values]
    assert (series["resolution"], series["sourceRows"]) == ("BUCKETED", 6)


@pytest.mark.parametrize(
    ("fill", "values"),
    [
        ("NULL", [None, 3.0, 15.0, None, 5.0, None]),
        ("LOCF", [None, 3.0, 15.0, 15.0, 5.0, 5.0]),
        ("LINEAR", [None, 3.0, 15.0, 10.0, 5.0, None]),
    ],
)
async def test_empty_buckets_are_filled_as_asked(press: ServiceClient, fill: str, values: list[float | None]) -> None:
    (series,) = await ask(press, metrics=["a"], bucket="PT10M", fill=fill, **{"from": at(-7), "to": at(41)})
    assert series["timestamps"] == [stamp(minute) for minute in (-10, 0, 10, 20, 30, 40)]
    assert series["values"] == values


async def test_weeks_begin_on_monday_and_days_at_midnight_utc(press: ServiceClient) -> None:
    (week,) = await ask(press, metrics=["a"], bucket="P7D", **{"from": at(-60 * 24 * 8), "to": at(60 * 24 * 8)})
    (day,) = await ask(press, metrics=["a"], bucket="P1D", **{"from": at(-60 * 24 * 8), "to": at(60 * 24 * 8)})
    assert week["timestamps"] == day["timestamps"] == [stamp(0)]


async def test_a_long_series_is_thinned_out_and_keeps_its_extremes(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    values = {n / 60: {"a": math.sin(n / 50)} for n in range(3000)}
    values[1234 / 60] = {"a": 99.0}
    values[2345 / 60] = {"a": -99.0}
    await load(service, "PRESS-1", values)
    (series,) = await ask(service, maxPoints=100)
    assert series["resolution"] == "DOWNSAMPLED"
    assert series["sourceRows"] == 3000
    assert len(series["values"]) == len(series["timestamps"]) <= 100
    assert {99.0, -99.0} <= set(series["values"])
    assert (series["timestamps"][0], series["timestamps"][-1]) == (stamp(0), stamp(2999 / 60))


async def test_a_gap_between_raw_readings_holds_a_null_where_the_next_was_due(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    minutes = [*range(10), *range(30, 40)]
    await load(service, "PRESS-1", {minute: {"a": minute} for minute in minutes})
    (series,) = await ask(service)
    assert series["timestamps"] == [stamp(minute) for minute in (*range(11), *range(30, 40))]
    assert series["values"] == [*map(float, range(10)), None, *map(float, range(30, 40))]
    assert (series["resolution"], series["sourceRows"]) == ("RAW", 20)
    (thinned,) = await ask(service, maxPoints=10)
    assert len(thinned["values"]) <= 10
    assert (thinned["resolution"], thinned["sourceRows"]) == ("DOWNSAMPLED", 20)
    gap = thinned["values"].index(None)
    assert thinned["timestamps"][gap - 1 : gap + 2] == [stamp(9), stamp(10), stamp(30)]


@pytest.mark.parametrize(
    ("variables", "code", "field"),
    [
        ({"machineIds": []}, "BAD_USER_INPUT", "machineIds"),
        ({"machineIds": ["PRESS-9"]}, "NOT_FOUND", "machineIds"),
        ({"metrics": []}, "BAD_USER_INPUT", "metrics"),
        ({"to": at(0)}, "BAD_USER_INPUT", "to"),
        ({"to": at(-1)}, "BAD_USER_INPUT", "to"),
        ({"maxPoints": 0}, "BAD_USER_INPUT", "maxPoints"),
        ({"maxPoints": 2_000_000}, "BAD_USER_INPUT", "maxPoints"),
        ({"bucket": "PT0S"}, "BAD_USER_INPUT", "bucket"),
        ({"bucket": "-PT1M"}, "BAD_USER_INPUT", "bucket"),
        ({"bucket": "PT0.001S"}, "BAD_USER_INPUT", "bucket"),
        ({"bucket": "P999999999D"}, "BAD_USER_INPUT", "bucket"),
        ({"fill": "LOCF"}, "BAD_USER_INPUT", "fill"),
    ],
)
async def test_what_cannot_be_answered_says_which_argument(
    press: ServiceClient, variables: dict[str, Any], code: str, field: str
) -> None:
    error = await press.refuse(QUERY, **{"machineIds": ["PRESS-1"], "from": at(0), "to": at(60), **variables})
    assert error["extensions"] == {"code": code, "field": field}


@pytest.mark.parametrize("bucket", ["1 minute", "P1M", "PT", "", "P999999999999D"])
async def test_a_duration_that_is_none_is_refused(press: ServiceClient, bucket: str) -> None:
    error = await press.refuse(QUERY, **{"machineIds": ["PRESS-1"], "from": at(0), "bucket": bucket})
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "PT1M" in error["message"]


async def test_a_sum_beyond_double_precision_is_refused_and_not_a_bug(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    await load(service, "PRESS-1", {0: {"a": 1.7e308}, 1: {"a": 1.7e308}})
    error = await service.refuse(
        QUERY, **{"machineIds": ["PRESS-1"], "from": at(0), "to": at(9), "bucket": "PT1H", "aggregate": "SUM"}
    )
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "aggregate"}


async def test_machines_answer_for_their_own_series_in_one_query(press: ServiceClient) -> None:
    await press.register("PRESS-2")
    await load(press, "PRESS-2", {3: {"a": 7}})
    query = "query ($from: DateTime!) { machines { nodes { machineId series(from: $from) { metric values } } } }"
    data = await press.ask(query, **{"from": at(0)})
    assert data["machines"]["nodes"] == [
        {
            "machineId": "PRESS-1",
            "series": [{"metric": "a", "values": [1.0, 2.0, 6.0, 10.0, 20.0, 5.0]}, {"metric": "b", "values": [-1.0]}],
        },
        {"machineId": "PRESS-2", "series": [{"metric": "a", "values": [7.0]}]},
    ]


async def test_the_range_and_what_it_holds_are_bounded_by_settings(database_url: str) -> None:
    async with run_service(database_url, AURUM_MAX_SERIES_RANGE="P1D", AURUM_MAX_SERIES_VALUES="10") as client:
        await client.register("PRESS-1")
        await load(client, "PRESS-1", {minute: {"a": 1, "b": 2} for minute in range(6)})
        asked = {"machineIds": ["PRESS-1"], "from": at(0), "to": at(24 * 60)}
        refused: list[tuple[dict[str, Any], str, str]] = [
            (
                {"to": at(24 * 60 + 1)},
                "from",
                "The range is longer than P1D (AURUM_MAX_SERIES_RANGE): begin it later.",
            ),
            (
                {},
                "bucket",
                "The range holds more than 10 values (AURUM_MAX_SERIES_VALUES): give a bucket, or a shorter range.",
            ),
            *(
                (
                    variables,
                    "bucket",
                    "The range holds more than 10 such buckets (AURUM_MAX_SERIES_VALUES): choose a longer one, "
                    "or a shorter range.",
                )
                for variables in (
                    {"bucket": "PT1H", "metrics": ["a"]},
                    {"bucket": "PT1M", "to": at(6)},
                    {"bucket": "PT1M", "to": at(6), "fill": "NULL"},
                    {"bucket": "PT1H", "to": at(6 * 60), "fill": "NULL", "metrics": ["a", "zzz"]},
                )
            ),
        ]
        for variables, field, sentence in refused:
            error = await client.refuse(QUERY, **{**asked, **variables})
            assert error["message"] == sentence
            assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}
        answered: list[tuple[dict[str, Any], list[int]]] = [
            ({"to": at(5)}, [5, 5]),
            ({"metrics": ["a"]}, [6]),
            ({"metrics": ["a"], "to": at(10), "bucket": "PT1M", "fill": "NULL"}, [10]),
            ({"bucket": "PT1M", "to": at(5)}, [5, 5]),
        ]
        for variables, points in answered:
            answer = await client.ask(QUERY, **{**asked, **variables})
            assert [len(series["values"]) for series in answer["series"]] == points


async def test_a_range_without_a_beginning_is_refused(press: ServiceClient) -> None:
    error = await press.refuse('{ series(machineIds: ["PRESS-1"]) { values } }')
    assert error["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert "of type 'DateTime!' is required" in error["message"]


async def test_readings_that_came_in_any_order_are_answered_in_the_order_of_time(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    for minute in (5, 1, 3, 0, 4, 2):
        await load(service, "PRESS-1", {minute: {"a": minute}})
    asked: list[dict[str, Any]] = [{}, {"bucket": "PT1M"}, {"bucket": "PT1M", "fill": "NULL", "to": at(6)}]
    for variables in asked:
        (series,) = await ask(service, **variables)
        assert series["timestamps"] == [stamp(minute) for minute in range(6)]
        assert series["values"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


async def test_raw_values_are_the_doubles_that_were_sent_whatever_their_size(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    sent = [0.1, 1e300, 5e-324, 0.1 + 0.2, -7.5e-9, 2**53, 1234567890123456789, -0.25]
    await load(service, "PRESS-1", {minute: {"a": value} for minute, value in enumerate(sent)})
    for count in range(1, len(sent) + 1):
        (series,) = await ask(service, metrics=["a"], to=at(count))
        assert series["values"] == [float(value) for value in sent[:count]]


async def test_a_first_bucket_before_the_year_1_is_refused_and_not_a_bug(press: ServiceClient) -> None:
    asked = {"machineIds": ["PRESS-1"], "metrics": ["a"], "from": "0001-01-03T00:00:00Z", "to": "0001-01-04T00:00:00Z"}
    error = await press.refuse(QUERY, **asked, bucket="P1000D", fill="NULL")
    assert error["message"] == "The first bucket would begin before the year 1: begin the range later."
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": "from"}
    (series,) = (await press.ask(QUERY, **asked, bucket="P1D", fill="NULL"))["series"]
    assert (series["timestamps"], series["values"]) == (["0001-01-03T00:00:00.000000Z"], [None])
