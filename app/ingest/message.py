"""Readings as they come over the wire: decoded, checked one by one, each refused one named. Pure: no clock, no database.

Arrives: one reading or an array of them in JSON or MessagePack, lines of JSON, or objects that are decoded already.
Leaves: a Submission, with a row for each good reading and a Rejection for every other. Fails: InvalidInput, when a body
can't be read at all, and PayloadTooLarge, when it holds more readings than it may, or is one with too many metrics.

What is typical is checked for the whole batch at once, in C: a Python call for each metric of each reading would cost
more than all the rest. Only a batch with something wrong in it is looked through reading by reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeAlias

import msgspec

from app.errors import InvalidInput, PayloadTooLarge
from app.ingest.refusal import (
    OLDEST,
    Problem,
    Refusals,
    RejectionCode,
    Timestamp,
    find_problem,
    match_machine_id,
    match_metric,
    show_value,
    to_instant,
)
from app.instants import FUTURE_TOLERANCE

# machine_id, timestamp in UTC, metrics as JSON: a row of raw_measurements, as COPY takes it
Row: TypeAlias = tuple[str, datetime, str]


# The first byte of a map.
_MAP_HEADS = {bytes([head]) for head in (*range(0x80, 0x90), 0xDE, 0xDF)}


class Limits(msgspec.Struct, frozen=True):
    """How many readings a body may hold (lines of NDJSON aside), and how many metrics a reading."""

    rows: int
    metrics: int


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What one machine measured at one instant, before its names and its instant are checked."""

    machine_id: str
    timestamp: Timestamp
    metrics: dict[str, float]


class Submission(msgspec.Struct, frozen=True):
    """What a batch held. `places[i]` is the index in the batch of `rows[i]`; both in the order of the batch."""

    rows: list[Row]
    places: Sequence[int]
    refusals: Refusals


class _Syntax(msgspec.Struct, frozen=True):
    """How one syntax is decoded. `parse` gives whatever there is, for an explanation, or the error that stopped it."""

    name: str
    one: Any
    many: Any
    raw_one: Any
    raw_many: Any
    parse: Callable[[bytes], Any]


def _parse_json(raw: bytes) -> Any:
    # The standard library's parser takes numbers beyond double precision, which lets the explanation name the metric;
    # of whole numbers it takes up to 4,300 digits.
    try:
        # As a text: of bytes it would guess the encoding, and read what is in UTF-16.
        return json.loads(bytes(raw).decode(), parse_int=lambda text: int(text) if len(text) <= 400 else float(text))
    except (ValueError, RecursionError) as error:
        return error


def _parse_messagepack(raw: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError, TypeError) as error:
        return error


def _make_syntax(name: str, kind: Any, parse: Callable[[bytes], Any]) -> _Syntax:
    return _Syntax(name, kind(Reading), kind(list[Reading]), kind(msgspec.Raw), kind(list[msgspec.Raw]), parse)


_JSON = _make_syntax("JSON", msgspec.json.Decoder, _parse_json)
_MESSAGEPACK = _make_syntax("MessagePack", msgspec.msgpack.Decoder, _parse_messagepack)
_encode_metrics = msgspec.json.Encoder().encode


def read_json(body: bytes, now: datetime, limits: Limits) -> Submission:
    """Reads one reading or an array of them. Raises InvalidInput and PayloadTooLarge."""
    return _read_body(_JSON, body, body.lstrip()[:1] == b"{", now, limits)


def read_messagepack(body: bytes, now: datetime, limits: Limits) -> Submission:
    """Reads one reading or an array of them. Raises InvalidInput and PayloadTooLarge."""
    single = body[:1] in _MAP_HEADS
    return _read_body(_MESSAGEPACK, body, single, now, limits)


def _read_body(syntax: _Syntax, body: bytes, single: bool, now: datetime, limits: Limits) -> Submission:
    submission = _read_readings(syntax, body, single, now, limits)
    told = submission.refusals.told
    # In an array it's refused by itself, whatever is beside it; alone it is the request that is too large.
    if single and told and told[0].code is RejectionCode.TOO_MANY_METRICS:
        raise PayloadTooLarge(told[0].message)
    return submission


def _read_readings(syntax: _Syntax, body: bytes, single: bool, now: datetime, limits: Limits) -> Submission:
    try:
        readings = [syntax.one.decode(body)] if single else syntax.many.decode(body)
    except msgspec.ValidationError:
        raws = _split(body, single, syntax)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse_body(error, syntax) from error
    else:
        _check_count(len(readings), limits)
        return _check_all(readings, range(len(readings)), now, limits)
    _check_count(len(raws), limits)
    return _read_raws(enumerate(raws), syntax.one.decode, syntax.parse, now, limits)


def _split(body: bytes, single: bool, syntax: _Syntax) -> list[bytes]:
    # The check of a reading may have stopped before a fault of the syntax or of a text: now all of it is read.
    try:
        if syntax is _JSON:
            body.decode()
        return [syntax.raw_one.decode(body)] if single else list(syntax.raw_many.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse_body(error, syntax) from error


def read_lines(lines: bytes, first: int, now: datetime, limits: Limits) -> Submission:
    """Reads a reading in JSON from each line that isn't blank. `first` is the index of the first line.

    A line that isn't JSON is refused like any other reading that can't be: the lines around it tell where it ends.
    """
    try:
        readings = _JSON.one.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        readings = []
    if len(readings) == count_lines(lines):
        return _check_all(readings, range(first, first + len(readings)), now, limits)
    raws = ((index, line) for index, line in enumerate(lines.split(b"\n"), first) if line.strip())
    return _read_raws(raws, _JSON.one.decode, _JSON.parse, now, limits)


def count_lines(lines: bytes) -> int:
    """Lines, the last one with or without its end."""
    return lines.count(b"\n") + (not lines.endswith(b"\n") and lines != b"")


def read_objects(rows: Sequence[Mapping[str, Any]], now: datetime, limits: Limits) -> Submission:
    """Reads readings that another protocol has decoded. Raises PayloadTooLarge."""
    _check_count(len(rows), limits)
    return _read_raws(enumerate(rows), _convert, lambda row: row, now, limits)


def _convert(row: object) -> Reading:
    return msgspec.convert(row, Reading)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.rows:
        raise PayloadTooLarge(
            f"The body holds {count} readings, more than AURUM_MAX_BATCH_ROWS, which is {limits.rows}: send them in "
            "several requests, or as application/x-ndjson, which has no such limit."
        )


def _refuse_body(error: Exception, syntax: _Syntax) -> InvalidInput:
    if isinstance(error, RecursionError):
        return InvalidInput("The body is nested too deeply: send one reading or an array of readings.")
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("The body is not UTF-8: a text in it has a byte that can't be read.")
    reason = str(error).split(" - at ")[0].replace("`", "")
    return InvalidInput(f"The body is not one reading or an array of readings in {syntax.name}: {reason}.")


def _read_raws(
    raws: Iterable[tuple[int, Any]],
    decode: Callable[[Any], Reading],
    parse: Callable[[Any], Any],
    now: datetime,
    limits: Limits,
) -> Submission:
    """Reads each on its own: `decode` gives a Reading or raises, `parse` whatever there is, for the explanation."""
    readings: list[Reading] = []
    places: list[int] = []
    refusals = Refusals()
    for index, raw in raws:
        try:
            reading = decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
            refusals.add(index, _explain(parse(raw), now, limits))
        else:
            readings.append(reading)
            places.append(index)
    submission = _check_all(readings, places, now, limits)
    submission.refusals.merge([refusals])
    return submission


def _explain(row: Any, now: datetime, limits: Limits) -> Problem:
    if isinstance(row, Exception):
        return RejectionCode.BAD_READING, f"the reading can't be read: {show_value(str(row))}."
    # Of a name that is there twice, all values are checked and the last one is seen here.
    twice = (RejectionCode.BAD_READING, "the reading has a name twice, and one of the values can't be.")
    return find_problem(row, limits.metrics, now) or twice


def _check_all(readings: list[Reading], places: Sequence[int], now: datetime, limits: Limits) -> Submission:
    rows = _make_rows(readings, now, limits)
    if rows is not None:
        return Submission(rows, places, Refusals())
    # Something is wrong with some of them.
    refusals = Refusals()
    good: list[Reading] = []
    kept: list[int] = []
    for index, reading in zip(places, readings, strict=True):
        if problem := find_problem(msgspec.structs.asdict(reading), limits.metrics, now):
            refusals.add(index, problem)
        else:
            good.append(reading)
            kept.append(index)
    return Submission(_make_rows(good, now, limits) or [], kept, refusals)


def _make_rows(readings: list[Reading], now: datetime, limits: Limits) -> list[Row] | None:
    """Their rows, or None where any of them isn't right."""
    if not readings:
        return []
    shapes = {tuple(reading.metrics) for reading in readings}
    if not (
        all(map(match_machine_id, {reading.machine_id for reading in readings}))
        and 0 < len(min(shapes, key=len)) <= len(max(shapes, key=len)) <= limits.metrics
        and all(map(match_metric, set(chain.from_iterable(shapes))))
    ):
        return None
    try:
        instants = [to_instant(reading.timestamp) for reading in readings]
    except OverflowError:
        return None
    if not (min(instants) >= OLDEST and max(instants) <= now + FUTURE_TOLERANCE):
        return None
    texts = [_encode_metrics(reading.metrics).decode() for reading in readings]
    # What isn't finite, which MessagePack and objects may hold, is written as null. No name has a colon.
    if any(":null" in text for text in texts):
        return None
    return [
        (reading.machine_id, instant.astimezone(UTC), text)
        for reading, instant, text in zip(readings, instants, texts, strict=True)
    ]
