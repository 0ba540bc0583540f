"""How often an address may be wrong about who sends its requests, or not say it, counted in this process alone.

Each address has ATTEMPTS, of which PER_MINUTE come back. Beyond them it is answered with 429 in place of 401, and keys of its that
nobody has seen here are looked up one after the other: however many are guessed, one connection of the pool is all that they
take, and a good key among them still lets in. A key that was found good is no attempt and isn't kept waiting by any.

Arrives: the address of a connection, or the one that a trusted proxy has told. Fails: RateLimited.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from app.cache import BoundedCache
from app.errors import RateLimited

ATTEMPTS: Final = 60  # that an address has after a rest
PER_MINUTE: Final = 30  # that come back
KEPT: Final = 10_000  # addresses; those that are forgotten begin anew
MOST_IN_LINE: Final = 8  # keys that wait for their turn to be looked up

_SECONDS: Final = 60 / PER_MINUTE  # in which one comes back
_ADVICE: Final = "send Authorization: Bearer with an API key or a token, or X-API-Key"


class Strangers:
    """Those of one process; `refused` counts attempts that were answered with 401, `limited` those with 429."""

    def __init__(self) -> None:
        self.refused = 0
        self.limited = 0
        # When an address will have all of its attempts again, by the clock of the process.
        self._full_at: BoundedCache[str, float] = BoundedCache(entries=KEPT, size=KEPT)
        self._in_line = 0
        self._turn = asyncio.Lock()

    def count(self, scope: Any) -> None:
        """An attempt that failed. Raises RateLimited where its address had none left, and then counts nothing."""
        address = _find_address(scope)
        wait = self._find_wait(address)
        if wait > 0:
            raise self._refuse(wait)
        self.refused += 1
        if address is not None:
            now = time.monotonic()
            self._full_at.put(address, max(self._full_at.get(address) or 0.0, now) + _SECONDS, 1)

    @asynccontextmanager
    async def line_up(self, scope: Any) -> AsyncIterator[None]:
        """The turn of a key that is to be looked up; at once, where its address has attempts left. Raises RateLimited."""
        wait = self._find_wait(_find_address(scope))
        if wait <= 0:
            yield
            return
        if self._in_line >= MOST_IN_LINE:
            raise self._refuse(wait)
        self._in_line += 1
        try:
            async with self._turn:
                yield
        finally:
            self._in_line -= 1

    def _find_wait(self, address: str | None) -> float:
        """Seconds until the address has an attempt; 0 where it has one."""
        full_at = None if address is None else self._full_at.get(address)
        return 0.0 if full_at is None else max(full_at - time.monotonic() - (ATTEMPTS - 1) * _SECONDS, 0.0)

    def _refuse(self, wait: float) -> RateLimited:
        self.limited += 1
        seconds = max(1, math.ceil(wait))
        return RateLimited(
            f"Too many requests from this address said wrongly who sends them, or not at all: try again in {seconds} s, and {_ADVICE}.",
            wait=wait,
            told={
                "retryAfter": seconds,
                "allowance": {"unit": "attempts", "perMinute": PER_MINUTE, "burst": ATTEMPTS, "asked": 1},
            },
        )


def _find_address(scope: Any) -> str | None:
    """Whom an attempt counts for; nobody where there is no address, as over a Unix socket.

    Of IPv6 it is the network of a site, since whoever has one address there has all of them.
    """
    client = scope.get("client")
    if not client:
        return None
    try:
        address = ip_address(client[0])
    except ValueError:
        return str(client[0])[:64]  # a trusted proxy may call a client as it likes
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(IPv6Address(int(address) >> 64 << 64)) if mapped is None else str(mapped)
    return str(address)
