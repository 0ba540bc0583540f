"""The body of a request, in pieces as they arrive: never all of it in memory unless someone gathers it.

Arrives: an ASGI `receive` and the request's Content-Encoding. Leaves: decompressed pieces of bounded size. Fails:
UnsupportedMediaType for a coding that isn't known, InvalidInput for a body that isn't in its coding, PayloadTooLarge for
one that grows beyond reason when it's decompressed, RequestTimeout for one that stops arriving, or trickles; Disconnected, when the
client hung up.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator
from time import monotonic
from typing import Protocol

from litestar.types import Receive

from app.errors import InvalidInput, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from app.ingest import stall
from app.ingest.stall import Pace, StallWatch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE = 256 * 1024  # bytes of a piece at most, once it's decompressed
# A body may decompress to that many times its size. Readings shrink to a tenth; a bomb is a thousandfold.
MOST_RATIO = 200
FREE = 1024 * 1024  # bytes that any body may decompress to
IDENTITY = "identity"
WINDOW_LOG = 23  # 8 MiB: what RFC 9659 lets a sender of zstd use at most


class Disconnected(Exception):
    """The client hung up before the end of the body."""


class _Stream(Protocol):
    """A compressed stream. `eof` once it has ended, and then `unused_data` is what follows it."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def inflate(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """At most PIECE bytes; what is left of `data`; and whether there is nothing more without new data."""


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def inflate(self, data: bytes) -> tuple[bytes, bytes, bool]:
        piece = self._inner.decompress(data, PIECE)
        rest = self._inner.unconsumed_tail
        return piece, rest, not rest and len(piece) < PIECE


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def inflate(self, data: bytes) -> tuple[bytes, bytes, bool]:
        piece = self._inner.decompress(data, PIECE)
        return piece, b"", self._inner.needs_input


_STREAMS: dict[str, Callable[[], _Stream]] = {"gzip": _Gzip, "x-gzip": _Gzip, "zstd": _Zstd}


class _Inflater:
    """Decompresses a body, which may be of several streams one behind the other, as gzip and zstd both allow."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._make = _STREAMS[coding]
        self._stream = self._make()
        self._started = False  # whether the present stream has had any data
        self._taken = self._given = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._taken += len(data)
        done = not data
        while not done:
            self._started = True
            try:
                piece, data, done = self._stream.inflate(data)
            except (zlib.error, zstd.ZstdError) as error:
                raise InvalidInput(f"The body is not {self._coding}, as its Content-Encoding says.") from error
            self._given += len(piece)
            if self._given > max(FREE, MOST_RATIO * self._taken):
                raise PayloadTooLarge(f"The body decompresses to more than {MOST_RATIO} times its size.")
            if piece:
                yield piece
            if self._stream.eof:
                data, self._stream, self._started = self._stream.unused_data, self._make(), False
                done = not data

    def finish(self) -> None:
        if self._started or not self._taken:
            raise InvalidInput(f"The body ends before its {self._coding} does: send it again.")


async def read_pieces(receive: Receive, coding: str, watch: StallWatch) -> AsyncGenerator[bytes, None]:
    """The body's bytes without their coding: IDENTITY, or one of those of _STREAMS."""
    if coding != IDENTITY and coding not in _STREAMS:
        raise UnsupportedMediaType(f"/ingest takes bodies in gzip and zstd, or as they are, not in {coding[:80]}.")
    inflater = None if coding == IDENTITY else _Inflater(coding)
    pace = Pace()
    more = True
    while more:
        body, more = await read_piece(receive, watch, pace)
        if inflater is None:
            yield body
        else:
            for piece in inflater.feed(body):
                yield piece
    if inflater is not None:
        inflater.finish()


async def read_piece(receive: Receive, watch: StallWatch, pace: Pace) -> tuple[bytes, bool]:
    """The next bytes as they come, and whether there are more to come."""
    began = monotonic()
    try:
        message = await watch.wait(receive())
    except TimeoutError:
        raise RequestTimeout(f"Nothing of the body arrived for {stall.STALL:g} seconds: send it again.") from None
    if message["type"] != "http.request":
        raise Disconnected
    body, more = message["body"], message["more_body"]
    if more and not pace.count(monotonic() - began, len(body)):
        raise RequestTimeout(
            f"Less than {stall.LEAST_RATE} bytes a second of the body arrived: send it again, once it is there as a whole."
        )
    return body, more
