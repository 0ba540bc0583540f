"""The columns of a series as JSON text, whole columns at a time. Pure.

Making Python's own objects of ten thousand points and encoding those takes several times as long.
"""

from __future__ import annotations

import msgspec
import numpy as np

from app.history.columns import Instants, Values

# Years that are written in four digits.
_FIRST, _END = -62_135_596_800_000_000, 253_402_300_800_000_000
_DAY, _SECOND = 86_400_000_000, 1_000_000
_TWO = [f"{number:02}" for number in range(60)]
_TIMES = np.array([f"T{hour}:{minute}:{second}." for hour in _TWO[:24] for minute in _TWO for second in _TWO], "S10")
_THOUSANDS = np.array([f"{number:03}" for number in range(1000)], dtype="S3")
_KINDS = bytes(48 if byte in b"0123456789" else 32 if byte in b",.-" else 120 for byte in range(256))  # 0, blank, x
_MANY_DIGITS = b"0" * 16  # fewer of them are the same number in any reader's doubles, whole ones among its integers
_TEXT = np.dtype(
    [("open", "S1"), ("date", "S10"), ("time", "S10"), ("millis", "S3"), ("micros", "S3"), ("close", "S3")]
)


def encode_instants(instants: Instants) -> bytes:
    """A JSON array of RFC 3339 in UTC with six digits of microseconds, of int64 microseconds since 1970.

    Raises ValueError outside the years 1 to 9999.
    """
    if len(instants) == 0:
        return b"[]"
    if instants.min() < _FIRST or instants.max() >= _END:
        raise ValueError("an instant outside the years 1 to 9999")
    days, rest = np.divmod(instants, _DAY)
    seconds, micros = np.divmod(rest, _SECOND)
    # Of many readings on few days the days are worked out once.
    first, last = days.min(), days.max()
    if last - first < len(days):
        known, places = np.arange(first, last + 1), days - first
    else:
        known, places = np.unique(days, return_inverse=True)
    text = np.empty(len(instants), dtype=_TEXT)
    text["open"] = b'"'
    text["date"] = np.datetime_as_string(known.astype("datetime64[D]")).astype("S10")[places]
    text["time"] = _TIMES[seconds]
    text["millis"] = _THOUSANDS[micros // 1000]
    text["micros"] = _THOUSANDS[micros % 1000]
    text["close"] = b'Z",'
    return b"[" + text.tobytes()[:-1] + b"]"


def encode_millis(instants: Instants) -> bytes:
    """A JSON array of whole milliseconds since 1970, of int64 microseconds."""
    return msgspec.json.encode((instants // 1000).tolist())


def encode_values(values: Values) -> bytes:
    """A JSON array of the shortest numbers that are these doubles, null for NaN and what isn't finite."""
    return msgspec.json.encode(values.tolist())


def pass_values(written: str) -> bytes | None:
    """The JSON array of these numbers, with commas between, as they are written; None where one of them is none, or has so
    many digits that not every reader would take it for the same double."""
    text = written.encode()
    kinds = text.translate(_KINDS)
    return None if b"x" in kinds or _MANY_DIGITS in kinds else b"[" + text + b"]"
