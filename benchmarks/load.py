"""A client that costs next to nothing: requests that are bytes already, written to sockets as answers come."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast


def make_request(path: str, body: bytes, media_type: str) -> bytes:
    """One POST, ready to be written."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def make_get(path: str) -> bytes:
    """One GET, ready to be written."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


@dataclass
class Load:
    """What came of a run: how long it took, and how many answers had which status."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    first_refusal: bytes = b""
    received: int = 0  # bytes of bodies

    def require_all_good(self) -> None:
        """Raises RuntimeError where an answer was not 200: such a run measures nothing."""
        if set(self.statuses) != {200}:
            raise RuntimeError(f"answers: {dict(self.statuses)}, the first: {self.first_refusal[:300]!r}")


class _Client(asyncio.Protocol):
    """One connection: writes a request, waits for the whole answer, writes the next."""

    def __init__(self, requests: Iterator[bytes], load: Load) -> None:
        self._requests = requests
        self._load = load
        self._head = b""
        self._missing: int | None = None  # bytes of the answer's body; None until its head is there
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._head = b""
            self._missing = self._read_head(head, data)
        # Counted, not gathered: to put an answer of megabytes together is more than the server's work on it.
        self._missing -= len(data)
        self._load.received += len(data)
        if self._missing == 0:
            self._missing = None
            self._send()

    def _read_head(self, head: bytes, begun: bytes) -> int:
        fields = head.lower()
        start = fields.index(b"content-length:") + len(b"content-length:")
        status = int(head[9:12])
        self._load.statuses[status] += 1
        if status != 200 and not self._load.first_refusal:
            self._load.first_refusal = begun
        return int(fields[start:].split(b"\r\n", 1)[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


async def post_all(port: int, requests: Sequence[bytes] | Iterator[bytes], clients: int) -> Load:
    """Posts each request once, over that many connections, each with one request under way at a time."""
    load = Load()
    pending = iter(requests)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [await loop.create_connection(lambda: _Client(pending, load), "127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(client.done for _, client in made))
    load.seconds = time.perf_counter() - began
    return load
