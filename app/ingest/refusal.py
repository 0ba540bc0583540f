"""Why a reading is refused: the codes, and the sentence that names what is wrong with it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from app.instants import EPOCH, FUTURE_TOLERANCE

OLDEST = EPOCH
MOST_TOLD = 1_000  # refused readings of one answer that are told one by one; the others are counted

METRIC_PATTERN = r"\A[A-Za-z_][A-Za-z0-9_.]{0,63}\Z"
MACHINE_ID_PATTERN = r"\A[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z"

match_metric = re.compile(METRIC_PATTERN).match
match_machine_id = re.compile(MACHINE_ID_PATTERN).match

FIELDS = ("machine_id", "timestamp", "metrics")

# As it comes over the wire: aware, or whole milliseconds since 1970.
Timestamp: TypeAlias = Annotated[datetime, Meta(tz=True)] | int

_MILLISECOND = timedelta(milliseconds=1)


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
    REFUSED_BY_DATABASE = "REFUSED_BY_DATABASE"  # right by every rule here, but not by one that the database has


class Rejection(msgspec.Struct, frozen=True):
    """Why the reading at `index` of the batch was refused."""

    index: int
    code: RejectionCode
    message: str


Problem: TypeAlias = tuple[RejectionCode, str]


class Refusals:
    """Refused readings in the order of their index: the first MOST_TOLD of them, and how many there are, also by code."""

    def __init__(self) -> None:
        self.told: list[Rejection] = []
        self.count = 0
        self.counts: dict[RejectionCode, int] = {}

    def add(self, index: int, problem: Problem) -> None:
        """One that comes after those that were added before."""
        self.count += 1
        self.counts[problem[0]] = self.counts.get(problem[0], 0) + 1
        if self.count <= MOST_TOLD:
            self.told.append(Rejection(index, *problem))

    def merge(self, others: Iterable[Refusals]) -> None:
        """Takes in others, whose indexes may lie among its own."""
        for other in others:
            if other.count:
                self.count += other.count
                for code, count in other.counts.items():
                    self.counts[code] = self.counts.get(code, 0) + count
                self.told = sorted([*self.told, *other.told], key=lambda rejection: rejection.index)[:MOST_TOLD]


def find_problem(row: Any, most_metrics: int, now: datetime) -> Problem | None:
    """What is wrong with a reading that was decoded without regard to its types, if anything is."""
    return (
        _find_problem_of_shape(row)
        or _find_problem_of_machine(row["machine_id"])
        or _find_problem_of_metrics(row["metrics"], most_metrics)
        or _find_problem_of_timestamp(row["timestamp"], now)
    )


def _find_problem_of_shape(row: Any) -> Problem | None:
    if not isinstance(row, Mapping):
        return RejectionCode.BAD_READING, "a reading is an object with machine_id, timestamp and metrics."
    if missing := [name for name in FIELDS if name not in row]:
        return RejectionCode.MISSING_FIELD, f"the reading lacks {', '.join(missing)}."
    if unknown := [str(name) for name in row if name not in FIELDS]:
        names = show_value(", ".join(unknown))
        return RejectionCode.BAD_READING, f"a reading has machine_id, timestamp and metrics, and no {names}."
    return None


def _find_problem_of_machine(machine_id: object) -> Problem | None:
    if isinstance(machine_id, str) and match_machine_id(machine_id):
        return None
    return describe_unknown_machine(machine_id)


def describe_unknown_machine(machine_id: object) -> Problem:
    """The reading's machine isn't registered."""
    shown = show_value(machine_id)
    message = f"no machine {shown} is registered: register it first, with registerMachine."
    return RejectionCode.UNKNOWN_MACHINE, message


def _find_problem_of_metrics(metrics: object, most: int) -> Problem | None:
    if not isinstance(metrics, Mapping):
        return RejectionCode.BAD_METRIC, "metrics must be an object of names and finite numbers."
    if not metrics:
        return RejectionCode.EMPTY_METRICS, "metrics is empty: send at least one."
    if len(metrics) > most:
        message = (
            f"metrics has {len(metrics)} names, more than AURUM_MAX_METRICS, which is {most}: "
            "send them in several readings."
        )
        return RejectionCode.TOO_MANY_METRICS, message
    return next(_find_problems_of_values(metrics), None)


def _find_problems_of_values(metrics: Mapping[Any, object]) -> Iterator[Problem]:
    for name, value in metrics.items():
        if not isinstance(name, str) or not match_metric(name):
            message = (
                f"metrics has the name {show_value(name)}: a name is 1 to 64 letters, digits, dots and underscores "
                "and starts with a letter or an underscore."
            )
            yield RejectionCode.BAD_METRIC, message
        elif not _is_finite_number(value):
            message = f"metrics.{name} is {show_value(value)}: it must be a finite number in double precision."
            yield RejectionCode.BAD_METRIC, message


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond double precision
        return False


def _find_problem_of_timestamp(given: object, now: datetime) -> Problem | None:
    latest = now + FUTURE_TOLERANCE
    instant = _read_instant(given)
    if isinstance(instant, datetime):
        shown = show_value(given if isinstance(given, int) else instant)
        if instant >= OLDEST:
            return _describe_future(shown, now) if instant > latest else None
    else:
        shown = show_value(given)
    message = (
        f"timestamp {shown} can't be: send RFC 3339 with an offset, such as 2026-01-31T12:00:00Z, "
        "or whole milliseconds since 1970, not before 1970."
    )
    return RejectionCode.BAD_TIMESTAMP, message


def _read_instant(given: object) -> datetime | None:
    if isinstance(given, bool):
        return None
    try:
        return to_instant(msgspec.convert(given, Timestamp))
    except (msgspec.ValidationError, OverflowError):
        return None


def to_instant(timestamp: datetime | int) -> datetime:
    """The instant of a wire timestamp. Raises OverflowError beyond the year 9999."""
    return OLDEST + timestamp * _MILLISECOND if isinstance(timestamp, int) else timestamp


def _describe_future(shown: str, now: datetime) -> Problem:
    minutes = FUTURE_TOLERANCE // timedelta(minutes=1)
    message = (
        f"timestamp {shown} is more than {minutes} minutes ahead of the service's clock, "
        f"which says {now.isoformat(timespec='seconds')}: set the sender's clock."
    )
    return RejectionCode.FUTURE_TIMESTAMP, message


def show_value(value: object) -> str:
    """A value as a sentence quotes it, cut where it's long."""
    if isinstance(value, msgspec.msgpack.Ext):
        return f"an extension of MessagePack of type {value.code}"  # which Python shows by its address in memory
    try:
        text = value.isoformat() if isinstance(value, datetime) else repr(value)
    except (RecursionError, ValueError):  # nested deeper, or a number of more digits, than Python writes
        text = "(too deep or too long to be shown)"
    return text if len(text) <= 80 else text[:77] + "..."
