"""`/health/live` says that the process answers; `/health/ready` that it can do its work, or why it can't."""

from __future__ import annotations

from litestar import Response, Router, get

from app.database import Database
from app.errors import AurumError
from app.migrations.state import require_schema


def make_router(database: Database, tables: list[str]) -> Router:
    """The routes over this database; `tables` are those that migrations create."""

    @get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @get("/health/ready")
    async def ready() -> Response[dict[str, str]]:
        try:
            async with database.connection() as connection:
                await require_schema(connection, tables)
        except AurumError as error:
            answer = {"status": "not ready", "code": error.code, "message": str(error)}
            return Response(answer, status_code=503)
        return Response({"status": "ready", "database": str(database.edition)})

    return Router("/", route_handlers=[live, ready])
