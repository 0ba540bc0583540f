"""`POST /ingest`: readings in JSON or MessagePack, one or an array of them, or in NDJSON, one in each line.

Answers 200 with {accepted, duplicates, conflicts, rejectedCount, rejected} once everything accepted is durable. A body
of NDJSON may be larger than memory: it's stored batch by batch, and an error after the first batch says how far it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import TypeAlias
from urllib.parse import parse_qs

import msgspec
from litestar.exceptions import MethodNotAllowedException
from litestar.types import ASGIApp, Receive, Scope, Send

from app.access.allowance import Allowance
from app.access.guard import read_principal, require_route
from app.access.locations import BoundWriter, MachineLocations
from app.access.principal import Principal
from app.errors import DatabaseUnavailable, InvalidInput, PayloadTooLarge, UnsupportedMediaType
from app.ingest.backlog import Backlog, Share
from app.ingest.body import IDENTITY, Disconnected, read_piece, read_pieces
from app.ingest.lines import LineStream
from app.ingest.merge import OnConflict
from app.ingest.message import Limits, Submission, read_json, read_messagepack
from app.ingest.stall import Pace, StallWatch
from app.ingest.writer import STOPPING, IngestResult, Writer
from app.instants import read_clock

PATH = "/ingest"
LARGE = 256 * 1024  # bytes of a body that is read beside the loop, for others' sake

Read: TypeAlias = Callable[[bytes, datetime, Limits], Submission]

# A page of another site can make a browser send any of the media types of forms, but none of these.
READERS: dict[str, Read] = {
    "application/json": read_json,
    "application/msgpack": read_messagepack,
    "application/x-msgpack": read_messagepack,
    "application/vnd.msgpack": read_messagepack,
}
LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})


def make_endpoint(
    writer: Writer,
    machines: MachineLocations,
    backlog: Backlog,
    limits: Limits,
    most_bytes: int,
    allowance: Allowance | None = None,
) -> ASGIApp:
    """The application over this writer. `most_bytes` is how long a body, or a line of NDJSON, may be; `allowance` what everybody
    may send in a time."""

    watch = StallWatch()

    async def ingest(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            raise MethodNotAllowedException(headers={"Allow": "POST"})
        require_route(scope, PATH)
        headers = dict(scope["headers"])
        try:
            result = await take(headers, scope["query_string"], receive, _read_sender(scope))
        except Disconnected:
            return
        except asyncio.CancelledError:
            # Only a server that stops, and waits no longer, does that.
            raise DatabaseUnavailable(STOPPING) from None
        await _answer(send, result)

    def choose_writer(locations: frozenset[str] | None) -> Writer:
        return writer if locations is None else BoundWriter(writer, machines, locations)

    async def take(headers: dict[bytes, bytes], query: bytes, receive: Receive, by: Principal) -> IngestResult:
        writer = choose_writer(by.locations)
        on_conflict = _read_on_conflict(query)
        media_type = headers.get(b"content-type", b"application/json").decode("latin-1")
        if media_type not in READERS:
            media_type = media_type.partition(";")[0].strip().lower()
        read = READERS.get(media_type)
        if read is None and media_type not in LINES:
            raise UnsupportedMediaType(
                f"/ingest takes application/json, application/x-ndjson and application/msgpack, not {media_type[:80]}."
            )
        length = int(headers.get(b"content-length", b"0"))
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        with backlog.share() as share:
            if read is None:
                backlog.check(0)
                async with aclosing(read_pieces(receive, coding, watch)) as pieces:
                    stream = LineStream(writer, backlog, share, limits, most_bytes, on_conflict, by, allowance)
                    return await stream.store(pieces)
            _check_length(length, most_bytes)
            backlog.check(length)
            body = await _gather(receive, coding, watch, share, most_bytes)
            if allowance is not None:
                await allowance.spend(by, len(body))
            now = read_clock()
            large = len(body) > LARGE
            submission = await asyncio.to_thread(read, body, now, limits) if large else read(body, now, limits)
            del body
            share.resize(0)
        return await writer.commit(submission, on_conflict, by)

    return ingest


def _read_sender(scope: Scope) -> Principal:
    principal = read_principal(scope)
    assert principal is not None  # noqa: S101 - the route's rule lets nobody else through
    return principal


def _check_length(length: int, most_bytes: int) -> None:
    if length > most_bytes:
        raise PayloadTooLarge(
            f"The body has more bytes than AURUM_MAX_BODY_BYTES, which is {most_bytes}: send several, or "
            "application/x-ndjson, of which only a line is as short as that."
        )


async def _gather(receive: Receive, coding: str, watch: StallWatch, share: Share, most_bytes: int) -> bytes:
    gathered: list[bytes] = []

    def take(piece: bytes) -> None:
        gathered.append(piece)
        _check_length(share.size + len(piece), most_bytes)
        share.resize(share.size + len(piece))

    if coding == IDENTITY:
        # Mostly one piece, for which a generator would take longer than reading what it says.
        pace = Pace()
        more = True
        while more:
            piece, more = await read_piece(receive, watch, pace)
            take(piece)
    else:
        async with aclosing(read_pieces(receive, coding, watch)) as pieces:
            async for piece in pieces:
                take(piece)
    return b"".join(gathered) if len(gathered) != 1 else gathered[0]


def _read_on_conflict(query: bytes) -> OnConflict:
    given = parse_qs(query.decode("latin-1")).get("onConflict", ["keep"])[-1] if query else "keep"
    try:
        return OnConflict[given.upper()]
    except KeyError as error:
        raise InvalidInput("onConflict must be keep or overwrite.", field="onConflict") from error


async def _answer(send: Send, result: IngestResult) -> None:
    body = msgspec.json.encode(result)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
