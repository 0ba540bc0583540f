"""`POST /ingest` and the GraphQL `ingest`, against the real service."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import httpx
import msgspec
import pytest

from app.database import EditionName, probe_edition
from app.ingest import merging, store
from tests.client import ServiceClient
from tests.conftest import make_database, read_database, run_service

INSTANT = "2026-01-31T12:00:00Z"

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def reading(machine_id: str = "PRESS-1", timestamp: object = INSTANT, **metrics: float) -> dict[str, Any]:
    return {"machine_id": machine_id, "timestamp": timestamp, "metrics": metrics or {"rpm": 1500.0}}


async def stored(connection: Connection) -> list[tuple[str, str, Any]]:
    rows = await connection.fetch("SELECT machine_id, timestamp, metrics FROM raw_measurements ORDER BY 1, 2")
    return [(row["machine_id"], row["timestamp"].isoformat(), msgspec.json.decode(row["metrics"])) for row in rows]


async def test_one_reading_is_stored_before_the_answer(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    assert await service.ingest(reading(rpm=1500, temperature=80.5)) == {
        "accepted": 1,
        "duplicates": 0,
        "conflicts": 0,
        "rejectedCount": 0,
        "rejected": [],
    }
    assert await stored(connection) == [
        ("PRESS-1", "2026-01-31T12:00:00+00:00", {"rpm": 1500.0, "temperature": 80.5}),
    ]


async def test_epoch_milliseconds_and_an_offset_name_the_same_instant(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    same = [reading(timestamp=1_769_860_800_000), reading(timestamp="2026-01-31T13:00:00+01:00"), reading()]
    assert (await service.ingest(same))["duplicates"] == 2
    assert [row[1] for row in await stored(connection)] == ["2026-01-31T12:00:00+00:00"]


async def test_microseconds_are_kept(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(timestamp="2026-01-31T12:00:00.123456Z"))
    assert [row[1] for row in await stored(connection)] == ["2026-01-31T12:00:00.123456+00:00"]


async def test_good_readings_are_stored_and_bad_ones_named(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    soon = (datetime.now(UTC) + timedelta(minutes=6)).isoformat()
    batch = [
        reading(),
        reading("PRESS-9"),
        reading(timestamp="yesterday"),
        reading(timestamp="2026-01-31T12:00:00"),
        reading(timestamp=soon),
        {"machine_id": "PRESS-1", "timestamp": INSTANT, "metrics": {}},
        {"machine_id": "PRESS-1", "timestamp": INSTANT, "metrics": {"1st": 1}},
        {"machine_id": "PRESS-1", "timestamp": INSTANT, "metrics": {"rpm": "fast"}},
        {"machine_id": "PRESS-1", "timestamp": INSTANT, "metrics": {f"m{n}": n for n in range(257)}},
        {"machine_id": "PRESS-1", "timestamp": INSTANT},
        {**reading(), "unit": "rpm"},
        7,
        reading(timestamp="2026-01-31T12:00:01Z"),
    ]
    answer = await service.ingest(batch)
    assert (answer["accepted"], answer["duplicates"], answer["conflicts"]) == (2, 0, 0)
    assert [(refused["index"], refused["code"]) for refused in answer["rejected"]] == [
        (1, "UNKNOWN_MACHINE"),
        (2, "BAD_TIMESTAMP"),
        (3, "BAD_TIMESTAMP"),
        (4, "FUTURE_TIMESTAMP"),
        (5, "EMPTY_METRICS"),
        (6, "BAD_METRIC"),
        (7, "BAD_METRIC"),
        (8, "TOO_MANY_METRICS"),
        (9, "MISSING_FIELD"),
        (10, "BAD_READING"),
        (11, "BAD_READING"),
    ]
    assert len(await stored(connection)) == 2


async def test_a_reading_sent_again_is_a_duplicate(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(rpm=1500, temperature=80.5))
    again = await service.ingest([reading(rpm=1500, temperature=80.5), reading(rpm=1500)])
    assert again == {"accepted": 0, "duplicates": 2, "conflicts": 0, "rejectedCount": 0, "rejected": []}
    assert len(await stored(connection)) == 1


async def test_new_metric_names_are_merged_in(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(rpm=1500))
    assert (await service.ingest(reading(rpm=1500, vibration=2.5)))["accepted"] == 1
    assert (await stored(connection))[0][2] == {"rpm": 1500.0, "vibration": 2.5}


async def test_a_conflict_keeps_the_stored_value_and_is_counted(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(rpm=1500))
    answer = await service.ingest(reading(rpm=1600, vibration=2.5))
    assert answer == {"accepted": 0, "duplicates": 0, "conflicts": 1, "rejectedCount": 0, "rejected": []}
    assert (await stored(connection))[0][2] == {"rpm": 1500.0, "vibration": 2.5}


async def test_overwrite_corrects_the_stored_value(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(rpm=1500, vibration=2.5))
    answer = await service.ingest(reading(rpm=1600), onConflict="overwrite")
    assert answer == {"accepted": 0, "duplicates": 0, "conflicts": 1, "rejectedCount": 0, "rejected": []}
    assert (await stored(connection))[0][2] == {"rpm": 1600.0, "vibration": 2.5}


async def test_one_batch_is_judged_reading_by_reading(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(a=1))
    answer = await service.ingest([reading(a=1), reading(a=2), reading(b=3), reading(b=4), reading(b=3, a=1)])
    assert answer == {"accepted": 1, "duplicates": 2, "conflicts": 2, "rejectedCount": 0, "rejected": []}
    assert (await stored(connection))[0][2] == {"a": 1.0, "b": 3.0}


async def test_the_same_batches_from_two_clients_are_stored_once(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1", "PRESS-2")
    start = datetime(2026, 1, 31, tzinfo=UTC)
    batch = [
        reading(machine_id, (start + timedelta(seconds=second)).isoformat(), rpm=second)
        for machine_id in ("PRESS-1", "PRESS-2")
        for second in range(500)
    ]
    answers = await asyncio.gather(*(service.ingest(each) for each in (batch, batch[::-1], batch, batch[::-1])))
    assert sum(answer["accepted"] for answer in answers) == 1000
    assert sum(answer["duplicates"] for answer in answers) == 3000
    assert sum(answer["conflicts"] for answer in answers) == 0
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 1000


COMPRESS = (
    "ALTER TABLE raw_measurements SET (timescaledb.compress, timescaledb.compress_segmentby = 'machine_id', "
    "timescaledb.compress_orderby = 'timestamp DESC')",
    "SELECT compress_chunk(chunk) FROM show_chunks('raw_measurements') AS chunk",
)


async def compress_all(connection: Connection) -> None:
    edition = await probe_edition(connection, timescale="auto")
    if edition.name is not EditionName.COMMUNITY:
        pytest.skip("this edition compresses nothing")
    for statement in COMPRESS:
        await connection.execute(statement)


async def test_readings_that_are_compressed_are_merged_like_any_other(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    await service.ingest([reading(timestamp=second * 1000, a=second) for second in range(3000)])
    await compress_all(connection)
    chunk = await connection.fetchval("SELECT show_chunks('raw_measurements')::text")
    assert await service.ingest([reading(timestamp=second * 1000, a=second) for second in range(3000)]) == {
        "accepted": 0,
        "duplicates": 3000,
        "conflicts": 0,
        "rejectedCount": 0,
        "rejected": [],
    }
    assert await connection.fetchval(f"SELECT count(*)::int FROM ONLY {chunk}") == 0  # nothing was unpacked for it
    answer = await service.ingest([reading(timestamp=0, b=1), reading(timestamp=1, a=7), reading(timestamp=2000, a=9)])
    assert [answer[each] for each in ("accepted", "duplicates", "conflicts")] == [2, 0, 1]
    answer = await service.ingest([reading(timestamp=1000, a=5), reading(timestamp=3000, a=3)], onConflict="overwrite")
    assert [answer[each] for each in ("accepted", "duplicates", "conflicts")] == [0, 1, 1]
    rows = await connection.fetch("SELECT timestamp, metrics FROM raw_measurements ORDER BY timestamp LIMIT 4")
    assert [msgspec.json.decode(row["metrics"]) for row in rows] == [{"a": 0, "b": 1}, {"a": 7}, {"a": 5}, {"a": 2}]
    assert await connection.fetchval("SELECT count(*)::int FROM raw_measurements") == 3001


async def test_clients_that_add_to_the_same_compressed_reading_lose_nothing(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(a=0))
    await compress_all(connection)
    answers = await asyncio.gather(
        *(service.ingest({**reading(), "metrics": {f"m{number}": number}}) for number in range(20))
    )
    assert sum(answer["accepted"] for answer in answers) == 20
    assert (await stored(connection))[0][2] == {"a": 0, **{f"m{number}": number for number in range(20)}}


async def test_an_empty_array_is_no_error(service: ServiceClient) -> None:
    assert await service.ingest([]) == {
        "accepted": 0,
        "duplicates": 0,
        "conflicts": 0,
        "rejectedCount": 0,
        "rejected": [],
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not one reading or an array of readings in JSON: Input data was truncated."),
        (b"[{]", "JSON is malformed"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'[{"machine_id": "\xff", "timestamp": 1, "metrics": {"a": 1}}]', "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"machine_id": 5, "timestamp"', "Input data was truncated"),
        (b'{"metrics":' * 100_000, "nested too deeply"),
        (b"5", "Expected array, got int"),
        (b'[{"machine_id": "PRESS-1", "timestamp": 1, "metrics": {"a": NaN}}]', "JSON is malformed"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_whole(service: ServiceClient, body: bytes, message: str) -> None:
    response = await service.http.post("/ingest", content=body)
    assert response.status_code == 400
    assert response.json()["code"] == "BAD_USER_INPUT"
    assert message in response.json()["message"]


async def test_extreme_doubles_come_back_as_they_were(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    values = {"most": 1.7976931348623157e308, "least": 5e-324, "third": 1 / 3, "negative": -0.1}
    await service.ingest({"machine_id": "PRESS-1", "timestamp": INSTANT, "metrics": values})
    response = await service.http.post("/graphql", json={"query": "{ measurements { nodes { metrics } } }"})
    # With every digit: a number that is whole would be taken for an int of Python's, and not for the nearest double.
    data = json.loads(response.text, parse_int=float)["data"]
    assert data["measurements"]["nodes"] == [{"metrics": values}]


async def test_a_body_over_the_limit_is_refused_with_413(database_url: str) -> None:
    async with run_service(database_url, AURUM_MAX_BODY_BYTES="1024") as service:
        response = await service.http.post("/ingest", content=b" " * 2000)
        assert response.status_code == 413
        assert response.json()["code"] == "PAYLOAD_TOO_LARGE"


async def test_an_unknown_way_to_settle_conflicts_is_refused(service: ServiceClient) -> None:
    response = await service.http.post("/ingest", json=[], params={"onConflict": "maybe"})
    assert response.status_code == 400
    assert response.json() == {
        "code": "BAD_USER_INPUT",
        "field": "onConflict",
        "message": "onConflict must be keep or overwrite.",
    }


async def test_graphql_takes_readings_by_the_same_rules(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    mutation = """
        mutation ($measurements: [MeasurementInput!]!, $onConflict: OnConflict!) {
          ingest(measurements: $measurements, onConflict: $onConflict) {
            accepted duplicates conflicts rejectedCount rejected { index code message }
          }
        }
    """
    first = {"machineId": "PRESS-1", "timestamp": INSTANT, "metrics": {"rpm": 1500, "load": 0.5}}
    batch = [
        first,
        first,
        {**first, "machineId": "PRESS-9"},
        {**first, "metrics": {}},
        {**first, "metrics": {"a": "b"}},
    ]
    answer = await service.ask(mutation, measurements=batch, onConflict="KEEP")
    assert answer["ingest"] == {
        "accepted": 1,
        "duplicates": 1,
        "conflicts": 0,
        "rejectedCount": 3,
        "rejected": [
            {
                "index": 2,
                "code": "UNKNOWN_MACHINE",
                "message": "no machine 'PRESS-9' is registered: register it first, with registerMachine.",
            },
            {"index": 3, "code": "EMPTY_METRICS", "message": "metrics is empty: send at least one."},
            {
                "index": 4,
                "code": "BAD_METRIC",
                "message": "metrics.a is 'b': it must be a finite number in double precision.",
            },
        ],
    }
    changed = {**first, "metrics": {"rpm": 1}}
    answer = await service.ask(mutation, measurements=[changed], onConflict="OVERWRITE")
    assert answer["ingest"]["conflicts"] == 1
    assert (await stored(connection))[0][2] == {"rpm": 1.0, "load": 0.5}


async def test_a_database_that_is_gone_is_answered_with_503(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url, run_service(url, AURUM_INGEST_DEADLINE="PT3S") as service:
        await service.register("PRESS-1")
        admin = await asyncpg.connect(server_url)
        name = read_database(url)
        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid, 30_000) FROM pg_stat_activity WHERE datname = $1", name)
        response = await service.http.post("/ingest", json=reading())
        assert (response.status_code, response.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
        assert (await service.http.get("/health/ready")).status_code == 503
        assert (await service.http.get("/health/live")).status_code == 200

        await admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        await admin.close()
        assert (await service.ingest(reading()))["accepted"] == 1


async def test_batches_that_get_in_each_other_s_way_are_tried_again(
    service: ServiceClient, connection: Connection
) -> None:
    """Readings over many days make chunks, whose locks and those of rows may meet in two orders."""
    await service.register("PRESS-1", "PRESS-2")
    start = datetime(2025, 1, 1, tzinfo=UTC)
    days = [
        reading(machine_id, (start + timedelta(days=9 * day)).isoformat(), rpm=day)
        for machine_id in ("PRESS-1", "PRESS-2")
        for day in range(25)
    ]
    rename = """
        mutation ($location: String!) { updateMachine(machineId: "PRESS-1", input: { location: $location }) { location } }
    """
    chance = random.Random(7)
    batches = [chance.sample(days, 25) for _ in range(40)]
    async with asyncio.TaskGroup() as group:
        for number, batch in enumerate(batches):
            group.create_task(service.ingest(batch))
            if number % 8 == 0:
                group.create_task(service.ask(rename, location=f"Hall {number}"))
    sent = {(each["machine_id"], each["timestamp"]) for batch in batches for each in batch}
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == len(sent)


async def test_a_deadlock_is_tried_again_and_then_answered_with_503(
    service: ServiceClient, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.register("PRESS-1")
    failures = 2
    original = store._merge

    async def fail(*arguments: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return await original(*arguments)

    monkeypatch.setattr(store, "_copy", fail)
    monkeypatch.setattr(store, "_merge", fail)
    assert (await service.ingest([reading(), reading()])) == {
        "accepted": 1,
        "duplicates": 1,
        "conflicts": 0,
        "rejectedCount": 0,
        "rejected": [],
    }
    failures = store.ATTEMPTS
    response = await service.http.post("/ingest", json=reading())
    assert (response.status_code, response.json()["code"]) == (503, "DATABASE_BUSY")


async def test_a_batch_of_many_chunks_is_one_commit(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1")
    count = 2 * merging.CHUNK + 1
    batch = [reading(timestamp=second * 1000, rpm=second) for second in range(count)]
    assert (await service.ingest(batch[::-1]))["accepted"] == count
    assert (await service.ingest([*batch, reading(timestamp=5000, rpm=-1)])) == {
        "accepted": 0,
        "duplicates": count,
        "conflicts": 1,
        "rejectedCount": 0,
        "rejected": [],
    }
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 1


async def test_what_a_page_of_another_site_can_send_is_refused(service: ServiceClient) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = await service.http.post("/ingest", content=b"[]", headers={"content-type": media_type})
        assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as plain:
        assert (await plain.post("/ingest", content=b"[]")).status_code == 200


async def test_a_server_that_hangs_is_given_up(database_url: str, connection: Connection) -> None:
    """A lock stands for it: what waits is ended by the server's own time limit, or by ours a little later."""
    async with run_service(database_url, AURUM_STATEMENT_TIMEOUT="PT3S") as service:
        await service.register("PRESS-1")
        async with connection.transaction():
            await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
            response = await service.http.post("/ingest", json=reading())
            assert (response.status_code, response.json()["code"]) == (504, "QUERY_TIMEOUT")
        assert (await service.ingest(reading()))["accepted"] == 1
