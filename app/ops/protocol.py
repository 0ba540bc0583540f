"""uvicorn's HTTP, with bounds that it lacks: clients that are slow on purpose hold nothing for long.

A head must have arrived whole within HEAD_SECONDS and MOST_HEAD bytes, a body must go on within BODY_SECONDS and at
LEAST_RATE, and who reads an answer must take some of it within ANSWER_SECONDS. One timer looks after all connections, since
one for each would cost every request. What the server answers by itself is in the form of all other answers. WebSockets
have pings of their own.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.ingest.stall import LEAST_RATE
from app.ops.headers import add_headers
from app.ops.upgrade import Offers

HEAD_SECONDS: Final = 20.0
BODY_SECONDS: Final = 60.0  # longer than what /ingest waits, which answers in order
ANSWER_SECONDS: Final = 60.0
IDLE_SECONDS: Final = 75  # between requests: longer than proxies keep connections, so that they are the ones to close
MOST_HEAD: Final = 64 * 1024
LOOK: Final = 1.0  # seconds between two looks at all connections


class Patrol:
    """Looks after the connections of one server, of which there may be `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._connections: set[BoundedProtocol] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: BoundedProtocol) -> None:
        self._connections.add(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(LOOK, self._look, connection.loop)

    def discard(self, connection: BoundedProtocol) -> None:
        self._connections.discard(connection)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in tuple(self._connections):
            connection.look(now)
        self._timer = loop.call_later(LOOK, self._look, loop) if self._connections else None


class BoundedProtocol(HttpToolsProtocol):
    """One connection, as uvicorn makes them where this is its `http`."""

    patrol: ClassVar = Patrol(10_000)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._in_head = True
        self._head_bytes = 0
        self._offers = Offers()
        self._body_bytes = 0  # that came behind the piece with the head, since the body was last looked at
        self._body_left = 0.0  # seconds that the body may still keep us waiting
        self._looked = 0.0  # when it was last looked at
        self._unsent = 0  # bytes of an answer that the client had not taken when it was last looked at
        self._since = self._heard = self.loop.time()  # when the head, or the pause, began; when bytes arrived
        self.patrol.add(self)
        if len(self.connections) > self.patrol.most:
            self._refuse(503, "OVERLOADED", "There are more connections than AURUM_MAX_CONNECTIONS; try again.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.patrol.discard(self)
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self.patrol.discard(self)
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if self.cycle is not None and self.cycle.more_body:
            self._body_bytes += len(data)
        elif b"h2c" in data or b"\r\n\r\n" not in data or self._offers.is_within:
            data = self._offers.take_out(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._refuse(431, "REQUEST_HEADER_FIELDS_TOO_LARGE", f"A request's head is {MOST_HEAD} bytes at most.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._body_bytes = 0
        self._since = self._looked = self._heard
        self._body_left = BODY_SECONDS

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "BAD_REQUEST", msg)

    def look(self, now: float) -> None:
        """Ends the connection if its client took too long with what it is at."""
        if self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._since = unsent, now
            elif now - self._since > ANSWER_SECONDS:
                self.transport.abort()
        elif self._is_answering:
            if self.cycle.more_body:
                self._look_at_body(now)
        elif self.timeout_keep_alive_task is None and now - self._since > HEAD_SECONDS:
            self._refuse(408, "REQUEST_TIMEOUT", f"The request's head did not arrive within {HEAD_SECONDS:g} s.")

    def _look_at_body(self, now: float) -> None:
        waited, arrived = now - self._looked, self._body_bytes
        self._looked, self._body_bytes = now, 0
        if self.flow.read_paused:
            return  # it's us who take no more of it
        self._body_left = min(BODY_SECONDS, self._body_left - waited + arrived / LEAST_RATE)
        if self._body_left < 0:
            self._refuse(
                408,
                "REQUEST_TIMEOUT",
                f"Nothing of the body arrived for {BODY_SECONDS:g} s, or less than {LEAST_RATE} bytes a second.",
            )

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answers, where no answer has begun, and closes."""
        if self.transport.is_closing():
            return
        if not (self._is_answering and self.cycle.response_started):
            body = msgspec.json.encode({"code": code, "message": message})
            given = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            lines: list[Any] = [STATUS_LINE[status]]
            for name, value in add_headers([*given, (b"connection", b"close")], ()):
                lines += [name, b": ", value, b"\r\n"]
            self.transport.write(b"".join([*lines, b"\r\n", body]))
        self.transport.close()


def make_protocol(most: int) -> type[BoundedProtocol]:
    """For a server that takes `most` connections."""
    return type("Protocol", (BoundedProtocol,), {"patrol": Patrol(most)})
