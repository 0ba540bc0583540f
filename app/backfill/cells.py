"""Numbers and instants as they stand in files. Pure.

Arrives: a text or what Parquet holds. Leaves: a float or an aware datetime. Fails: ValueError, saying what it must be.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo

from app.instants import EPOCH

_NUMBER = re.compile(r"\A[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_MILLISECONDS = re.compile(r"\A\d{11,14}\Z", re.ASCII)
_LOCAL_EPOCH = EPOCH.replace(tzinfo=None)

BAD_NUMBER = "a number, such as 12.5"
BAD_INSTANT = "an ISO 8601 date and time, or 11 to 14 digits of milliseconds since 1970"
BAD_CLOCK = "given with its offset, since the clocks of this time zone change then"


def read_number(text: str) -> float:
    """The number that a text says; Python's float would take more, such as 1_000."""
    if not _NUMBER.match(text):
        raise ValueError(BAD_NUMBER)
    return float(text)


def read_instant(text: str, zone: tzinfo) -> datetime:
    """The instant that a text says, in `zone` where it has no offset."""
    if _MILLISECONDS.match(text):
        return EPOCH + timedelta(milliseconds=int(text))
    try:
        # A number of another length would be read as a date by some, as seconds by others.
        instant = None if _NUMBER.match(text) else datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None:
        raise ValueError(BAD_INSTANT)
    return instant if instant.tzinfo is not None else place_in_zone(instant, zone)


def read_microseconds(microseconds: int, zone: tzinfo | None) -> datetime:
    """The instant so long after 1970 in UTC or, by the clocks of `zone`, after 1970 there."""
    try:
        if zone is None:
            return EPOCH + timedelta(microseconds=microseconds)
        return place_in_zone(_LOCAL_EPOCH + timedelta(microseconds=microseconds), zone)
    except OverflowError as error:
        raise ValueError("within the years 1 to 9999") from error


def place_in_zone(local: datetime, zone: tzinfo) -> datetime:
    """The instant at which the clocks of `zone` showed this, where they did so once."""
    instant = local.replace(tzinfo=zone)
    if instant.utcoffset() != instant.replace(fold=1).utcoffset():
        raise ValueError(BAD_CLOCK)
    return instant
