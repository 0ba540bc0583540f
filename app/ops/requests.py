"""How requests over HTTP went: a histogram for each route, method and status, codes of errors, and a line in the log for
what was slow or failed."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

from litestar.types import ASGIApp

from app.measures import SECONDS, Histogram
from app.tracing import Tracing

ROUTES = frozenset({"/graphql", "/ingest", "/health/live", "/health/ready", "/metrics"})
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST"})
SLOW = 1.0  # seconds to the beginning of an answer, from which on it is worth a line
MOST_LINES = 10  # of such requests in a second; an outage would fill the disk

_CODE = "aurum_error_code"  # of a request's scope

logger = logging.getLogger(__name__)


def note_error(scope: Any, code: str) -> None:
    """Keeps the code of the error that a request is answered with, for when the answer begins."""
    scope[_CODE] = code


class Requests:
    """`seconds` is by route, method and status: how long it took until the answer began, which for a stream is soon.

    `underway` counts the requests that are not over, by `http` and `websocket`; `errors` are by code.
    """

    def __init__(self, *, tell_all: bool) -> None:
        self.seconds: dict[tuple[str, str, int], Histogram] = {}
        self.underway = {"http": 0, "websocket": 0}
        self.errors: dict[str, int] = {}
        self._tell_all = tell_all
        self._second = 0.0  # since which lines are counted
        self._lines = 0
        self._untold = 0

    def observe(self, scope: Any, path: str, status: int, seconds: float) -> None:
        """A request whose answer begins; `path` is without what a proxy has put before it."""
        key = (path, scope["method"], status)
        histogram = self.seconds.get(key)
        if histogram is None:
            route, method = name_route(key[0]), _bound(key[1], METHODS)
            histogram = self.seconds.setdefault((route, method, status), Histogram(SECONDS))
        histogram.observe(seconds)
        code = None
        if status >= 400 and (code := scope.get(_CODE)) is not None:
            self.errors[code] = self.errors.get(code, 0) + 1
        if status >= 500 or seconds >= SLOW or self._tell_all:
            self._tell(key, seconds, code)

    def _tell(self, key: tuple[str, str, int], seconds: float, code: str | None) -> None:
        path, method, status = key
        route, method = name_route(path), _bound(method, METHODS)
        fields = {"route": route, "method": method, "status": status, "seconds": round(seconds, 6), "code": code}
        if status < 500 and seconds < SLOW:
            logger.debug("%s %s was answered with %d after %.3f s.", method, route, status, seconds, extra=fields)
            return
        now = perf_counter()
        if now - self._second >= 1:
            if self._untold:
                logger.warning("%d more requests were slow or failed.", self._untold, extra={"untold": self._untold})
            self._second, self._lines, self._untold = now, 0, 0
        if self._lines == MOST_LINES:
            self._untold += 1
            return
        self._lines += 1
        logger.warning("%s %s was answered with %d after %.3f s.", method, route, status, seconds, extra=fields)


def name_route(path: str) -> str:
    """The path, if it is one of the API's; else `other`."""
    return _bound(path, ROUTES)


def _bound(value: str, known: frozenset[str]) -> str:
    # What clients make up would be a label each.
    return value if value in known else "other"


def answer_head(application: Any) -> ASGIApp:
    """The application for HEAD: it answers as to GET, and nothing of the body goes out."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        if scope["query_string"]:
            # It would have to be executed, and a stream of events might never end.
            await application(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}

        async def send_head(message: Any) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            elif (code := asked.get(_CODE)) is not None:
                note_error(scope, code)
            await send(message)

        await application(asked, receive, send_head)

    return run


def trace_requests(application: Any, tracing: Tracing, route: str) -> ASGIApp:
    """The application with a span around each request."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        status = 0

        async def send_and_look(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span = tracing.begin_request(scope, route)
        try:
            await application(scope, receive, send_and_look)
        finally:
            # Without a status whoever asked has gone.
            attributes = {"http.response.status_code": status} if status else {}
            span.end(attributes=attributes, error=str(status) if status >= 500 else None)

    return run
