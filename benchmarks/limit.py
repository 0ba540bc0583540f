"""The most that can be had here: a bare Litestar route that passes on the text of a statement. No GraphQL at all.

LIMIT_STATEMENTS is a file of {name: SQL with at most `$1`, a text}; DATABASE_URL names the database.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec
from litestar import Litestar, MediaType, Response, get
from litestar.params import FromPath

from app.database import Database

database = Database(timescale="auto", pool_size=10, statement_timeout=timedelta(seconds=30))
statements = msgspec.json.decode(Path(os.environ["LIMIT_STATEMENTS"]).read_bytes(), type=dict[str, str])


@get("/{name:str}/{value:str}", media_type=MediaType.JSON)
async def answer(name: FromPath[str], value: FromPath[str]) -> Response[bytes]:
    statement = statements[name]
    arguments = [value] if "$1" in statement else []
    async with database.reading() as connection:
        text = await connection.fetchval(statement, *arguments)
    return Response(b'{"data":{"answer":' + text.encode() + b"}}", media_type=MediaType.JSON)


@asynccontextmanager
async def open_database(_: Litestar) -> AsyncIterator[None]:
    await database.open(os.environ["DATABASE_URL"])
    yield
    await database.close()


app = Litestar([answer], lifespan=[open_database], openapi_config=None)
