"""Readings as they come over the wire: decoded, checked one by one, each refused one named. Pure: no clock, no database.

Arrives: the JSON of one reading or an array of them, or objects that are decoded already. Leaves: a Submission, with
the good readings and a Rejection for every other. Fails: InvalidInput, when the body isn't JSON at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.errors import InvalidInput
from app.instants import EPOCH

MAX_METRICS = 256
FUTURE_TOLERANCE = timedelta(minutes=5)
OLDEST = EPOCH

METRIC_PATTERN = r"\A[A-Za-z_][A-Za-z0-9_.]{0,63}\Z"
MACHINE_ID_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z"

_METRIC = re.compile(METRIC_PATTERN)
_MACHINE_ID = re.compile(MACHINE_ID_PATTERN)

MetricName = Annotated[str, Meta(pattern=METRIC_PATTERN)]


class RejectionCode(Enum):
    """Why a reading was refused."""

    BAD_READING = "BAD_READING"  # not an object, or a field that a reading doesn't have
    MISSING_FIELD = "MISSING_FIELD"  # machine_id, timestamp or metrics isn't there
    UNKNOWN_MACHINE = "UNKNOWN_MACHINE"  # no such machine is registered
    BAD_TIMESTAMP = "BAD_TIMESTAMP"  # no RFC 3339 with an offset, no epoch milliseconds, or before 1970
    FUTURE_TIMESTAMP = "FUTURE_TIMESTAMP"  # more than 5 minutes ahead of the service's clock
    BAD_METRIC = "BAD_METRIC"  # a name or a value that can't be
    EMPTY_METRICS = "EMPTY_METRICS"
    TOO_MANY_METRICS = "TOO_MANY_METRICS"


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one machine measured at one instant. `timestamp` is aware, or integer milliseconds since 1970."""

    machine_id: Annotated[str, Meta(pattern=MACHINE_ID_PATTERN)]
    timestamp: Annotated[datetime, Meta(tz=True)] | int
    metrics: Annotated[dict[MetricName, float], Meta(min_length=1, max_length=MAX_METRICS)]


class Rejection(msgspec.Struct, frozen=True):
    """Why the reading at `index` of the batch was refused."""

    index: int
    code: RejectionCode
    message: str


class CheckedReading(msgspec.Struct, frozen=True):
    """A reading that only the database can still refuse. `index` is its place in the batch; `timestamp` is in UTC."""

    index: int
    machine_id: str
    timestamp: datetime
    metrics: dict[str, float]


class Submission(msgspec.Struct, frozen=True):
    """What a batch held, in its own order."""

    readings: list[CheckedReading]
    rejected: list[Rejection]


_one = msgspec.json.Decoder(Reading)
_many = msgspec.json.Decoder(list[Reading])
_row = msgspec.json.Decoder(msgspec.Raw)
_rows = msgspec.json.Decoder(list[msgspec.Raw])


def read_body(body: bytes, now: datetime) -> Submission:
    """Reads a request's body. Raises InvalidInput when it isn't JSON; whatever is wrong with one reading is in the answer."""
    single = body.lstrip()[:1] == b"{"
    try:
        return _check_all(enumerate([_one.decode(body)] if single else _many.decode(body)), now)
    except msgspec.ValidationError:
        rows = _split_rows(body, single)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse_body(error) from error
    return _read_rows(rows, now)


def read_objects(rows: Sequence[Mapping[str, Any]], now: datetime) -> Submission:
    """Reads readings that another protocol has decoded, each with machine_id, timestamp and metrics."""
    readings: list[tuple[int, Reading]] = []
    rejected: list[Rejection] = []
    for index, row in enumerate(rows):
        try:
            readings.append((index, msgspec.convert(row, Reading)))
        except (msgspec.ValidationError, OverflowError):
            rejected.append(_explain(index, row))
    return _merge_rejected(_check_all(readings, now), rejected)


def _split_rows(body: bytes, single: bool) -> list[msgspec.Raw]:
    # The check of a reading may have stopped before a fault of the JSON or of a text: now all of it is read.
    try:
        body.decode()
        return [_row.decode(body)] if single else _rows.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refuse_body(error) from error


def _read_rows(rows: Sequence[msgspec.Raw], now: datetime) -> Submission:
    readings: list[tuple[int, Reading]] = []
    rejected: list[Rejection] = []
    for index, row in enumerate(rows):
        try:
            readings.append((index, _one.decode(row)))
        except (msgspec.DecodeError, RecursionError):
            rejected.append(_explain(index, _parse_leniently(row)))
    return _merge_rejected(_check_all(readings, now), rejected)


def _parse_leniently(row: msgspec.Raw) -> Any:
    # The standard library's parser takes numbers beyond double precision, which lets the explanation name the metric;
    # of whole numbers it takes up to 4,300 digits.
    try:
        return json.loads(bytes(row), parse_int=lambda text: int(text) if len(text) <= 400 else float(text))
    except (ValueError, RecursionError):
        return None


def _merge_rejected(submission: Submission, rejected: list[Rejection]) -> Submission:
    both = sorted([*submission.rejected, *rejected], key=lambda rejection: rejection.index)
    return Submission(submission.readings, both)


def _refuse_body(error: Exception) -> InvalidInput:
    if isinstance(error, RecursionError):
        return InvalidInput("The body is nested too deeply: send one reading or an array of readings.")
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("The body is not UTF-8: a text in it has a byte that can't be read.")
    reason = str(error).split(" - at ")[0].replace("`", "")
    return InvalidInput(f"The body is not one reading or an array of readings in JSON: {reason}.")


def _check_all(readings: Iterable[tuple[int, Reading]], now: datetime) -> Submission:
    latest = now + FUTURE_TOLERANCE
    checked: list[CheckedReading] = []
    rejected: list[Rejection] = []
    for index, reading in readings:
        timestamp = reading.timestamp
        if isinstance(timestamp, int):
            try:
                timestamp = OLDEST + timedelta(milliseconds=timestamp)
            except OverflowError:
                rejected.append(_refuse_timestamp(index, _show(reading.timestamp)))
                continue
        if timestamp < OLDEST:
            rejected.append(_refuse_timestamp(index, _show(reading.timestamp)))
        elif timestamp > latest:
            minutes = FUTURE_TOLERANCE // timedelta(minutes=1)
            message = (
                f"timestamp {_show(reading.timestamp)} is more than {minutes} minutes ahead of the service's clock, "
                f"which says {now.isoformat(timespec='seconds')}: set the sender's clock."
            )
            rejected.append(Rejection(index, RejectionCode.FUTURE_TIMESTAMP, message))
        elif problem := _find_infinite(index, reading.metrics):
            rejected.append(problem)
        else:
            utc = timestamp.astimezone(UTC)
            checked.append(CheckedReading(index, reading.machine_id, utc, reading.metrics))
    return Submission(checked, rejected)


def _show(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_timestamp(index: int, given: str) -> Rejection:
    message = (
        f"timestamp {given} can't be: send RFC 3339 with an offset, such as 2026-01-31T12:00:00Z, "
        "or whole milliseconds since 1970, not before 1970."
    )
    return Rejection(index, RejectionCode.BAD_TIMESTAMP, message)


def _explain(index: int, row: Any) -> Rejection:
    """Says what is wrong with a row that is no Reading."""
    return _explain_shape(index, row) or _explain_values(index, row)


def _explain_shape(index: int, row: Any) -> Rejection | None:
    if not isinstance(row, Mapping):
        return Rejection(
            index, RejectionCode.BAD_READING, "a reading is an object with machine_id, timestamp and metrics."
        )
    if missing := [name for name in Reading.__struct_fields__ if name not in row]:
        return Rejection(index, RejectionCode.MISSING_FIELD, f"the reading lacks {', '.join(missing)}.")
    if unknown := [str(name) for name in row if name not in Reading.__struct_fields__]:
        names = _show(", ".join(unknown))
        message = f"a reading has machine_id, timestamp and metrics, and no {names}."
        return Rejection(index, RejectionCode.BAD_READING, message)
    return None


def _explain_values(index: int, row: Mapping[str, Any]) -> Rejection:
    machine_id = row["machine_id"]
    if not isinstance(machine_id, str) or not _MACHINE_ID.match(machine_id):
        return refuse_machine(index, machine_id)
    if problem := _explain_metrics(index, row["metrics"]):
        return problem
    try:
        msgspec.convert(row, Reading)
    except msgspec.ValidationError:
        return _refuse_timestamp(index, _show(row["timestamp"]))
    # Of a name that is there twice, all values are checked and the last one is seen here.
    return Rejection(index, RejectionCode.BAD_READING, "the reading has a name twice, and one of the values can't be.")


def refuse_machine(index: int, machine_id: object) -> Rejection:
    """The rejection of a reading whose machine isn't registered."""
    message = f"no machine {_show(machine_id)} is registered: register it first, with registerMachine."
    return Rejection(index, RejectionCode.UNKNOWN_MACHINE, message)


def _find_infinite(index: int, metrics: Mapping[str, float]) -> Rejection | None:
    # JSON has no such numbers; objects that another protocol has decoded may hold them.
    return None if all(map(math.isfinite, metrics.values())) else _explain_metrics(index, metrics)


def _explain_metrics(index: int, metrics: object) -> Rejection | None:
    if not isinstance(metrics, Mapping):
        message = "metrics must be an object of names and finite numbers."
        return Rejection(index, RejectionCode.BAD_METRIC, message)
    if not metrics:
        return Rejection(index, RejectionCode.EMPTY_METRICS, "metrics is empty: send at least one.")
    if len(metrics) > MAX_METRICS:
        message = f"metrics has {len(metrics)} names, more than {MAX_METRICS}: send them in several readings."
        return Rejection(index, RejectionCode.TOO_MANY_METRICS, message)
    for name, value in metrics.items():
        if not isinstance(name, str) or not _METRIC.match(name):
            message = (
                f"metrics has the name {_show(name)}: a name is 1 to 64 letters, digits, dots and underscores "
                "and starts with a letter or an underscore."
            )
            return Rejection(index, RejectionCode.BAD_METRIC, message)
        if not _is_finite_number(value):
            message = f"metrics.{name} is {_show(value)}: it must be a finite number in double precision."
            return Rejection(index, RejectionCode.BAD_METRIC, message)
    return None


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond double precision
        return False
