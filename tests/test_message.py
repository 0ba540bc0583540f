"""Readings as senders write them, right and wrong, and what becomes of one that arrives again."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
import pytest
from msgspec import Meta

from app.errors import InvalidInput, PayloadTooLarge
from app.ingest.merge import OnConflict, Outcome, merge_metrics
from app.ingest.message import Limits, Submission, read_json, read_messagepack, read_objects
from app.ingest.refusal import MACHINE_ID_PATTERN, METRIC_PATTERN, Rejection, RejectionCode

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NO_UTF8 = "The body is not UTF-8: a text in it has a byte that can't be read."
GOOD = '{"machine_id": "PRESS-1", "timestamp": "2026-01-31T12:00:00Z", "metrics": {"rpm": 1500}}'
A_TIMESTAMP = (
    "send RFC 3339 with an offset, such as 2026-01-31T12:00:00Z, or whole milliseconds since 1970, not before 1970."
)

MAX_METRICS = 256
LIMITS = Limits(rows=5_000, metrics=MAX_METRICS)

Code: TypeAlias = RejectionCode


class CheckedReading(NamedTuple):
    """A reading that was found right."""

    place: int
    machine_id: str
    timestamp: datetime
    metrics: dict[str, float]


class Batch(NamedTuple):
    """What was made of a batch."""

    readings: list[CheckedReading]
    rejected: list[Rejection]


def view(submission: Submission) -> Batch:
    assert submission.refusals.count == len(submission.refusals.told)
    readings = [
        CheckedReading(place, machine_id, timestamp, json.loads(metrics))
        for place, (machine_id, timestamp, metrics) in zip(submission.places, submission.rows, strict=True)
    ]
    return Batch(readings, submission.refusals.told)


def read(body: str) -> Batch:
    return view(read_json(body.encode(), NOW, LIMITS))


def write_row(machine_id: str = '"PRESS-1"', timestamp: str = "0", metrics: str = '{"rpm": 1}') -> str:
    return f'{{"machine_id": {machine_id}, "timestamp": {timestamp}, "metrics": {metrics}}}'


def refuse(row: str) -> tuple[Code, str]:
    """Why a reading was refused, alone and in the middle of good ones."""
    alone = read(f"[{row}]")
    assert (alone.readings, [rejection.index for rejection in alone.rejected]) == ([], [0])
    among = read(f"[{GOOD}, {row}, {GOOD}]")
    assert [reading.place for reading in among.readings] == [0, 2]
    assert among.rejected == [Rejection(1, alone.rejected[0].code, alone.rejected[0].message)]
    return alone.rejected[0].code, alone.rejected[0].message


def read_instant(timestamp: str) -> datetime:
    submission = read(write_row(timestamp=timestamp))
    assert submission.rejected == []
    return submission.readings[0].timestamp


def test_one_reading_alone_is_a_batch_of_one() -> None:
    expected = Batch([CheckedReading(0, "PRESS-1", NOW, {"rpm": 1500.0})], [])
    assert read(GOOD) == read(f" \n{GOOD} ") == read(f"[{GOOD}]") == expected


def test_an_empty_batch_holds_nothing() -> None:
    assert read("[]") == Batch([], [])


@pytest.mark.parametrize(
    ("timestamp", "instant"),
    [
        ('"2026-01-31T12:00:00Z"', NOW),
        ('"2026-01-31t12:00:00z"', NOW),
        ('"2026-01-31T13:30:00+01:30"', NOW),
        ('"2026-01-31T12:00:00.000001Z"', NOW + timedelta(microseconds=1)),
        ("1769860800000", NOW),
        ("1769860800001", NOW + timedelta(milliseconds=1)),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ('"1970-01-01T00:00:00Z"', datetime(1970, 1, 1, tzinfo=UTC)),
        ('"1969-12-31T23:00:00-01:00"', datetime(1970, 1, 1, tzinfo=UTC)),
        ('"2026-01-31T12:05:00Z"', NOW + timedelta(minutes=5)),
    ],
)
def test_a_timestamp_is_moved_to_utc(timestamp: str, instant: datetime) -> None:
    found = read_instant(timestamp)
    assert (found, found.tzinfo) == (instant, UTC)


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        ('"2026-01-31T12:00:00"', "'2026-01-31T12:00:00'"),
        ('"31.01.2026 12:00"', "'31.01.2026 12:00'"),
        ('"2016-12-31T23:59:60Z"', "'2016-12-31T23:59:60Z'"),
        ('"1769860800000"', "'1769860800000'"),
        ('""', "''"),
        ("1769860800000.0", "1769860800000.0"),
        ("-1", "-1"),
        ("true", "True"),
        ("null", "None"),
        ("[]", "[]"),
        ('"1969-12-31T23:59:59.999999Z"', "1969-12-31T23:59:59.999999+00:00"),
        ('"0001-01-01T00:00:00+14:00"', "0001-01-01T00:00:00+14:00"),
        ("1" + "0" * 30, "1" + "0" * 30),
        ("9" * 400, "9" * 77 + "..."),
        ("9" * 5000, "inf"),
        ('"' + "x" * 200 + '"', "'" + "x" * 76 + "..."),
        ("[" * 500 + "]" * 500, "[" * 77 + "..."),
    ],
)
def test_a_timestamp_that_cannot_be_is_shown_and_refused(timestamp: str, shown: str) -> None:
    assert refuse(write_row(timestamp=timestamp)) == (Code.BAD_TIMESTAMP, f"timestamp {shown} can't be: {A_TIMESTAMP}")


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        ('"2026-01-31T12:05:00.000001Z"', "2026-01-31T12:05:00.000001+00:00"),
        ("1769861100001", "1769861100001"),
        ('"9999-12-31T23:59:59-14:00"', "9999-12-31T23:59:59-14:00"),
    ],
)
def test_a_timestamp_ahead_of_the_clock_is_refused_with_both(timestamp: str, shown: str) -> None:
    assert refuse(write_row(timestamp=timestamp)) == (
        Code.FUTURE_TIMESTAMP,
        f"timestamp {shown} is more than 5 minutes ahead of the service's clock, "
        "which says 2026-01-31T12:00:00+00:00: set the sender's clock.",
    )


@pytest.mark.parametrize(
    ("machine_id", "shown"),
    [
        ('""', "''"),
        ('"-1"', "'-1'"),
        ('"PRESS 1"', "'PRESS 1'"),
        (r'"PRESS-1\n"', r"'PRESS-1\n'"),
        (r'"A\u0000"', r"'A\x00'"),
        ('"' + "A" * 65 + '"', "'" + "A" * 65 + "'"),
        ("7", "7"),
        ("null", "None"),
    ],
)
def test_a_machine_id_that_cannot_be_is_no_registered_machine(machine_id: str, shown: str) -> None:
    message = f"no machine {shown} is registered: register it first, with registerMachine."
    assert refuse(write_row(machine_id=machine_id)) == (Code.UNKNOWN_MACHINE, message)


@pytest.mark.parametrize("machine_id", ["a", "7", "PRESS-1", "plant:3.x_y-z", "A" * 64])
def test_a_machine_id_that_can_be_is_taken(machine_id: str) -> None:
    assert read(write_row(machine_id=json.dumps(machine_id))).readings[0].machine_id == machine_id


@pytest.mark.parametrize("row", ["7", "null", '"reading"', "[]", "[[]]", "true"])
def test_what_is_no_object_is_no_reading(row: str) -> None:
    assert refuse(row) == (Code.BAD_READING, "a reading is an object with machine_id, timestamp and metrics.")


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("{}", "machine_id, timestamp, metrics"),
        ('{"machine_id": "PRESS-1", "timestamp": 0}', "metrics"),
        ('{"machineId": "PRESS-1", "timestamp": 0, "metrics": {"rpm": 1}}', "machine_id"),
        ('{"metrics": "?", "x": 1}', "machine_id, timestamp"),
    ],
)
def test_missing_fields_are_named(row: str, names: str) -> None:
    assert refuse(row) == (Code.MISSING_FIELD, f"the reading lacks {names}.")


def test_fields_too_many_are_named() -> None:
    assert refuse(GOOD[:-1] + ', "unit": "rpm", "site": 3}') == (
        Code.BAD_READING,
        "a reading has machine_id, timestamp and metrics, and no 'unit, site'.",
    )


@pytest.mark.parametrize(
    "row",
    [
        write_row(metrics='{"rpm": "fast", "rpm": 1}'),
        '{"machine_id": 7, ' + GOOD[1:],
        '{"timestamp": "now", ' + GOOD[1:],
    ],
)
def test_a_name_that_is_there_twice_with_a_wrong_value_is_refused_for_that(row: str) -> None:
    message = "the reading has a name twice, and one of the values can't be."
    assert refuse(row) == (Code.BAD_READING, message)


def test_no_metrics_and_too_many_are_refused() -> None:
    assert refuse(write_row(metrics="{}")) == (Code.EMPTY_METRICS, "metrics is empty: send at least one.")
    many = {f"m{number}": number for number in range(MAX_METRICS + 1)}
    assert refuse(write_row(metrics=json.dumps(many))) == (
        Code.TOO_MANY_METRICS,
        "metrics has 257 names, more than AURUM_MAX_METRICS, which is 256: send them in several readings.",
    )
    del many["m0"]
    assert len(read(write_row(metrics=json.dumps(many))).readings[0].metrics) == 256


def test_a_body_of_one_reading_with_too_many_metrics_is_too_large_as_a_whole() -> None:
    wide = write_row(metrics=json.dumps({f"m{number}": number for number in range(MAX_METRICS + 1)}))
    for body in (wide, wide.replace('"m0": 0', '"m0": null'), f"\n{wide}"):
        with pytest.raises(PayloadTooLarge) as caught:
            read(body)
        assert str(caught.value) == (
            "metrics has 257 names, more than AURUM_MAX_METRICS, which is 256: send them in several readings."
        )
    assert [one.code for one in read(f"[{wide}]").rejected] == [Code.TOO_MANY_METRICS]


@pytest.mark.parametrize("metrics", ["null", "[]", "[1]", '"rpm"', "7"])
def test_metrics_that_are_no_object_are_refused(metrics: str) -> None:
    message = "metrics must be an object of names and finite numbers."
    assert refuse(write_row(metrics=metrics)) == (Code.BAD_METRIC, message)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "''"),
        ("1st", "'1st'"),
        (".x", "'.x'"),
        ("oil temp", "'oil temp'"),
        ("größe", "'größe'"),
        ("rpm\n", r"'rpm\n'"),
        ("a" * 65, "'" + "a" * 65 + "'"),
        ("a" * 100, "'" + "a" * 76 + "..."),
    ],
)
def test_a_metric_name_that_cannot_be_is_refused(name: str, shown: str) -> None:
    assert refuse(write_row(metrics=json.dumps({"rpm": 1, name: 2}))) == (
        Code.BAD_METRIC,
        f"metrics has the name {shown}: a name is 1 to 64 letters, digits, dots and underscores "
        "and starts with a letter or an underscore.",
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("null", "None"),
        ("true", "True"),
        ('"1500"', "'1500'"),
        ("[1]", "[1]"),
        ('{"value": 1}', "{'value': 1}"),
        ("1e309", "inf"),
        ("-1e309", "-inf"),
        ("9" * 400, "9" * 77 + "..."),
        ("9" * 5000, "inf"),
    ],
)
def test_a_metric_that_is_no_finite_number_is_refused(value: str, shown: str) -> None:
    message = f"metrics.rpm is {shown}: it must be a finite number in double precision."
    assert refuse(write_row(metrics=f'{{"ok": 1, "rpm": {value}}}')) == (Code.BAD_METRIC, message)


def test_numbers_at_the_edge_of_double_precision_are_taken_exactly() -> None:
    metrics = '{"big": 1.7976931348623157e308, "small": 5e-324, "whole": 9007199254740993, "zero": -0.0}'
    assert read(write_row(metrics=metrics)).readings[0].metrics == {
        "big": 1.7976931348623157e308,
        "small": 5e-324,
        "whole": 9007199254740992.0,
        "zero": 0.0,
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not one reading or an array of readings in JSON: Input data was truncated."),
        (
            b"[" + GOOD.encode(),
            "The body is not one reading or an array of readings in JSON: Input data was truncated.",
        ),
        (b"7", "The body is not one reading or an array of readings in JSON: Expected array, got int."),
        (b'"x"', "The body is not one reading or an array of readings in JSON: Expected array, got str."),
        (
            b'[7, {"machine_id": NaN}]',
            "The body is not one reading or an array of readings in JSON: JSON is malformed: invalid character "
            "(byte 19).",
        ),
        (b"[" * 100_000, "The body is nested too deeply: send one reading or an array of readings."),
        (b'[7, {"machine_id": "\xff"}]', NO_UTF8),
        (b'{"machine_id": "\xff"}', NO_UTF8),
    ],
)
def test_a_body_that_is_no_json_is_refused_as_a_whole(body: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_json(body, NOW, LIMITS)
    assert str(caught.value) == message


# What a part of a reading may be, and the code of its refusal when it's the only thing wrong.
Part: TypeAlias = tuple[str, Code | None]

LONG = "a" * 64
MACHINE_IDS: list[Part] = [
    *[(text, None) for text in ('"PRESS-1"', '"a"', f'"{LONG}"', '"a:b.c_d-e"', r'"\u0041"')],
    *[(text, Code.UNKNOWN_MACHINE) for text in ('""', f'"{LONG}a"', '" a"', '"ä"', r'"a\n"', "0", "null", "[]", "{}")],
]
TIMESTAMPS: list[Part] = [
    *[(text, None) for text in ("0", "1", "1769860800000", '"2026-01-31T12:00:00Z"', '"2026-01-31T12:00:00.5+05:30"')],
    *[(text, Code.BAD_TIMESTAMP) for text in ("-1", "1.5", "1e3", "true", "null", '""', '"now"', "[]", "{}", "9" * 30)],
    *[
        (text, Code.BAD_TIMESTAMP)
        for text in ('"2026-01-31T12:00:00"', '"2026-02-30T12:00:00Z"', "9" * 5000, "-" + "9" * 99)
    ],
    *[
        (text, Code.FUTURE_TIMESTAMP)
        for text in ("1769861100001", '"2026-01-31T12:05:01Z"', '"9999-12-31T23:59:59-23:59"')
    ],
]
NAMES: list[Part] = [
    *[(text, None) for text in ('"rpm"', '"_"', '"a.b"', '"Z9"', f'"{LONG}"', r'"\u0072pm"')],
    *[(text, Code.BAD_METRIC) for text in ('""', '"1"', '"a b"', '"é"', f'"{LONG}a"', r'"a\n"', r'"\u0000"')],
]
NUMBERS: list[Part] = [
    *[(text, None) for text in ("0", "-0", "1", "-1.5", "1e308", "5e-324", "9" * 300)],
    *[
        (text, Code.BAD_METRIC)
        for text in ("null", "true", '"1"', "[]", "{}", "1e309", "-1e999", "9" * 310, "9" * 5000)
    ],
]
NO_METRICS: list[Part] = [
    ("{}", Code.EMPTY_METRICS),
    *[(text, Code.BAD_METRIC) for text in ("null", "1", "[]", '"rpm"')],
    ("{" + ", ".join(f'"m{number}": 1' for number in range(257)) + "}", Code.TOO_MANY_METRICS),
]
NO_READINGS = ["7", "null", '"x"', "[]", "true", "1e999", "[[[]]]"]


class OddReadings:
    """A generator of readings in JSON, each with the codes of all that is wrong with it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _choose(self, parts: list[Part], flaws: list[Code]) -> str:
        good = [part for part in parts if part[1] is None]
        text, flaw = self._random.choice(good if good and self._random.random() < 0.8 else parts)
        if flaw is not None:
            flaws.append(flaw)
        return text

    def _write_metrics(self, flaws: list[Code]) -> str:
        if self._random.random() < 0.1:
            return self._choose(NO_METRICS, flaws)
        metrics: dict[str, str] = {}  # by the decoded name, since two spellings of one would be a repeat
        for _ in range(self._random.randint(1, 4)):
            wrong: list[Code] = []
            pair = f"{(name := self._choose(NAMES, wrong))}: {self._choose(NUMBERS, wrong)}"
            if json.loads(name) not in metrics:
                metrics[json.loads(name)] = pair
                flaws.extend(wrong)
        return "{" + ", ".join(metrics.values()) + "}"

    def write(self) -> tuple[str, list[Code]]:
        if self._random.random() < 0.03:
            return self._random.choice(NO_READINGS), [Code.BAD_READING]
        flaws: list[Code] = []
        fields = [
            f'"machine_id": {self._choose(MACHINE_IDS, flaws)}',
            f'"timestamp": {self._choose(TIMESTAMPS, flaws)}',
            f'"metrics": {self._write_metrics(flaws)}',
        ]
        if self._random.random() < 0.05:
            fields.append('"unit": "rpm"')
            flaws.append(Code.BAD_READING)
        if self._random.random() < 0.05:
            fields.insert(0, '"timestamp": {}')
            flaws.append(Code.BAD_READING)
        elif self._random.random() < 0.05:
            fields.pop(self._random.randrange(len(fields)))
            flaws = [Code.MISSING_FIELD, *flaws]
        return "{" + self._random.choice([", ", ",", " ,\n\t"]).join(fields) + "}", flaws


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reading as its types alone can say it: slower than what the service does, and hard to get wrong."""

    machine_id: Annotated[str, Meta(pattern=MACHINE_ID_PATTERN)]
    timestamp: Annotated[datetime, Meta(tz=True)] | int
    metrics: Annotated[
        dict[Annotated[str, Meta(pattern=METRIC_PATTERN)], float], Meta(min_length=1, max_length=MAX_METRICS)
    ]


_decoder = msgspec.json.Decoder(Reading)


def decode(row: str) -> Reading | None:
    """What the typed decoder makes of one reading, apart from its place in time."""
    try:
        return _decoder.decode(row)
    except msgspec.ValidationError:
        return None


def accepts(row: str) -> bool:
    reading = decode(row)
    if reading is None:
        return False
    if isinstance(reading.timestamp, int):
        return 0 <= reading.timestamp <= 1_769_861_100_000
    return datetime(1970, 1, 1, tzinfo=UTC) <= reading.timestamp <= NOW + timedelta(minutes=5)


@pytest.mark.parametrize("seed", range(4))
def test_of_thousands_of_odd_readings_none_is_lost_and_each_is_judged_as_if_it_were_alone(seed: int) -> None:
    odd = OddReadings(seed)
    seen: Counter[Code] = Counter()
    for size in [0, 1, 2, 3, *[64] * 30]:
        batch = [odd.write() for _ in range(size)]
        rows = [row for row, _ in batch]
        submission = read("[" + ",".join(rows) + "]")
        good = [index for index, row in enumerate(rows) if accepts(row)]
        assert [reading.place for reading in submission.readings] == good
        assert [rejection.index for rejection in submission.rejected] == sorted(set(range(size)) - set(good))
        for reading in submission.readings:
            decoded = decode(rows[reading.place])
            assert decoded is not None
            assert (reading.machine_id, reading.metrics) == (decoded.machine_id, decoded.metrics)
        for rejection in submission.rejected:
            row, flaws = batch[rejection.index]
            assert rejection.message.endswith(".")
            assert len(rejection.message) < 300
            assert len(flaws) != 1 or rejection.code is flaws[0], row
            assert read(f"[{row}]").rejected == [Rejection(0, rejection.code, rejection.message)]
            if row.startswith("{") and rejection.code is not Code.TOO_MANY_METRICS:
                assert read(row).rejected == [Rejection(0, rejection.code, rejection.message)]
            seen[rejection.code] += 1
    assert set(seen) == set(RejectionCode) - {Code.REFUSED_BY_DATABASE}


def test_a_batch_of_good_readings_takes_the_fast_path_to_the_same_result() -> None:
    odd = OddReadings(11)
    rows = [row for row in (odd.write()[0] for _ in range(2000)) if accepts(row)]
    fast = read("[" + ",".join(rows) + "]")
    slow = read("[" + ",".join([*rows, "7"]) + "]")
    assert len(fast.readings) == len(rows) > 300
    assert (slow.readings, fast.rejected) == (fast.readings, [])
    assert [rejection.index for rejection in slow.rejected] == [len(rows)]


def read_one_object(row: Mapping[str, Any]) -> Batch:
    return view(read_objects([row], NOW, LIMITS))


def make_object(**fields: object) -> dict[str, object]:
    return {"machine_id": "PRESS-1", "timestamp": NOW, "metrics": {"rpm": 1}, **fields}


def parse_whole(text: str) -> int | float:
    return int(text) if len(text) < 1000 else float(text)


def test_objects_of_another_protocol_are_judged_like_json() -> None:
    odd = OddReadings(12)
    # Without texts as timestamps, which the other protocol decodes, and without names that are there twice.
    batch = [
        (row, flaws)
        for row, flaws in (odd.write() for _ in range(2000))
        if row.startswith("{") and row.count('"timestamp"') == 1 and '"timestamp": "' not in row
    ]
    in_json = read("[" + ",".join(row for row, _ in batch) + "]")
    objects = view(read_objects([json.loads(row, parse_int=parse_whole) for row, _ in batch], NOW, LIMITS))
    assert len(objects.readings) + len(objects.rejected) == len(batch) > 1000
    assert objects.readings == in_json.readings
    assert [one.index for one in objects.rejected] == [one.index for one in in_json.rejected]
    single = [one.code for one in objects.rejected if len(batch[one.index][1]) == 1]
    assert single == [flaws[0] for _, flaws in batch if len(flaws) == 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_object_with_a_number_that_is_not_finite_is_refused(value: float) -> None:
    message = f"metrics.rpm is {value}: it must be a finite number in double precision."
    assert read_one_object(make_object(metrics={"ok": 1.0, "rpm": value})) == Batch(
        [], [Rejection(0, Code.BAD_METRIC, message)]
    )


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (make_object(timestamp=datetime(2026, 1, 31)), Code.BAD_TIMESTAMP),  # noqa: DTZ001 - naive on purpose
        (make_object(timestamp=None), Code.BAD_TIMESTAMP),
        (make_object(timestamp=NOW + timedelta(minutes=6)), Code.FUTURE_TIMESTAMP),
        (make_object(timestamp=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))), Code.BAD_TIMESTAMP),
        (make_object(metrics={1: 2}), Code.BAD_METRIC),
        (make_object(metrics={"rpm": 10**400}), Code.BAD_METRIC),
        (make_object(metrics={"rpm": True}), Code.BAD_METRIC),
        (make_object(machine_id="A\ud800"), Code.UNKNOWN_MACHINE),
        (make_object(machine_id=b"A"), Code.UNKNOWN_MACHINE),
        (make_object(unit="rpm"), Code.BAD_READING),
        ({}, Code.MISSING_FIELD),
    ],
)
def test_an_object_that_is_wrong_is_refused_with_its_code(row: Mapping[str, Any], code: Code) -> None:
    assert [rejection.code for rejection in read_one_object(row).rejected] == [code]


def test_objects_keep_their_places() -> None:
    rows = [make_object(), make_object(metrics={}), MappingProxyType(make_object()), make_object(timestamp=-1)]
    submission = view(read_objects(rows, NOW, LIMITS))
    assert [reading.place for reading in submission.readings] == [0, 2]
    assert [(one.index, one.code) for one in submission.rejected] == [(1, Code.EMPTY_METRICS), (3, Code.BAD_TIMESTAMP)]


@pytest.mark.parametrize(
    ("stored", "arriving", "kept", "overwritten", "outcome"),
    [
        (None, {"a": 1.0}, {"a": 1.0}, {"a": 1.0}, Outcome.ACCEPTED),
        ({"a": 1.0}, {"a": 1.0}, {"a": 1.0}, {"a": 1.0}, Outcome.DUPLICATE),
        ({"a": 1.0, "b": 2.0}, {"b": 2.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, Outcome.DUPLICATE),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, Outcome.ACCEPTED),
        ({"a": 1.0}, {"a": 9.0}, {"a": 1.0}, {"a": 9.0}, Outcome.CONFLICT),
        ({"a": 1.0}, {"a": 9.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, {"a": 9.0, "b": 2.0}, Outcome.CONFLICT),
        ({"a": 0.0}, {"a": -0.0}, {"a": 0.0}, {"a": 0.0}, Outcome.DUPLICATE),
    ],
)
def test_a_reading_that_arrives_again_is_merged(
    stored: dict[str, float] | None,
    arriving: dict[str, float],
    kept: dict[str, float],
    overwritten: dict[str, float],
    outcome: Outcome,
) -> None:
    for on_conflict, expected in ((OnConflict.KEEP, kept), (OnConflict.OVERWRITE, overwritten)):
        merged = merge_metrics(stored, [arriving], on_conflict)
        assert (merged.metrics, merged.outcomes) == (expected, [outcome])


def test_readings_are_merged_one_after_the_other() -> None:
    arriving = [{"a": 1.0}, {"a": 1.0}, {"a": 2.0, "b": 1.0}, {"a": 1.0}, {"b": 1.0}]
    keep = merge_metrics(None, arriving, OnConflict.KEEP)
    assert keep.metrics == {"a": 1.0, "b": 1.0}
    assert [outcome.value for outcome in keep.outcomes] == [
        "ACCEPTED",
        "DUPLICATE",
        "CONFLICT",
        "DUPLICATE",
        "DUPLICATE",
    ]
    overwrite = merge_metrics(None, arriving, OnConflict.OVERWRITE)
    assert overwrite.metrics == {"a": 1.0, "b": 1.0}
    assert [outcome.value for outcome in overwrite.outcomes] == [
        "ACCEPTED",
        "DUPLICATE",
        "CONFLICT",
        "CONFLICT",
        "DUPLICATE",
    ]


def make_metrics(chance: random.Random, least: int) -> dict[str, float]:
    return {name: float(chance.randint(0, 2)) for name in chance.sample("abcd", chance.randint(least, 4))}


@pytest.mark.parametrize("seed", range(5))
def test_the_laws_of_merging_hold_for_any_readings(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(400):
        stored = make_metrics(chance, 0)
        before = dict(stored)
        arriving = [make_metrics(chance, 1) for _ in range(chance.randint(0, 5))]
        everything = [stored, *arriving]
        keep = merge_metrics(stored, arriving, OnConflict.KEEP)
        overwrite = merge_metrics(stored, arriving, OnConflict.OVERWRITE)
        assert stored == before
        # KEEP shows of each name the first value, OVERWRITE the last.
        assert keep.metrics == {name: value for reading in reversed(everything) for name, value in reading.items()}
        assert overwrite.metrics == {name: value for reading in everything for name, value in reading.items()}
        assert len(keep.outcomes) == len(overwrite.outcomes) == len(arriving)
        # All of it again changes nothing, and under KEEP only what disagreed disagrees again.
        again = merge_metrics(keep.metrics, arriving, OnConflict.KEEP)
        assert again.metrics == keep.metrics
        assert Outcome.ACCEPTED not in again.outcomes
        assert again.outcomes.count(Outcome.CONFLICT) == keep.outcomes.count(Outcome.CONFLICT)
        # One by one or together is the same.
        metrics: dict[str, float] = stored
        outcomes: list[Outcome] = []
        for reading in arriving:
            step = merge_metrics(metrics, [reading], OnConflict.OVERWRITE)
            metrics, outcomes = step.metrics, outcomes + step.outcomes
        assert (metrics, outcomes) == (overwrite.metrics, overwrite.outcomes)


def test_an_extension_of_messagepack_is_named_by_its_type_and_not_by_its_address() -> None:
    reading = {"machine_id": "PRESS-1", "timestamp": msgspec.msgpack.Ext(5, b"x"), "metrics": {"rpm": 1}}
    (rejection,) = read_messagepack(msgspec.msgpack.encode(reading), NOW, LIMITS).refusals.told
    assert rejection.message == f"timestamp an extension of MessagePack of type 5 can't be: {A_TIMESTAMP}"
