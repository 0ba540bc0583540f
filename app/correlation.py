"""An id for each request, by which an answer, its errors and the lines of the log can be brought together.

A client may send its own as `X-Request-ID`; each answer has one.
"""

from __future__ import annotations

import logging
import os
import re
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"
_HEADER: Final = HEADER.encode()

# What can stand in a header and in a line of the log and be nothing but an id there.
_WELL_FORMED: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_current: ContextVar[str | None] = ContextVar("correlation_id", default=None)


def begin_request(sent: bytes | None) -> str:
    """The id of the request that this task works on from now on: the one sent if it's well formed, else a new one."""
    chosen = sent.decode() if sent is not None and _WELL_FORMED.fullmatch(sent) else make_id()
    _current.set(chosen)
    return chosen


def make_id() -> str:
    """A new one: 128 random bits as hexadecimal digits, as of a UUID, in a third of its time."""
    return os.urandom(16).hex()


def begin_part(number: int) -> None:
    """Gives what this task works on from now on an id of its own within the request's: `<id>.<number>`."""
    _current.set(f"{read_correlation_id()}.{number}")


def read_correlation_id() -> str:
    """The id of the request that this task works on; a new one outside of any."""
    return _current.get() or make_id()


class CorrelationFilter(logging.Filter):
    """Lets every record pass and gives it `request_id`, None outside of any request, and `correlation`, the same in brackets."""

    def filter(self, record: logging.LogRecord) -> bool:
        current = _current.get()
        record.request_id = current
        record.correlation = "" if current is None else f" [{current}]"
        return True
