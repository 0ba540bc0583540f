"""The log: one line for each event, for people or as JSON for programs, on stderr; uvicorn's lines among them.

No line holds a body, a header, a variable or a query string. What an exception says is kept, since nobody could mend a bug
without it, but for what PostgreSQL adds to its messages: the details quote rows.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TypeAlias

import asyncpg
import msgspec
from litestar.logging import LoggingConfig

from app.correlation import CorrelationFilter

# What a line of ours may have beside its message: see `extra` where it is logged.
FIELDS: Final = ("code", "route", "method", "status", "seconds", "untold")

ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def make_logging(level: str, *, as_json: bool) -> LoggingConfig:
    """Litestar's configuration of the loggers of this process; `level` is that of our own."""
    ours: dict[str, Any] = {"handlers": ["stderr"], "propagate": False}
    return LoggingConfig(
        version=1,
        configure_root_logger=False,
        log_exceptions="never",  # our handlers of errors log what is worth it, once
        filters={"correlation": {"()": CorrelationFilter}, "unasked": {"()": UnaskedFilter}},
        formatters={"chosen": {"()": JsonFormatter if as_json else PlainFormatter}},
        handlers={
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "chosen",
                "filters": ["unasked", "correlation"],
            }
        },
        loggers={
            "app": {**ours, "level": level},
            "uvicorn": ours,
            "uvicorn.error": {"handlers": [], "propagate": True},
            # Its lines have query strings, in which documents and variables may be. Without a handler it costs nothing.
            "uvicorn.access": {"handlers": [], "propagate": False},
            "litestar": {**ours, "level": "WARNING"},
            "asyncio": {**ours, "level": "WARNING"},
            "opentelemetry": {**ours, "level": "WARNING"},
            # It shows a stack trace for each attempt to reach a database that is away; clients are told by 503.
            "asyncpg": {"level": "CRITICAL"},
        },
    )


# Of each WebSocket; that one was refused is no failure.
_UNASKED: Final = frozenset(
    {"ASGI callable returned without completing handshake.", "connection open", "connection closed"}
)
_GARBAGE: Final = "Invalid HTTP request received."  # such as TLS where there is none
SELDOM: Final = 60.0  # seconds between two lines of it: nobody needs a key to send it
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class UnaskedFilter(logging.Filter):
    """Lets pass all but what uvicorn says of each WebSocket, with its query string, and below INFO of each frame; and of requests
    that are none one line a minute. Whoever has no key would fill the disk with them, or turn over what is worth reading."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("uvicorn"):
            return True
        if record.msg == _GARBAGE:
            now = time.monotonic()
            if now < self._next:
                return False
            self._next = now + SELDOM
        return record.levelno >= logging.INFO and '"WebSocket %s"' not in str(record.msg) and record.msg not in _UNASKED


class PlainFormatter(logging.Formatter):
    """Time, level, logger, request id in brackets, message; an exception on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s:%(correlation)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        # One line for each event, whatever is quoted in it, and nothing that a terminal would obey.
        record.message = _escape(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - as above
        return describe_exception(ei[1])


class JsonFormatter(logging.Formatter):
    """One object for each event: time, level, logger, message, request_id within a request, exception where there is one,
    and those of FIELDS that the event has.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            line["request_id"] = request_id
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["exception"] = describe_exception(record.exc_info[1])
        return msgspec.json.encode(line, enc_hook=str).decode()


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def describe_exception(error: BaseException | None) -> str:
    """The exception, what caused it before it, with the lines of code that they came by; without PostgreSQL's details."""
    return "".join(_describe_chain(error, set())).rstrip("\n")


def _describe_chain(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    if error.__cause__ is not None:
        yield from _describe_chain(error.__cause__, seen)
        yield "\nwhich led to\n\n"
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _describe_chain(error.__context__, seen)
        yield "\nwhile that was handled\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    said = error.args[0] if isinstance(error, asyncpg.PostgresError) and error.args else error
    yield f"{name}: {_escape(str(said))}\n"
