"""Instants as whole microseconds since 1970-01-01T00:00:00Z, exactly; PostgreSQL keeps no more than
microseconds. Pure, but for `read_clock`."""

from datetime import UTC, datetime, timedelta

from app.errors import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FUTURE_TOLERANCE = timedelta(minutes=5)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(instant: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (instant - EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The instant in UTC. Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=microseconds)


def read_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def check_event_time(instant: datetime, now: datetime, field: str) -> datetime:
    """An instant at which something can have happened. Raises InvalidInput, which names the field."""
    if instant < EPOCH:
        raise InvalidInput(f"{field} is before 1970-01-01T00:00:00Z: nothing that old is kept.", field=field)
    if instant > now + FUTURE_TOLERANCE:
        raise InvalidInput(f"{field} is more than 5 minutes ahead of the service's clock.", field=field)
    return instant


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC with all six digits of the microseconds, as every answer has it."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
