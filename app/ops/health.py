"""`/health/live` says that the process answers; `/health/ready` that it can do its work, or why it can't.

What is wrong, and what the database is, is told to whoever is known; others learn whether it is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from litestar import Response, Router, get
from litestar.types import Scope

from app.access.guard import read_principal
from app.database import READ_ONLY, Database
from app.drain import Drain
from app.errors import AurumError, DatabaseUnavailable, Stopping
from app.events.listener import Listener
from app.ingest.writer import Writer
from app.migrations.state import require_schema

PATIENCE = 2.0  # seconds with the database; whoever asks gives up soon after


def make_router(database: Database, tables: list[str], writer: Writer, listener: Listener, drain: Drain) -> Router:
    """The routes over these rooms; `tables` are those that migrations create. Once `drain` began, it is not ready."""

    @get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @get("/health/ready")
    async def ready(scope: Scope) -> Response[dict[str, object]]:
        if drain.began:
            stopping = Stopping("The service was told to stop: send requests to another process.")
            return Response({"status": "not ready", "code": stopping.code, "message": str(stopping)}, status_code=503)
        problems = await find_problems(database, tables, writer, listener)
        first = next((error for error in problems.values() if error is not None), None)
        status = 200 if first is None else 503
        answer: dict[str, object] = {"status": "ready" if first is None else "not ready"}
        if read_principal(scope) is None:
            return Response(answer, status_code=status)
        if first is None:
            answer["database"] = str(database.edition)
        else:
            answer |= {"code": first.code, "message": str(first)}
        checks = {name: "ok" if error is None else f"{error.code}: {error}" for name, error in problems.items()}
        return Response({**answer, "checks": checks}, status_code=status)

    return Router("/", route_handlers=[live, ready])


async def find_problems(
    database: Database, tables: list[str], writer: Writer, listener: Listener
) -> Mapping[str, AurumError | None]:
    """What speaks against sending requests here, by `pool`, `migrations`, `writer` and `listener`."""
    problems: dict[str, AurumError | None] = {"pool": None, "migrations": None}
    checked = "pool"
    try:
        async with asyncio.timeout(PATIENCE), database.connection() as connection:
            checked = "migrations"
            await require_schema(connection, tables)
            if await connection.fetchval("SELECT current_setting('transaction_read_only')::boolean"):
                problems["pool"] = DatabaseUnavailable(READ_ONLY)
    except TimeoutError:
        problems[checked] = _describe_late(database)
    except DatabaseUnavailable as error:
        problems["pool"] = error
    except AurumError as error:
        problems["migrations"] = error
    problems["writer"] = writer.find_problem()
    problems["listener"] = (
        None
        if listener.is_up
        else DatabaseUnavailable("The listener has no connection: subscriptions wait until it has one again.")
    )
    return problems


def _describe_late(database: Database) -> DatabaseUnavailable:
    pool = database.read_pool()
    if pool.used >= pool.most:
        return DatabaseUnavailable(
            f"All {pool.most} connections of the pool are in use and {pool.waiting} requests wait for one: see which "
            "statements take long, or raise AURUM_POOL_SIZE."
        )
    return DatabaseUnavailable(f"The database did not answer within {PATIENCE:g} seconds.")
