"""What `POST /ingest` does with bodies of every kind and size, with a database that comes and goes, and under load."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from app.access.principal import EVERYONE
from app.database import Database
from app.ingest import lines, writer
from app.ingest.backlog import Backlog
from app.ingest.merge import OnConflict
from app.ingest.message import Limits, read_objects
from app.ingest.refusal import MOST_TOLD
from app.ingest.writer import Writer
from app.instants import read_clock
from tests.client import ServiceClient
from tests.conftest import make_database, read_database, run_service, run_sql
from tests.test_ingest import Connection, reading, stored

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NDJSON = {"content-type": "application/x-ndjson"}
MESSAGEPACK = {"content-type": "application/msgpack"}
START = datetime(2026, 1, 31, tzinfo=UTC)


def at(second: float) -> str:
    return (START + timedelta(seconds=second)).isoformat()


def count(accepted: int = 0, duplicates: int = 0, conflicts: int = 0) -> dict[str, Any]:
    return {
        "accepted": accepted,
        "duplicates": duplicates,
        "conflicts": conflicts,
        "rejectedCount": 0,
        "rejected": [],
    }


async def post(service: ServiceClient, content: Any, headers: dict[str, str], **params: str) -> Any:
    response = await service.http.post("/ingest", content=content, headers=headers, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def wait_until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[OnConflict]:
    """An entry for each request whose rows a service of this process has taken and not stored yet. A transaction that lasts
    is not joined by others, however long it does."""
    inside: list[OnConflict] = []
    commit = Writer.commit

    async def note(self: Writer, submission: Any, on_conflict: OnConflict, by: Any) -> Any:
        inside.append(on_conflict)
        try:
            return await commit(self, submission, on_conflict, by)
        finally:
            inside.pop()

    monkeypatch.setattr(Writer, "commit", note)
    monkeypatch.setattr(writer, "LONG_WAIT", 3600.0)
    return inside


def write_lines(*rows: Any) -> bytes:
    return msgspec.json.Encoder().encode_lines(rows)


# --- Formats ------------------------------------------------------------------------------------------------------


async def test_lines_of_json_are_readings_and_a_bad_line_is_refused_by_its_number(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    good = [msgspec.json.encode(reading(timestamp=at(second), rpm=second)) for second in range(3)]
    text = b"\r\n".join([good[0], b"", b"{no json", good[1], b'"\xff"', b"7", good[2]])
    answer = await post(service, text, NDJSON)
    assert (answer["accepted"], answer["rejectedCount"]) == (3, 3)
    assert [(refused["index"], refused["code"]) for refused in answer["rejected"]] == [
        (2, "BAD_READING"),
        (4, "BAD_READING"),
        (5, "BAD_READING"),
    ]
    assert [row[2] for row in await stored(connection)] == [{"rpm": 0.0}, {"rpm": 1.0}, {"rpm": 2.0}]


async def test_messagepack_takes_one_reading_or_an_array_with_instants_of_all_three_kinds(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    instants = [1_769_860_800_000, "2026-01-31T12:00:01Z", datetime(2026, 1, 31, 12, 0, 2, tzinfo=UTC)]
    rows = [reading(timestamp=instant, rpm=1) for instant in instants]
    assert await post(service, msgspec.msgpack.encode(rows), MESSAGEPACK) == count(accepted=3)
    assert await post(service, msgspec.msgpack.encode(rows[0]), MESSAGEPACK) == count(duplicates=1)
    assert [row[1][11:19] for row in await stored(connection)] == ["12:00:00", "12:00:01", "12:00:02"]


async def test_messagepack_that_is_wrong_is_told_like_json(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    rows = [reading(), reading(rpm=float("inf")), {"machine_id": "PRESS-1"}, 7, reading(timestamp=-1), reading("X")]
    answer = await post(service, msgspec.msgpack.encode(rows), MESSAGEPACK)
    assert answer["accepted"] == 1
    assert [(refused["index"], refused["code"]) for refused in answer["rejected"]] == [
        (1, "BAD_METRIC"),
        (2, "MISSING_FIELD"),
        (3, "BAD_READING"),
        (4, "BAD_TIMESTAMP"),
        (5, "UNKNOWN_MACHINE"),
    ]
    for content in (b"", b"\xc1", b"\x91", msgspec.msgpack.encode("text")):
        response = await service.http.post("/ingest", content=content, headers=MESSAGEPACK)
        assert (response.status_code, response.json()["code"]) == (400, "BAD_USER_INPUT")
        assert "in MessagePack" in response.json()["message"]


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("zstd", zstd.compress),
        # of several streams, one behind the other
        ("gzip", lambda data: gzip.compress(data[:40]) + gzip.compress(data[40:])),
        ("zstd", lambda data: zstd.compress(data[:40]) + zstd.compress(data[40:])),
    ],
)
async def test_compressed_bodies_are_taken_in_every_format(service: ServiceClient, coding: str, compress: Any) -> None:
    await service.register("PRESS-1")
    rows = [reading(timestamp=at(second), rpm=second) for second in range(500)]
    for number, (headers, content) in enumerate(
        [({}, msgspec.json.encode(rows)), (NDJSON, write_lines(*rows)), (MESSAGEPACK, msgspec.msgpack.encode(rows))]
    ):
        expected = count(duplicates=500) if number else count(accepted=500)
        assert await post(service, compress(content), {**headers, "content-encoding": coding}) == expected


async def test_other_codings_and_media_types_are_refused_with_what_would_do(service: ServiceClient) -> None:
    for coding in ("br", "deflate", "gzip, gzip"):
        response = await service.http.post("/ingest", content=b"[]", headers={"content-encoding": coding})
        assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert response.headers["accept-encoding"] == "gzip, zstd"
    for media_type in ("text/csv", "application/xml", "multipart/form-data; boundary=x"):
        response = await service.http.post("/ingest", content=b"[]", headers={"content-type": media_type})
        assert (response.status_code, response.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_body_that_is_not_in_its_coding_or_ends_early_is_refused(service: ServiceClient) -> None:
    for coding, whole in (("gzip", gzip.compress(b"[]" + b" " * 999)), ("zstd", zstd.compress(b"[]" + b" " * 999))):
        for content in (b"", b"[]", whole[:-3], whole + b"more"):
            response = await service.http.post("/ingest", content=content, headers={"content-encoding": coding})
            assert (response.status_code, response.json()["code"]) == (400, "BAD_USER_INPUT"), content
            assert coding in response.json()["message"]


async def test_only_post_is_answered(service: ServiceClient) -> None:
    for method in ("GET", "PUT", "DELETE"):
        response = await service.http.request(method, "/ingest")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")


# --- Limits -------------------------------------------------------------------------------------------------------


async def test_each_limit_is_named_with_413(database_url: str) -> None:
    limits = {"AURUM_MAX_BODY_BYTES": "2000", "AURUM_MAX_BATCH_ROWS": "3", "AURUM_MAX_METRICS": "2"}
    async with run_service(database_url, **limits) as service:
        await service.register("PRESS-1")
        wide = reading(a=1, b=2, c=3)
        rows = [reading(timestamp=second) for second in range(4)]

        async def refuse(content: bytes, named: str, **headers: str) -> None:
            response = await service.http.post("/ingest", content=content, headers=headers)
            assert (response.status_code, response.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
            assert named in response.json()["message"]

        packed = {"content-type": "application/msgpack"}
        await refuse(b" " * 2001, "AURUM_MAX_BODY_BYTES, which is 2000")
        await refuse(gzip.compress(b" " * 2001), "AURUM_MAX_BODY_BYTES", **{"content-encoding": "gzip"})
        await refuse(msgspec.json.encode(rows), "4 readings, more than AURUM_MAX_BATCH_ROWS, which is 3")
        await refuse(msgspec.msgpack.encode(rows), "AURUM_MAX_BATCH_ROWS", **packed)
        await refuse(msgspec.json.encode([*rows, 7]), "AURUM_MAX_BATCH_ROWS")
        await refuse(msgspec.json.encode(wide), "metrics has 3 names, more than AURUM_MAX_METRICS, which is 2")
        await refuse(msgspec.msgpack.encode(wide), "AURUM_MAX_METRICS, which is 2", **packed)
        await refuse(b" " * 2001, "Line 1 has more bytes than AURUM_MAX_BODY_BYTES", **NDJSON)
        # In an array, also of one, and among lines, it's the one reading that is refused.
        message = "metrics has 3 names, more than AURUM_MAX_METRICS, which is 2: send them in several readings."
        batches: list[list[Any]] = [[wide], [reading(a=1), wide], [wide, reading(a=1), 7]]
        for number, batch in enumerate(batches):
            for content, headers in (
                (msgspec.json.encode(batch), {}),
                (msgspec.msgpack.encode(batch), packed),
                (write_lines(*batch), NDJSON),
            ):
                answer = await post(service, content, headers)
                assert answer["accepted"] + answer["duplicates"] == min(number, 1)
                refused = next(one for one in answer["rejected"] if one["code"] == "TOO_MANY_METRICS")
                assert refused == {"index": batch.index(wide), "code": "TOO_MANY_METRICS", "message": message}
        # Lines are without a limit.
        assert (await post(service, write_lines(*rows), NDJSON))["accepted"] == 4

        mutation = "mutation ($rows: [MeasurementInput!]!) { ingest(measurements: $rows) { accepted } }"
        given = [{"machineId": "PRESS-1", "timestamp": at(second), "metrics": {"a": 1}} for second in range(4)]
        refused = await service.refuse(mutation, rows=given)
        assert refused["extensions"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_the_first_thousand_refused_are_told_and_all_are_counted(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    # By turns good, of nobody's machine (which the database tells), and without an instant (which it never sees).
    rows = [
        (reading(timestamp=at(number)), reading("PRESS-9", at(number)), reading(timestamp="now"))[number % 3]
        for number in range(6000)
    ]
    told = [number for number in range(6000) if number % 3][:MOST_TOLD]
    for expected, content, headers in (
        ((2000, 0), msgspec.json.encode(rows), {}),
        ((0, 2000), write_lines(*rows), NDJSON),
    ):
        answer = await post(service, content, headers)
        assert (answer["accepted"], answer["duplicates"]) == expected
        assert answer["rejectedCount"] == 4000
        assert [refused["index"] for refused in answer["rejected"]] == told


# --- Streams ------------------------------------------------------------------------------------------------------


def make_rows(many: int) -> list[dict[str, Any]]:
    return [reading(timestamp=at(number / 100), rpm=number, load=0.5) for number in range(many)]


async def test_lines_are_stored_batch_by_batch_while_the_body_still_arrives(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    text = write_lines(*make_rows(12_000))
    assert len(text) > 4 * lines.BATCH
    half = len(text) // 2

    async def send() -> AsyncIterator[bytes]:
        yield text[:half]
        while await connection.fetchval("SELECT count(*) FROM raw_measurements") < 4_000:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)
        yield text[half:]

    assert await post(service, send(), NDJSON) == count(accepted=12_000)
    assert await post(service, gzip.compress(text), {**NDJSON, "content-encoding": "gzip"}) == count(duplicates=12_000)


async def test_a_later_line_is_judged_by_an_earlier_one_whatever_lies_between(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    rows = make_rows(12_000)
    changed = {**rows[0], "metrics": {"rpm": -1}}
    answer = await post(service, write_lines(*rows, changed, rows[0]), NDJSON, onConflict="overwrite")
    assert answer == count(accepted=12_000, conflicts=2)
    assert (await stored(connection))[0][2] == {"rpm": 0.0, "load": 0.5}


async def test_a_stream_that_breaks_says_how_far_it_came_and_can_be_sent_again(
    service: ServiceClient, connection: Connection
) -> None:
    await service.register("PRESS-1")
    whole = write_lines(*make_rows(12_000))
    squeezed = gzip.compress(whole)
    headers = {**NDJSON, "content-encoding": "gzip"}
    response = await service.http.post("/ingest", content=squeezed[:-100], headers=headers)
    answer = response.json()
    assert (response.status_code, answer["code"]) == (400, "BAD_USER_INPUT")
    durable = answer["durable"]
    assert 0 < durable["lines"] == durable["accepted"] < 12_000
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == durable["lines"]
    rest = b"\n".join(whole.split(b"\n")[durable["lines"] :])
    assert await post(service, rest, NDJSON) == count(accepted=12_000 - durable["lines"])
    assert await post(service, squeezed, headers) == count(duplicates=12_000)


# --- The commit ---------------------------------------------------------------------------------------------------


async def test_what_arrives_together_is_committed_together(
    service: ServiceClient, connection: Connection, taken: list[OnConflict]
) -> None:
    await service.register("PRESS-1")
    async with connection.transaction():
        await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
        requests = [asyncio.create_task(service.ingest(reading(timestamp=at(number)))) for number in range(80)]
        await wait_until(lambda: len(taken) == 80)
    assert await asyncio.gather(*requests) == [count(accepted=1)] * 80
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 80
    # Those that were there when a transaction began, and all that came meanwhile.
    assert await connection.fetchval("SELECT count(*) FROM outbox") in {1, 2}


async def test_who_sends_on_at_the_very_moment_of_an_answer_is_not_forgotten(database_url: str) -> None:
    database = Database(timescale="auto", pool_size=2, statement_timeout=timedelta(seconds=30))
    await database.open(database_url)
    try:
        committed = Writer(database, Backlog(2**20), timedelta(seconds=30))
        for second in range(20):
            rows = [{"machine_id": "NO-SUCH", "timestamp": at(second), "metrics": {"a": 1}}]
            result = await committed.commit(read_objects(rows, read_clock(), Limits(10, 10)), OnConflict.KEEP, EVERYONE)
            assert result.rejected_count == 1
        await committed.stop()
    finally:
        await database.close()


async def test_requests_that_share_a_commit_are_counted_apart(
    service: ServiceClient, connection: Connection, taken: list[OnConflict]
) -> None:
    await service.register("PRESS-1")
    await service.ingest(reading(rpm=1))
    requests = []
    # While this lock is held, all of them gather behind the first, in their order.
    async with connection.transaction():
        await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
        sent: list[tuple[Any, dict[str, str]]] = [
            ([reading(timestamp=at(1))], {}),
            ([reading(rpm=1), reading(timestamp=at(2))], {}),
            ([reading(rpm=2)], {}),
            ([reading("PRESS-9"), reading(rpm=3)], {"onConflict": "overwrite"}),
        ]
        for rows, params in sent:
            requests.append(asyncio.create_task(service.ingest(rows, **params)))
            await wait_until(lambda: len(taken) == len(requests))
    answers = await asyncio.gather(*requests)
    assert answers[:3] == [count(accepted=1), count(accepted=1, duplicates=1), count(conflicts=1)]
    assert (answers[3]["conflicts"], answers[3]["rejected"][0]["code"]) == (1, "UNKNOWN_MACHINE")
    assert (await stored(connection))[-1][2] == {"rpm": 3.0}


async def test_a_row_that_the_database_refuses_is_refused_alone(service: ServiceClient, connection: Connection) -> None:
    """A rule that only this database has: here a check, as a team may add one."""
    await service.register("PRESS-1")
    await connection.execute("ALTER TABLE raw_measurements ADD CHECK (NOT metrics ? 'poison')")
    rows = [reading(timestamp=at(second), rpm=second) for second in range(100)]
    poisoned = [*rows[:37], reading(timestamp=at(500), poison=1), *rows[37:]]
    neighbours = [service.ingest(reading(timestamp=at(1000 + second))) for second in range(20)]
    answer, *others = await asyncio.gather(service.ingest(poisoned), *neighbours)
    assert (answer["accepted"], answer["rejectedCount"]) == (100, 1)
    assert answer["rejected"] == [
        {"index": 37, "code": "REFUSED_BY_DATABASE", "message": "a rule of the database refuses the reading."}
    ]
    assert others == [count(accepted=1)] * 20
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 120
    assert await service.ingest(rows) == count(duplicates=100)


async def test_a_machine_that_somebody_deleted_is_unknown_again(service: ServiceClient, connection: Connection) -> None:
    await service.register("PRESS-1", "PRESS-2")
    await service.ingest([reading("PRESS-1")])
    await service.ingest([reading("PRESS-2")])
    await connection.execute("DELETE FROM raw_measurements WHERE machine_id = 'PRESS-2'")
    await connection.execute("DELETE FROM machines WHERE machine_id = 'PRESS-2'")
    answer = await service.ingest([reading("PRESS-1", at(1)), reading("PRESS-2", at(1))])
    assert (answer["accepted"], [refused["code"] for refused in answer["rejected"]]) == (1, ["UNKNOWN_MACHINE"])


async def test_a_late_reading_lands_in_its_place_and_leaves_the_latest_alone(service: ServiceClient) -> None:
    await service.register("PRESS-1")
    for second, rpm in ((10, 3.0), (5, 2.0), (1, 1.0)):
        assert await service.ingest(reading(timestamp=at(second), rpm=rpm)) == count(accepted=1)
    data = await service.ask(
        """{
          machine(machineId: "PRESS-1") { latest { metrics } }
          measurements { nodes { metrics } }
        }"""
    )
    assert data["machine"]["latest"]["metrics"] == {"rpm": 3.0}
    assert [node["metrics"]["rpm"] for node in data["measurements"]["nodes"]] == [3.0, 2.0, 1.0]


# --- Overload, and a database that comes and goes ---------------------------------------------------------------------


async def test_what_does_not_fit_is_answered_with_503_and_when_to_try_again(
    database_url: str, connection: Connection, taken: list[OnConflict]
) -> None:
    async with run_service(database_url, AURUM_INGEST_QUEUE_BYTES="20000") as service:
        await service.register("PRESS-1")
        batches = [[reading(timestamp=at(number * 50 + row)) for row in range(50)] for number in range(12)]
        async with connection.transaction():
            await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
            requests = [asyncio.create_task(service.http.post("/ingest", json=batch)) for batch in batches]
            await wait_until(lambda: sum(task.done() for task in requests) + len(taken) == len(requests))
            done = [task for task in requests if task.done()]
            waiting = [task for task in requests if not task.done()]
            assert done
            assert waiting
            for refused in (task.result() for task in done):
                assert (refused.status_code, refused.json()["code"]) == (503, "OVERLOADED")
                assert refused.headers["retry-after"] == "1"
        stored = [(await task).json() for task in waiting]
        assert stored == [count(accepted=50)] * len(waiting)
        assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 50 * len(waiting)
        for batch in batches:
            await service.ingest(batch)
        assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 600


async def test_a_body_is_refused_unread_while_there_is_no_room_for_it(
    database_url: str, connection: Connection, taken: list[OnConflict]
) -> None:
    async with run_service(database_url, AURUM_INGEST_QUEUE_BYTES="20000") as service:
        await service.register("PRESS-1")
        async with connection.transaction():
            await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
            first = asyncio.create_task(service.ingest([reading(timestamp=at(row)) for row in range(40)]))
            await wait_until(lambda: len(taken) == 1)
            address = httpx.URL(service.url)
            reader, stream = await asyncio.open_connection(address.host, address.port)
            stream.write(b"POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15000\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 503 ")
            stream.close()
        assert await first == count(accepted=40)


@asynccontextmanager
async def without(server_url: str, name: str) -> AsyncIterator[None]:
    """No connection to that database while the block lasts."""
    await run_sql(
        server_url,
        f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid, 30_000) FROM pg_stat_activity WHERE datname = '{name}'",
    )
    try:
        yield
    finally:
        await run_sql(server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")


async def test_readings_wait_for_a_database_that_comes_back_in_time(server_url: str, template: str) -> None:
    async with make_database(server_url, template) as url, run_service(url, AURUM_INGEST_DEADLINE="PT30S") as service:
        await service.register("PRESS-1")
        async with without(server_url, read_database(url)):
            requests = [asyncio.create_task(service.ingest(reading(timestamp=at(number)))) for number in range(20)]
            done, _ = await asyncio.wait(requests, timeout=0.5)
            assert not done
        assert await asyncio.gather(*requests) == [count(accepted=1)] * 20


async def test_a_service_that_stops_answers_whoever_waits(
    database_url: str, connection: Connection, taken: list[OnConflict]
) -> None:
    transaction = connection.transaction()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        async with run_service(database_url, AURUM_INGEST_DEADLINE="PT3S") as service:
            await service.register("PRESS-1")
            await service.ingest(reading())
            await transaction.start()
            await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
            requests = [
                asyncio.create_task(client.post(f"{service.url}/ingest", json=reading(timestamp=at(number))))
                for number in range(9)
            ]
            await wait_until(lambda: len(taken) == 9)
        answers = await asyncio.gather(*requests)
    await transaction.rollback()
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "DATABASE_UNAVAILABLE")}
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 1


async def test_a_service_that_stops_stores_what_it_has_taken(
    database_url: str, connection: Connection, taken: list[OnConflict]
) -> None:
    transaction = connection.transaction()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        async with run_service(database_url) as service:
            await service.register("PRESS-1")
            await service.ingest(reading())
            await transaction.start()
            await connection.execute("LOCK TABLE raw_measurements IN ACCESS EXCLUSIVE MODE")
            requests = [
                asyncio.create_task(client.post(f"{service.url}/ingest", json=reading(timestamp=at(number))))
                for number in range(9)
            ]
            await wait_until(lambda: len(taken) == 9)
            letting_go = asyncio.create_task(let_go(service.url, transaction))
        await letting_go
        assert [(await request).json() for request in requests] == [count(accepted=1)] * 9
    assert await connection.fetchval("SELECT count(*) FROM raw_measurements") == 10


async def let_go(url: str, transaction: Any) -> None:
    """Ends it once the service takes no connections any more: it's about to stop, and waits for what is under way."""
    address = httpx.URL(url)
    with suppress(OSError):
        async with asyncio.timeout(30):
            while True:
                _, stream = await asyncio.open_connection(address.host, address.port)
                stream.close()
                await asyncio.sleep(0.005)
    await transaction.rollback()
