"""`POST /ingest`: one reading or an array of them, in JSON.

Answers 200 with {accepted, duplicates, conflicts, rejected} once everything accepted is durable; 400 when the body
can't be read, and 503 when the database can't be reached: then nothing of it was stored.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Router, post

from app.errors import InvalidInput
from app.ingest.merge import OnConflict
from app.ingest.message import read_body
from app.ingest.writer import IngestResult, Writer
from app.instants import read_clock


def make_router(writer: Writer) -> Router:
    """The route over this writer."""

    @post("/ingest", status_code=200)
    async def ingest(request: Request[Any, Any, Any]) -> IngestResult:
        on_conflict = _read_on_conflict(request.query_params.get("onConflict"))
        return await writer.commit(read_body(await request.body(), read_clock()), on_conflict)

    return Router("/", route_handlers=[ingest])


def _read_on_conflict(given: str | None) -> OnConflict:
    try:
        return OnConflict[(given or "keep").upper()]
    except KeyError as error:
        raise InvalidInput("onConflict must be keep or overwrite.", field="onConflict") from error
