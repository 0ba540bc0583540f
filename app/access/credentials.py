"""What a request says of who sends it. Pure.

Fails: Unauthenticated, for what can't be taken for a key or a token. None of it is ever shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.errors import Unauthenticated

_HOW = "send Authorization: Bearer, with an API key or a token, or X-API-Key"


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key or the token of a request's headers; None where there is none."""
    given = [(name, value) for name, value in headers if name in {b"authorization", b"x-api-key"}]
    if not given:
        return None
    if len(given) > 1:
        raise Unauthenticated(f"The request says more than once who sends it: {_HOW}, one of them and once.")
    ((name, value),) = given
    text = value.decode("latin-1")
    return _read_bearer(text) if name == b"authorization" else text.strip()


def read_connection(payload: Mapping[str, Any]) -> str | None:
    """The same of a WebSocket's connection_init: `authorization` or `apiKey`, or the headers by their names."""
    named = {str(name).lower(): value for name, value in payload.items()}
    given = [(name, named[name]) for name in ("authorization", "apikey", "x-api-key") if named.get(name) is not None]
    if not given:
        return None
    ((name, value), *others) = given
    if others or not isinstance(value, str):
        raise Unauthenticated('Send {"authorization": "Bearer ..."} or {"apiKey": ...} with connection_init.')
    return _read_bearer(value) if name == "authorization" else value.strip()


def _read_bearer(text: str) -> str:
    scheme, _, rest = text.partition(" ")
    if scheme.lower() != "bearer" or not rest.strip():
        raise Unauthenticated(f"The Authorization header is of another kind: {_HOW}.")
    return rest.strip()
