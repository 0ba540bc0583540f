"""The scalars of the contract, and the Python types that stand for them in resolvers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NewType

import msgspec
import strawberry
from strawberry.types.scalar import ScalarDefinition

from app.errors import InvalidInput
from app.instants import format_instant

EpochMillis = NewType("EpochMillis", int)
Json = NewType("Json", object)
Metrics = NewType("Metrics", dict[str, float])

# Years that keep their place when they are moved to UTC.
_FIRST = datetime(1, 1, 2, tzinfo=UTC)
_LAST = datetime(9999, 12, 30, tzinfo=UTC)
_ENDS = "0001-01-02T00:00:00Z to 9999-12-30T00:00:00Z"


def _serialize_instant(value: datetime | str) -> str:
    # A column of instants is formatted as a whole, where it is made.
    return value if isinstance(value, str) else format_instant(value)


def _parse_instant(value: Any) -> datetime:
    try:
        instant = msgspec.convert(value, datetime) if isinstance(value, str) else None
    except msgspec.ValidationError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidInput("a DateTime is RFC 3339 with an offset, such as 2026-01-31T12:00:00Z.")
    if not _FIRST <= instant <= _LAST:
        raise InvalidInput(f"a DateTime is from {_ENDS}: the days around that have no place in some time zones.")
    return instant.astimezone(UTC)


def _serialize_duration(value: timedelta) -> str:
    return str(msgspec.to_builtins(value))


def _parse_duration(value: Any) -> timedelta:
    try:
        if isinstance(value, str):
            return msgspec.convert(value, timedelta)
    except (msgspec.ValidationError, OverflowError):
        pass
    raise InvalidInput("a Duration is ISO 8601 in days or less, such as PT30S, PT1M, PT1H or P1D.")


def _parse_metrics(value: Any) -> dict[str, Any]:
    # Each value is checked with its reading, so that a wrong one refuses its reading and not the whole request.
    if not isinstance(value, dict):
        raise InvalidInput("Metrics is an object of names and finite numbers.")
    return value


def _refuse_input(_: Any) -> int:
    raise InvalidInput("EpochMillis is only ever an answer: send a DateTime.")


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description=f"RFC 3339 with an offset, from {_ENDS}; answered in UTC with microseconds kept.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc3339",
        serialize=_serialize_instant,
        parse_value=_parse_instant,
    ),
    EpochMillis: strawberry.scalar(
        name="EpochMillis",
        description="Milliseconds since 1970-01-01T00:00:00Z, whole.",
        serialize=int,
        parse_value=_refuse_input,
    ),
    timedelta: strawberry.scalar(
        name="Duration",
        description="ISO 8601 duration: PT30S, PT1M, PT1H, P1D.",
        serialize=_serialize_duration,
        parse_value=_parse_duration,
    ),
    Metrics: strawberry.scalar(
        name="Metrics",
        description="An object of metric names to finite numbers.",
        serialize=lambda value: value,
        parse_value=_parse_metrics,
    ),
    Json: strawberry.scalar(
        name="JSON",
        description="Any value that JSON has.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
        serialize=lambda value: value,
        parse_value=lambda value: value,
    ),
}
