"""What every answer says beside its content, so that browsers do no more with it than was meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Header = tuple[bytes, bytes]

# An answer is data: nothing in it is to be loaded, run, framed or guessed at, whatever somebody has got into it.
ALWAYS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# What an answer may say otherwise: GraphiQL's page loads scripts, and a stream says by itself how it may be kept.
UNLESS_GIVEN: Final[tuple[Header, ...]] = (
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
# Browsers heed it over TLS alone.
TRANSPORT_SECURITY: Final[Header] = (b"strict-transport-security", b"max-age=31536000")


def add_headers(given: Iterable[Header], added: tuple[Header, ...]) -> list[Header]:
    """The headers of an answer with `added` and with those of every answer."""
    headers = [*given, *added, *ALWAYS]
    names = {name for name, _ in headers}
    headers += [header for header in UNLESS_GIVEN if header[0] not in names]
    return headers
