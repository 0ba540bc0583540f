"""Who sends a request, found out once and left in its scope; and whether they may go where it goes.

The two are apart: a request is judged where its error can be answered in the form that the route has.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn, cast

from litestar.types import ASGIApp, Receive, Scope, Send

from app.access.entrance import ASKED_FOR, Entrance
from app.access.matrix import Entry, describe_refusal, find_route_rule
from app.access.principal import Principal
from app.access.strangers import Strangers
from app.errors import Forbidden, RequestError, Unauthenticated

_PRINCIPAL: Final = "principal"  # in the scope
_REFUSAL: Final = "refusal"
_STRANGERS: Final = "strangers"  # as above, where a request doesn't say who sends it


def admit_at_home(entrance: Entrance, scope: Any) -> bool:
    """Whether nobody is asked who it is, and then everybody is let in."""
    principal = scope[_PRINCIPAL] = entrance.find_at_home(scope)
    return principal is not None


async def identify_sender(entrance: Entrance, scope: Any) -> None:
    """Leaves in the scope who has sent a request, or why that can't be told; of a WebSocket it's told later."""
    if scope["type"] == "http":
        try:
            principal = scope[_PRINCIPAL] = await entrance.identify_sender(scope)
            if principal is None:
                scope[_STRANGERS] = entrance.strangers
        except RequestError as error:
            scope[_REFUSAL] = error


def read_principal(scope: Any) -> Principal | None:
    """Who asks; None where that isn't known, or not yet, as of a WebSocket before its connection_init."""
    return cast("Principal | None", scope[_PRINCIPAL])


def ask_who(scope: Any) -> NoReturn:
    """Refuses a request that doesn't say who sends it. Raises Unauthenticated, or RateLimited where that comes too often."""
    strangers: Strangers = scope[_STRANGERS]
    strangers.count(scope)
    raise Unauthenticated(ASKED_FOR)


def require_route(scope: Any, path: str) -> None:
    """Whether a request may go to the route of this path, as it was declared. Raises what keeps it out."""
    rule = find_route_rule(path)
    if rule is Entry.OPEN or scope["type"] == "websocket":
        return
    if _REFUSAL in scope:
        raise scope[_REFUSAL]
    if isinstance(rule, Entry):
        return
    principal = read_principal(scope)
    if principal is None:
        ask_who(scope)
    if not rule.allows(principal):
        raise Forbidden(describe_refusal(path, rule, principal))


def guard(app: ASGIApp) -> ASGIApp:
    """A middleware of Litestar's, before every route."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        require_route(scope, scope["path_template"])
        await app(scope, receive, send)

    return run
