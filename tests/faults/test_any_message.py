"""Whatever is sent: each reading of it becomes a row or a refusal with a code and a sentence, and nothing is raised but
a refusal of the whole body."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.errors import InvalidInput, PayloadTooLarge
from app.ingest.message import Limits, Submission, count_lines, read_json, read_lines, read_messagepack, read_objects
from app.ingest.refusal import Rejection, RejectionCode, match_machine_id, match_metric
from tests.faults import ROUNDS

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
LIMITS = Limits(rows=50, metrics=4)

settings.register_profile(
    "faults", max_examples=150 * ROUNDS, deadline=None, database=None, derandomize=ROUNDS == 1, print_blob=True
)
settings.load_profile("faults")

Read: TypeAlias = Callable[[bytes], Submission]


def read_as_lines(body: bytes) -> Submission:
    return read_lines(body, 0, NOW, LIMITS)


READERS: dict[str, Read] = {
    "json": lambda body: read_json(body, NOW, LIMITS),
    "messagepack": lambda body: read_messagepack(body, NOW, LIMITS),
    "lines": read_as_lines,
}

# --- What is sent -------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
NAMES = st.sampled_from(["rpm", "oil.temp", "_", "a" * 64]) | st.text(max_size=4)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1)
INSTANTS = st.integers(0, 1_769_860_800_000) | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
METRICS = st.dictionaries(NAMES, NUMBERS | ANYTHING, max_size=5)
# Like a reading, with anything in the place of some of its parts, lacking some or with more of them.
READINGS = st.fixed_dictionaries(
    {},
    optional={
        "machine_id": st.sampled_from(["PRESS-1", "plant:3"]) | ANYTHING,
        "timestamp": INSTANTS | ANYTHING,
        "metrics": METRICS | ANYTHING,
    },
) | st.fixed_dictionaries(
    {"machine_id": st.just("PRESS-1"), "timestamp": INSTANTS, "metrics": METRICS},
    optional={"unit": ANYTHING},
)
BATCHES = st.lists(READINGS | ANYTHING, max_size=6)


def encode_json(rows: list[Any]) -> bytes:
    # Python's own encoder, which writes Infinity where a number isn't finite, and escapes what isn't ASCII.
    return json.dumps(rows).encode()


def encode_lines(rows: list[Any]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


ENCODERS: dict[str, Callable[[list[Any]], bytes]] = {
    "json": encode_json,
    "messagepack": msgspec.msgpack.encode,
    "lines": encode_lines,
}


@st.composite
def damaged(draw: st.DrawFn, syntax: str) -> bytes:
    """A body of which a piece was cut out, doubled, or replaced."""
    body = ENCODERS[syntax](draw(BATCHES))
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 20)))
    return body[:start] + draw(st.binary(max_size=4) | st.just(body[start:end] * 2)) + body[end:]


# --- What may become of it ----------------------------------------------------------------------------------------


def check_rejection(rejection: Rejection) -> None:
    assert rejection.code in RejectionCode
    assert rejection.message.endswith(".")
    assert 20 < len(rejection.message) < 300
    assert msgspec.json.decode(msgspec.json.encode(rejection))["message"] == rejection.message


def check_row(row: tuple[str, datetime, str]) -> None:
    machine_id, timestamp, metrics = row
    assert match_machine_id(machine_id)
    assert datetime(1970, 1, 1, tzinfo=UTC) <= timestamp <= NOW + timedelta(minutes=5)
    decoded = json.loads(metrics)
    assert 0 < len(decoded) <= LIMITS.metrics
    assert all(match_metric(name) and math.isfinite(value) for name, value in decoded.items())


def check(submission: Submission, count: int | None = None) -> None:
    refused = [rejection.index for rejection in submission.refusals.told]
    places = sorted([*submission.places, *refused])
    assert len(submission.rows) == len(submission.places)
    assert len(set(places)) == len(places)
    if count is not None:
        assert places == list(range(count))
    for row in submission.rows:
        check_row(row)
    for rejection in submission.refusals.told:
        check_rejection(rejection)


def check_body(read: Read, body: bytes, count: int | None = None) -> None:
    try:
        submission = read(body)
    except (InvalidInput, PayloadTooLarge) as error:
        refusal = str(error)
    else:
        check(submission, count)
        return
    assert refusal.endswith(".")
    assert len(refusal) < 300


@pytest.mark.parametrize("syntax", READERS)
@given(body=st.binary())
@example(b"")
def test_any_bytes_are_read_or_refused(syntax: str, body: bytes) -> None:
    check_body(READERS[syntax], body)


@pytest.mark.parametrize("syntax", READERS)
@given(data=st.data())
def test_a_damaged_body_is_read_or_refused(syntax: str, data: st.DataObject) -> None:
    check_body(READERS[syntax], data.draw(damaged(syntax)))


@given(rows=BATCHES)
def test_of_any_objects_each_is_a_row_or_a_refusal(rows: list[Any]) -> None:
    check(read_objects(rows, NOW, LIMITS), len(rows))


@given(rows=BATCHES)
def test_the_same_readings_come_to_the_same_in_every_format(rows: list[Any]) -> None:
    rows = msgspec.json.decode(msgspec.json.encode(rows))  # JSON has no infinity
    in_json = READERS["json"](msgspec.json.encode(rows))
    check(in_json, len(rows))
    for name, body in (
        ("messagepack", msgspec.msgpack.encode(rows)),
        ("lines", msgspec.json.Encoder().encode_lines(rows)),
    ):
        other = READERS[name](body)
        assert (other.rows, list(other.places)) == (in_json.rows, list(in_json.places)), name
        assert other.refusals.told == in_json.refusals.told, name


# --- What these have found ----------------------------------------------------------------------------------------

ONE = b'{"machine_id": "P", "timestamp": 1, "metrics": {"a": 1}}'


@pytest.mark.parametrize("field", ["machine_id", "timestamp", "metrics"])
def test_whole_numbers_of_any_length_refuse_their_reading(field: str) -> None:
    for value in (10**5000, -(10**5000)):
        row = {"machine_id": "P", "timestamp": 1, "metrics": {"a": 1}}
        for odd in ({**row, field: value}, {**row, "metrics": {"a": value}}):
            check(read_objects([odd], NOW, LIMITS), 1)


def test_nesting_of_any_depth_refuses_its_reading_or_the_body() -> None:
    for depth in range(1, 1100, 1 if ROUNDS > 1 else 7):
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            deep = opening * depth + "1" + closing * depth
            packed = (b"\x91" if opening == "[" else b"\x81\xa1a") * depth + b"\x01"
            for field in ("machine_id", "timestamp", "metrics"):
                fields = {"machine_id": '"P"', "timestamp": "1", "metrics": '{"a": 1}', field: deep}
                row = "{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}"
                check_body(READERS["json"], f"[{row}]".encode(), 1)
                check_body(READERS["lines"], row.encode(), 1)
                in_pack = {"machine_id": b"\xa1P", "timestamp": b"\x01", "metrics": b"\x81\xa1a\x01", field: packed}
                head = b"\x91\x83"
                parts = [msgspec.msgpack.encode(name) + value for name, value in in_pack.items()]
                check_body(READERS["messagepack"], head + b"".join(parts), 1)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xef\xbb\xbf" + ONE, "UTF-8 BOM"),
        (ONE.decode().encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
        (ONE.decode().encode("utf-16-le"), "Expecting property name"),
    ],
)
def test_a_line_in_another_encoding_is_refused_for_that(line: bytes, reason: str) -> None:
    told = read_as_lines(line).refusals.told
    assert [rejection.code for rejection in told] == [RejectionCode.BAD_READING]
    assert reason in told[0].message
    assert count_lines(line) == 1
