"""Subscribers that cost next to nothing: WebSockets written and read by hand, which look for the cursor and the clock."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import msgspec

_CURSOR = b'"cursor":"'
_TEXT, _CLOSE, _PING = 0x1, 0x8, 0x9


def make_frame(message: object) -> bytes:
    """A client's text frame, masked with zeros."""
    body = msgspec.json.encode(message)
    length = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + body


@dataclass
class Tally:
    """What all followers have received: when by the event's id, in seconds of time.perf_counter(), and how many bytes."""

    received: dict[int, list[float]] = field(default_factory=dict)
    messages: int = 0
    size: int = 0
    dropped: int = 0


class Follower(asyncio.Protocol):
    """One connection with one subscription; `ready` when the server has read it, failed when it ends too early."""

    def __init__(self, query: str, tally: Tally) -> None:
        self._query = query
        self._tally = tally
        self._buffer = bytearray()
        self._handle: Callable[[bytes], None] = self._greet
        self._closing = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(bytes(16)).decode()
        self._transport.write(
            (
                "GET /graphql HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
            ).encode()
        )

    def close(self) -> None:
        self._closing = True
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing and not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._handle == self._greet:
            head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            if b" 101 " not in head:
                self.ready.set_exception(ConnectionError(head.decode(errors="replace")))
                return
            self._buffer = bytearray(rest)
            self._handle = self._begin
            self._transport.write(make_frame({"type": "connection_init"}))
        while (frame := self._take_frame()) is not None:
            self._handle(frame)

    def _take_frame(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        kind, length, start = buffer[0] & 0xF, buffer[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + length:
            return None
        body = bytes(buffer[start : start + length])
        del buffer[: start + length]
        if kind == _PING:
            self._transport.write(b"\x8a" + bytes([0x80 | len(body)]) + bytes(4) + body)
            return b""
        return body if kind == _TEXT else b""

    def _greet(self, _: bytes) -> None:
        raise AssertionError("no frame comes before the handshake")

    def _begin(self, frame: bytes) -> None:
        if b"connection_ack" in frame:
            payload = {"query": self._query}
            self._transport.write(make_frame({"id": "1", "type": "subscribe", "payload": payload}))
            self._transport.write(make_frame({"type": "ping"}))
        elif b"pong" in frame:
            self._handle = self._count
            self.ready.set_result(None)

    def _count(self, frame: bytes) -> None:
        now = time.perf_counter()
        tally = self._tally
        start = frame.find(_CURSOR, 0, 200)
        if start < 0:
            return
        start += len(_CURSOR)
        event_id = int(frame[start : frame.index(b'"', start)])
        tally.received.setdefault(event_id, []).append(now)
        tally.messages += 1
        tally.size += len(frame)
        tally.dropped += b'"dropped":0,' not in frame[:200]
