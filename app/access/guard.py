"""Before every route: finds out who asks, and leaves that in the request's scope."""

from __future__ import annotations

from typing import Any, Final, cast

from litestar.types import ASGIApp, Receive, Scope, Send

from app.access.principal import EVERYONE, Principal

KEY: Final = "principal"  # in the scope


def read_principal(scope: Any) -> Principal | None:
    """Who asks; None where that isn't known, or not yet, as of a WebSocket before its connection_init."""
    return cast("Principal | None", scope[KEY])


def guard(app: ASGIApp) -> ASGIApp:
    """A middleware of Litestar's."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        cast("dict[str, Any]", scope)[KEY] = EVERYONE
        await app(scope, receive, send)

    return run
