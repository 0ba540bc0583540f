"""What every answer says beside its content, so that browsers do no more with it than was meant."""

from __future__ import annotations

from collections.abc import Sequence
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


_EVERY: Final = (*ALWAYS, *UNLESS_GIVEN)
_MAY_BE_GIVEN: Final = frozenset(name for name, _ in UNLESS_GIVEN)


def add_headers(given: Sequence[Header], added: tuple[Header, ...]) -> list[Header]:
    """The headers of an answer with `added` and with those of every answer."""
    own = [name for name, _ in given if name in _MAY_BE_GIVEN]
    return [*given, *added, *(_EVERY if not own else (header for header in _EVERY if header[0] not in own))]
