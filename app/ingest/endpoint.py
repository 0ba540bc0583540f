"""`POST /ingest`: one reading or an array of them, in JSON.

Answers 200 with {accepted, duplicates, conflicts, rejected} once everything accepted is durable; 400 when the body
can't be read, 415 when it's said to be something else, and 503 when the database can't be reached: then nothing of it was stored.
"""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, Router, post

from app.errors import InvalidInput, UnsupportedMediaType
from app.ingest.merge import OnConflict
from app.ingest.message import read_body
from app.ingest.writer import IngestResult, Writer
from app.instants import read_clock

LARGE = 256 * 1024  # bytes of a body that is read beside the loop, for others' sake


def make_router(writer: Writer) -> Router:
    """The route over this writer."""

    @post("/ingest", status_code=200)
    async def ingest(request: Request[Any, Any, Any]) -> IngestResult:
        media_type, _ = request.content_type
        if media_type and media_type != "application/json":
            # A page of another site can make a browser send any of the media types of forms, but not this one.
            raise UnsupportedMediaType(f"/ingest takes application/json, not {media_type[:80]}.")
        on_conflict = _read_on_conflict(request.query_params.get("onConflict"))
        body = await request.body()
        now = read_clock()
        submission = await asyncio.to_thread(read_body, body, now) if len(body) > LARGE else read_body(body, now)
        return await writer.commit(submission, on_conflict)

    return Router("/", route_handlers=[ingest])


def _read_on_conflict(given: str | None) -> OnConflict:
    try:
        return OnConflict[(given or "keep").upper()]
    except KeyError as error:
        raise InvalidInput("onConflict must be keep or overwrite.", field="onConflict") from error
