"""Bodies that are odd or meant to harm: each has its answer, word for word, and the service is as it was before."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.client import ServiceClient
from tests.faults.processes import ServiceProcess, needs_proc, unharmed
from tests.test_ingest import Connection, reading
from tests.test_intake import MESSAGEPACK, NDJSON, at, count

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = needs_proc

JSON = {"content-type": "application/json"}
FORMATS = [
    pytest.param(JSON, id="json"),
    pytest.param(NDJSON, id="ndjson"),
    pytest.param(MESSAGEPACK, id="messagepack"),
]

# --- Bodies that are refused as a whole ---------------------------------------------------------------------------

TOO_DEEP = "The body is nested too deeply: send one reading or an array of readings."
NO_UTF8 = "The body is not UTF-8: a text in it has a byte that can't be read."
MALFORMED = (
    "The body is not one reading or an array of readings in JSON: JSON is malformed: invalid character (byte 59)."
)
GOOD = b'{"machine_id": "PRESS-1", "timestamp": 1, "metrics": {"a": 1}}'


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        pytest.param(JSON, b"[" * 1_000_000, TOO_DEEP, id="arrays"),
        pytest.param(JSON, b'{"metrics":' * 500_000, TOO_DEEP, id="objects"),
        pytest.param(JSON, b"[" + GOOD.replace(b"1}}", b"[" * 1_000_000), TOO_DEEP, id="arrays in a metric"),
        pytest.param(MESSAGEPACK, b"\x91" * 1_000_000, TOO_DEEP, id="packed arrays"),
        pytest.param(MESSAGEPACK, b"\x81\xa1a" * 500_000, TOO_DEEP, id="packed maps"),
        pytest.param(JSON, b"[" + GOOD.replace(b"PRESS", b"\xff\xfe") + b"]", NO_UTF8, id="no utf-8"),
        pytest.param(JSON, GOOD.replace(b'"a"', b'"\xed\xa0\x80"'), NO_UTF8, id="half a surrogate pair"),
        pytest.param(
            MESSAGEPACK,
            msgspec.msgpack.encode([{"machine_id": b"\xff"}]).replace(b"\xc4\x01", b"\xa1"),
            NO_UTF8,
            id="packed no utf-8",
        ),
        pytest.param(JSON, GOOD.replace(b"1}}", b"NaN}}"), MALFORMED, id="NaN"),
        pytest.param(JSON, GOOD.replace(b"1}}", b"Infinity}}"), MALFORMED, id="Infinity"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_whole(
    process: ServiceProcess, database: Connection, headers: dict[str, str], body: bytes, message: str
) -> None:
    async with unharmed(process, database), ServiceClient(process.url) as client:
        for _ in range(5):
            response = await client.http.post("/ingest", content=body, headers=headers)
            assert (response.status_code, response.json()) == (400, {"code": "BAD_USER_INPUT", "message": message})


def make_bombs() -> Iterator[tuple[str, bytes]]:
    """All of them are best made beforehand: it takes long, and a connection that does nothing meanwhile is closed."""
    inner = zlib.compressobj(9, wbits=31)
    yield "gzip", b"".join([*(inner.compress(b" " * 1_000_000) for _ in range(64)), inner.flush()])
    yield "zstd", zstd.compress(b"\n" * 1_000_000_000)
    # of many small streams, each of which is harmless
    yield "gzip", gzip.compress(b" " * 1_000_000) * 60
    yield "zstd", zstd.compress(b" " * 1_000_000) * 1_000


@pytest.mark.parametrize("headers", FORMATS)
async def test_a_bomb_is_refused_before_it_goes_off(
    process: ServiceProcess, database: Connection, headers: dict[str, str]
) -> None:
    bombs = list(make_bombs())
    async with unharmed(process, database), ServiceClient(process.url) as client:
        for coding, bomb in bombs:
            answer = await client.http.post("/ingest", content=bomb, headers={**headers, "content-encoding": coding})
            assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
            # Blank lines go by while they arrive, and then it's said how many did.
            assert answer.json()["message"].partition(" What is under")[0] == (
                "The body decompresses to more than 200 times its size."
            )


async def test_a_window_that_takes_too_much_memory_is_refused(process: ServiceProcess, database: Connection) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.checksum_flag: 1}
    body = zstd.compress(b"[" + b" " * 200_000_000, options=options)
    async with unharmed(process, database), ServiceClient(process.url) as client:
        answer = await client.http.post("/ingest", content=body, headers={"content-encoding": "zstd"})
        assert (answer.status_code, answer.json()) == (
            400,
            {"code": "BAD_USER_INPUT", "message": "The body is not zstd, as its Content-Encoding says."},
        )


# --- Readings that are refused alone ------------------------------------------------------------------------------

A_TIMESTAMP = (
    "send RFC 3339 with an offset, such as 2026-01-31T12:00:00Z, or whole milliseconds since 1970, not before 1970."
)
A_NUMBER = "it must be a finite number in double precision."
A_NAME = "a name is 1 to 64 letters, digits, dots and underscores and starts with a letter or an underscore."
TWICE = "the reading has a name twice, and one of the values can't be."
WIDE = "{" + ", ".join(f'"m{number}": {number}' for number in range(300)) + "}"
TOO_WIDE = "metrics has 300 names, more than AURUM_MAX_METRICS, which is 256: send them in several readings."


def write_row(machine_id: str = '"PRESS-1"', timestamp: str = "1", metrics: str = '{"a": 1}') -> str:
    return f'{{"machine_id": {machine_id}, "timestamp": {timestamp}, "metrics": {metrics}}}'


ODD = [
    (
        write_row(timestamp='"0001-01-01T00:00:00Z"'),
        "BAD_TIMESTAMP",
        f"timestamp 0001-01-01T00:00:00+00:00 can't be: {A_TIMESTAMP}",
    ),
    (
        write_row(timestamp='"0001-01-01T00:00:00+14:00"'),
        "BAD_TIMESTAMP",
        f"timestamp 0001-01-01T00:00:00+14:00 can't be: {A_TIMESTAMP}",
    ),
    (write_row(timestamp="-62135596800000"), "BAD_TIMESTAMP", f"timestamp -62135596800000 can't be: {A_TIMESTAMP}"),
    (write_row(timestamp="1" + "0" * 30), "BAD_TIMESTAMP", f"timestamp 1{'0' * 30} can't be: {A_TIMESTAMP}"),
    (write_row(metrics='{"a": 1e400}'), "BAD_METRIC", f"metrics.a is inf: {A_NUMBER}"),
    (write_row(metrics='{"a": -1e400}'), "BAD_METRIC", f"metrics.a is -inf: {A_NUMBER}"),
    (write_row(metrics='{"a": 1' + "0" * 400 + "}"), "BAD_METRIC", f"metrics.a is inf: {A_NUMBER}"),
    (write_row(metrics='{"a\\u0000": 1}'), "BAD_METRIC", f"metrics has the name 'a\\x00': {A_NAME}"),
    (
        write_row(machine_id='"PRESS-1\\u0000"'),
        "UNKNOWN_MACHINE",
        "no machine 'PRESS-1\\x00' is registered: register it first, with registerMachine.",
    ),
    (write_row(metrics=WIDE), "TOO_MANY_METRICS", TOO_WIDE),
    (write_row(metrics='{"a": "x", "a": 1}'), "BAD_READING", TWICE),
    (write_row(metrics="[" * 500 + "]" * 500), "BAD_METRIC", "metrics must be an object of names and finite numbers."),
]


@pytest.mark.parametrize("headers", [JSON, NDJSON])
async def test_an_odd_reading_is_refused_alone_in_exact_words(
    process: ServiceProcess, database: Connection, headers: dict[str, str]
) -> None:
    rows = [write_row(timestamp="1000"), *(row for row, _, _ in ODD), write_row(timestamp="2000")]
    body = "[" + ", ".join(rows) + "]" if headers is JSON else "\n".join(rows)
    async with unharmed(process, database), ServiceClient(process.url) as client:
        response = await client.http.post("/ingest", content=body, headers=headers)
        answer = response.json()
    assert (response.status_code, answer["accepted"], answer["rejectedCount"]) == (200, 2, len(ODD))
    assert answer["rejected"] == [
        {"index": index, "code": code, "message": message} for index, (_, code, message) in enumerate(ODD, 1)
    ]


async def test_a_line_that_is_no_utf8_is_refused_alone(process: ServiceProcess, database: Connection) -> None:
    async with unharmed(process, database), ServiceClient(process.url) as client:
        body = b"\n".join([GOOD, GOOD.replace(b"PRESS", b"\xff"), GOOD.replace(b": 1,", b": 2,")])
        answer = (await client.http.post("/ingest", content=body, headers=NDJSON)).json()
    assert (answer["accepted"], answer["rejectedCount"]) == (2, 1)
    assert answer["rejected"] == [
        {
            "index": 1,
            "code": "BAD_READING",
            "message": "the reading can't be read: "
            "\"'utf-8' codec can't decode byte 0xff in position 16: invalid start byte\".",
        }
    ]


@pytest.mark.parametrize("headers", FORMATS)
async def test_of_a_name_that_is_there_twice_the_last_value_counts(
    process: ServiceProcess, database: Connection, headers: dict[str, str]
) -> None:
    row = write_row(metrics='{"a": 7, "b": 1, "a": 2}')
    body = row.replace("{", '{"machine_id": "PROBE", ', 1).encode()
    if headers is MESSAGEPACK:
        body = b"\x84\xaamachine_id\xa5PROBE\xaamachine_id\xa7PRESS-1\xa9timestamp\x01\xa7metrics\x83\xa1a\x07\xa1b\x01\xa1a\x02"
    async with unharmed(process, database), ServiceClient(process.url) as client:
        response = await client.http.post("/ingest", content=body, headers=headers)
    assert response.json() == count(accepted=1)
    rows = await database.fetch("SELECT metrics FROM raw_measurements WHERE machine_id = 'PRESS-1'")
    assert [json.loads(row["metrics"]) for row in rows] == [{"a": 2, "b": 1}]


async def test_a_clock_that_is_an_hour_wrong_is_told_when_ahead_and_believed_when_behind(
    process: ServiceProcess, database: Connection
) -> None:
    now = datetime.now(UTC)
    ahead, behind = (now + timedelta(hours=hours) for hours in (1, -1))
    year_9999 = "9999-12-31T23:59:59.999999Z"
    async with unharmed(process, database), ServiceClient(process.url) as client:
        rows = [reading(timestamp=each.isoformat()) for each in (ahead, behind)]
        answer = await client.ingest([*rows, reading(timestamp=year_9999), reading(timestamp=253_402_300_799_999)])
        # Once the clock is set right, it goes on.
        assert await client.ingest(reading(timestamp=now.isoformat())) == count(accepted=1)
    assert (answer["accepted"], answer["rejectedCount"]) == (1, 3)
    shown = [ahead.isoformat(), "9999-12-31T23:59:59.999999+00:00", "253402300799999"]
    for refused, index, timestamp in zip(answer["rejected"], (0, 2, 3), shown, strict=True):
        assert (refused["index"], refused["code"]) == (index, "FUTURE_TIMESTAMP")
        assert refused["message"].startswith(
            f"timestamp {timestamp} is more than 5 minutes ahead of the service's clock, which says 20"
        )
        assert refused["message"].endswith("+00:00: set the sender's clock.")


@pytest.mark.parametrize("headers", FORMATS)
async def test_300_metrics_are_too_many_in_any_format(
    process: ServiceProcess, database: Connection, headers: dict[str, str]
) -> None:
    wide = json.loads(write_row(metrics=WIDE))
    encode: Any = msgspec.msgpack.encode if headers is MESSAGEPACK else msgspec.json.encode
    async with unharmed(process, database), ServiceClient(process.url) as client:
        response = await client.http.post("/ingest", content=encode(wide), headers=headers)
    if headers is NDJSON:
        assert response.json()["rejected"] == [{"index": 0, "code": "TOO_MANY_METRICS", "message": TOO_WIDE}]
    else:
        assert (response.status_code, response.json()) == (413, {"code": "PAYLOAD_TOO_LARGE", "message": TOO_WIDE})


MUTATION = """
    mutation ($rows: [MeasurementInput!]!) { ingest(measurements: $rows) { accepted rejected { index code message } } }
"""
LITERAL = """
    mutation {
      ingest(measurements: [{machineId: "PRESS-1", timestamp: "2026-01-31T12:00:00Z", metrics: {a: %s}}]) {
        accepted rejected { index code message }
      }
    }
"""


async def test_graphql_refuses_odd_readings_in_the_same_words(process: ServiceProcess, database: Connection) -> None:
    odd = [each for each in ODD if "x00" in each[2] or each[1] == "TOO_MANY_METRICS"]
    given = [json.loads(row) for row, _, _ in odd]
    rows = [{"machineId": row["machine_id"], "timestamp": at(0), "metrics": row["metrics"]} for row in given]
    async with unharmed(process, database), ServiceClient(process.url) as client:
        answer = await client.ask(MUTATION, rows=rows)
    assert answer["ingest"]["rejected"] == [
        {"index": index, "code": code, "message": message} for index, (_, code, message) in enumerate(odd)
    ]


@pytest.mark.parametrize("digits", [400, 4_000, 5_000, 60_000])
async def test_graphql_takes_whole_numbers_of_any_length_for_what_they_are(
    process: ServiceProcess, database: Connection, digits: int
) -> None:
    async with unharmed(process, database), ServiceClient(process.url) as client:
        answer = await client.ask(LITERAL % ("1" * digits))
        row = f'{{"machineId": "PRESS-1", "timestamp": "{at(0)}", "metrics": {{"a": {"1" * digits}}}}}'
        body = f'{{"query": {json.dumps(MUTATION)}, "variables": {{"rows": [{row}]}}}}'
        variable = await client.http.post("/graphql", content=body)
    (refused,) = answer["ingest"]["rejected"]
    assert (refused["index"], refused["code"]) == (0, "BAD_METRIC")
    assert refused["message"].startswith("metrics.a is ")
    assert refused["message"].endswith(A_NUMBER)
    if digits < 4_300:
        assert variable.json()["data"] == answer
    else:
        assert (variable.status_code, variable.json()["errors"][0]["extensions"]["code"]) == (400, "BAD_REQUEST")
