"""Which requests are let in at all: by the name that they call the service, and by the page that sends them.

A browser sends a request of any page to any address, and names the page in `Origin`. Pages of other sites are refused
before they reach anything, so that nobody's browser is used to write here; those in AURUM_CORS_ORIGINS are let in and may
read the answers. Programs that are no browser send no `Origin`, and are not touched by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.addresses import is_address
from app.errors import HostNotTrusted, OriginNotTrusted
from app.ops.headers import Header

ALLOWED_METHODS: Final = b"GET, POST"
# What clients of GraphQL, of subscriptions and of ingest send beside what every page may.
ALLOWED_HEADERS: Final = (
    b"authorization, content-encoding, content-type, graphql-require-preflight, apollo-require-preflight, "
    b"x-apollo-operation-name, last-event-id, traceparent, tracestate, x-api-key, x-request-id"
)
EXPOSED_HEADERS: Final = b"retry-after, x-request-id"
PREFLIGHT_SECONDS: Final = b"600"  # for which a browser keeps the answer

_MOST_REMEMBERED = 1_000  # names that were found to be right


class Gate:
    """`hosts` are the names that the service answers to: None is any, and empty is `localhost` and addresses, which no
    page can point its own name at (DNS rebinding). `origins` are pages of other sites, as `scheme://host[:port]`."""

    def __init__(self, hosts: frozenset[str] | None, origins: frozenset[str]) -> None:
        self._hosts = hosts
        self._origins = frozenset(origin.encode() for origin in origins)
        self._remembered: set[bytes] = set()

    def check(self, scope: Any, headers: Mapping[bytes, bytes]) -> None:
        """Raises HostNotTrusted or OriginNotTrusted."""
        host = headers.get(b"host", b"")
        if self._hosts is not None and host not in self._remembered:
            self._check_host(scope, host)
        origin = headers.get(b"origin")
        if origin is not None and origin not in self._origins and not _is_own(origin, host, headers):
            raise OriginNotTrusted(
                f"Pages of {_quote(origin)} may not use this service: name it in AURUM_CORS_ORIGINS if they shall."
            )

    def answer_preflight(self, scope: Any, headers: Mapping[bytes, bytes]) -> list[Header] | None:
        """The headers of the answer to a browser that asks what a page of another site may send; None for other requests."""
        if scope.get("method") != "OPTIONS" or b"access-control-request-method" not in headers:
            return None
        return [
            (b"access-control-allow-methods", ALLOWED_METHODS),
            (b"access-control-allow-headers", ALLOWED_HEADERS),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
        ]

    def share_answer(self, headers: Mapping[bytes, bytes]) -> tuple[Header, ...]:
        """What has a browser show an answer to the page that asked, where that may see it.

        Credentials that a browser adds by itself (cookies) are not among what is allowed: there are none here.
        """
        if not self._origins:
            return ()
        origin = headers.get(b"origin")
        if origin not in self._origins:
            return ((b"vary", b"Origin"),)
        return (
            (b"vary", b"Origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
        )

    def _check_host(self, scope: Any, host: bytes) -> None:
        if not self._is_known(host):
            # Whoever asks for a process's health knows its address, and mostly nothing else.
            if scope["path"].startswith("/health/"):
                return
            raise HostNotTrusted(
                f"The service isn't known as {_quote(host)}: name it in AURUM_TRUSTED_HOSTS if it shall be."
            )
        if len(self._remembered) < _MOST_REMEMBERED:
            self._remembered.add(host)

    def _is_known(self, host: bytes) -> bool:
        name = split_port(host.decode("latin-1").lower())
        if self._hosts:
            return name in self._hosts
        return name == "localhost" or is_address(name)


def _is_own(origin: bytes, host: bytes, headers: Mapping[bytes, bytes]) -> bool:
    # The scheme is not compared: whatever ends TLS before the service need not say so. No page can set the second one.
    return origin.partition(b"://")[2] == host.lower() or headers.get(b"sec-fetch-site") == b"same-origin"


def split_port(host: str) -> str:
    """The name in a Host header, less its port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _quote(value: bytes) -> str:
    return repr(value[:80].decode("latin-1"))
