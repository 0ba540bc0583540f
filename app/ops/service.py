"""The service as the server sees it: Litestar, and what every request gets whichever road it takes.

Two roads are short, since what Litestar does for a request takes as long as all the rest of a small one: readings, and
queries that are known. Everything else, and what they don't take, goes through Litestar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp

from app.correlation import HEADER, begin_request
from app.ops.requests import Requests

_HEADER = HEADER.encode()
_FIRST = frozenset({"http.response.start", "websocket.accept"})


class Service(Litestar):
    """Litestar, with an id for each request, which is measured, and less the stack trace when it refuses to start.

    The server then logs the sentence and exits. `open_roads` gives paths to applications of their own.
    """

    requests: Requests
    _roads: Mapping[str, ASGIApp] = {}

    def open_roads(self, roads: Mapping[str, Callable[[ASGIApp], ASGIApp]]) -> None:
        """HTTP requests for these paths go to what is made here of Litestar itself."""
        litestar: Any = super().__call__
        self._roads = {path: make(litestar) for path, make in roads.items()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await super().__call__(scope, receive, self._tell_why(send))
            return
        began = perf_counter()
        requests = self.requests
        header = (_HEADER, begin_request(scope["headers"]).encode())

        async def send_with_id(message: Any) -> None:
            if message["type"] in _FIRST:
                message["headers"] = [*message.get("headers", ()), header]
                if kind == "http":
                    requests.observe(scope, path, message["status"], perf_counter() - began)
            await send(message)

        path: str = scope["path"]
        if scope.get("root_path"):
            path = path.removeprefix(scope["root_path"])
        path = path.rstrip("/")
        road = self._roads.get(path) if kind == "http" else None
        requests.underway[kind] += 1
        try:
            await (road or super().__call__)(scope, receive, send_with_id)
        finally:
            requests.underway[kind] -= 1

    def _tell_why(self, send: Any) -> Any:
        async def send_plainly(message: Any) -> None:
            error = self.state.get("startup_error")
            if message["type"] == "lifespan.startup.failed" and error is not None:
                message = {**message, "message": f"{error.code}: {error}"}
            await send(message)

        return send_plainly
