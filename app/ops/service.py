"""The service as the server sees it: Litestar, and what every request gets whichever road it takes.

Each request gets an id, passes the gate, and is known by who sent it at the entrance; each answer, refusals of WebSockets among them, gets the id and the headers
that keep browsers from doing more with it than was meant, and is measured. One layer does all of it, since a layer for each
would cost a small request as much again.

Two roads are short, since what Litestar does for a request takes as long as all the rest of a small one: readings, and
queries that are known. Everything else, and what they don't take, goes through Litestar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

from litestar import Litestar
from litestar.routes import WebSocketRoute
from litestar.types import ASGIApp
from litestar.utils.path import normalize_path

from app.access.entrance import Entrance
from app.access.guard import admit_at_home, identify_sender
from app.correlation import HEADER, begin_request
from app.drain import Drain
from app.errors import NotFound, RequestError
from app.ops.answers import send_error
from app.ops.gate import Gate
from app.ops.headers import TRANSPORT_SECURITY, Header, add_headers
from app.ops.requests import Requests, answer_head, name_route, trace_requests
from app.tracing import Tracing

CLOSE: Final[Header] = (b"connection", b"close")

_ID: Final = HEADER.encode()
_SECURE: Final = frozenset({"https", "wss"})
_BEFORE_STATUS: Final = 4000  # a close code of 4404 is the status 404
_REFUSED: Final = 403  # where it isn't one of a client's errors


class Service(Litestar):
    """Litestar behind `gate`, less the stack trace when it refuses to start: the server logs the sentence, and exits.

    `entrance` finds out who asks, `requests` measures, `tracing` follows, `drain` says when it is to stop. `open_roads` gives paths to applications of their own.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        entrance: Entrance,
        drain: Drain,
        requests: Requests,
        tracing: Tracing | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._gate = gate
        self._entrance = entrance
        self._drain = drain
        self._requests = requests
        self._tracing = tracing
        self._roads: Mapping[str, ASGIApp] = {}
        self._sockets = frozenset(route.path for route in self.routes if isinstance(route, WebSocketRoute))

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
        headers = dict(scope["headers"])
        identity = (_ID, begin_request(headers.get(_ID)).encode())
        added = (identity, *self._gate.share_answer(headers))
        if scope["scheme"] in _SECURE:
            added = (*added, TRANSPORT_SECURITY)
        requests = self._requests
        requests.underway[kind] += 1
        try:
            if kind == "http":
                await self._answer(scope, headers, receive, send, added, began)
            else:
                await self._open(scope, headers, receive, _guard_handshake(send, added))
        finally:
            requests.underway[kind] -= 1

    async def _answer(
        self, scope: Any, headers: dict[bytes, bytes], receive: Any, send: Any, added: tuple[Header, ...], began: float
    ) -> None:
        if self._drain.began:
            added = (*added, CLOSE)  # the next request of this client's is for another process
        path: str = scope["path"]
        if scope.get("root_path"):
            path = path.removeprefix(scope["root_path"])
        path = path.rstrip("/")

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = add_headers(message.get("headers", ()), added)
                self._requests.observe(scope, path, message["status"], perf_counter() - began)
            await send(message)

        try:
            self._gate.check(scope, headers)
        except RequestError as error:
            await send_error(scope, send_guarded, error)
            return
        preflight = self._gate.answer_preflight(scope, headers)
        if preflight is None:
            if not admit_at_home(self._entrance, scope):
                await identify_sender(self._entrance, scope)
            application: Any = self._roads.get(path) or super().__call__
            if scope["method"] == "HEAD":
                application = answer_head(application)
            if self._tracing is not None:
                application = trace_requests(application, self._tracing, name_route(path))
            await application(scope, receive, send_guarded)
        else:
            await send_guarded({"type": "http.response.start", "status": 204, "headers": preflight})
            await send_guarded({"type": "http.response.body", "body": b"", "more_body": False})

    async def _open(self, scope: Any, headers: dict[bytes, bytes], receive: Any, send: Any) -> None:
        try:
            self._gate.check(scope, headers)
        except RequestError as error:
            await _refuse_handshake(scope, receive, send, error)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if normalize_path(path) not in self._sockets:
            nowhere = NotFound("There is no WebSocket at this path: subscriptions are at /graphql.")
            await _refuse_handshake(scope, receive, send, nowhere)
            return
        admit_at_home(self._entrance, scope)
        await super().__call__(scope, receive, send)

    def _tell_why(self, send: Any) -> Any:
        async def send_plainly(message: Any) -> None:
            error = self.state.get("startup_error")
            if message["type"] == "lifespan.startup.failed" and error is not None:
                message = {**message, "message": f"{error.code}: {error}"}
            await send(message)

        return send_plainly


async def _refuse_handshake(scope: Any, receive: Any, send: Any, error: RequestError) -> None:
    await receive()  # websocket.connect
    await send_error(scope, send, error, "websocket.")


def _guard_handshake(send: Any, added: tuple[Header, ...]) -> Any:
    """Adds the headers to whatever answers the request for a WebSocket, which servers would refuse without any."""
    answered = False

    async def send_guarded(message: Any) -> None:
        nonlocal answered
        kind = message["type"]
        if kind == "websocket.close" and not answered:
            answered = True
            status = message.get("code", 0) - _BEFORE_STATUS
            status = status if 400 <= status < 500 else _REFUSED
            start = {"status": status, "headers": add_headers((), added)}
            await send({"type": "websocket.http.response.start", **start})
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        if kind in {"websocket.accept", "websocket.http.response.start"}:
            answered = True
            message["headers"] = add_headers(message.get("headers", ()), added)
        await send(message)

    return send_guarded
