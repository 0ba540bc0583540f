"""Who is let in: nobody is asked on a developer's own machine; everywhere else a key or a token says who it is.

Arrives: a key or a token. Leaves: a Principal. Fails: Unauthenticated, with what would be right and nothing of what was
sent; RateLimited, where an address has been wrong too often; DatabaseUnavailable or IdentityUnavailable, where it can't be checked
just now.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from app.access.credentials import read_connection, read_headers
from app.access.keyring import HOLDS, KeyRing
from app.access.keys import BEGINNING, EXPIRED, REVOKED, find_holder, has_live_key
from app.access.principal import EVERYONE, Principal, PrincipalKind
from app.access.strangers import Strangers
from app.access.tokens import TOKEN_EXPIRED, Tokens
from app.addresses import is_loopback
from app.cache import BoundedCache
from app.database import Connection, Database
from app.errors import AccessUnconfigured, AurumError, Unauthenticated
from app.instants import read_clock

KEPT = 4_000  # keys and tokens that are known at once
KEPT_BYTES = KEPT * 1_000
LONGEST = 16 * 1024  # characters of a token

logger = logging.getLogger(__name__)

_BY_PROXIES = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})

ASKED_FOR = "Say who you are: send Authorization: Bearer with an API key or a token, or X-API-Key."
_ASKED_FOR_OPENER = 'Say who you are: send {"authorization": "Bearer ..."} or {"apiKey": ...} with connection_init.'


class _Verdict(msgspec.Struct, frozen=True):
    """What a key or a token turned out to be: somebody, or why it is nobody; and until when that holds here."""

    principal: Principal | None
    refusal: str
    until: float


class Entrance:
    """`is_open` asks nobody who arrives over a loopback address, from this machine by all that is told. Without `tokens` people have no way in."""

    def __init__(self, database: Database, tokens: Tokens | None, *, is_open: bool) -> None:
        self.is_open = is_open
        self.keys = KeyRing(database)
        self.strangers = Strangers()
        self._database = database
        self._tokens = tokens
        self._known: BoundedCache[bytes, _Verdict] = BoundedCache(entries=KEPT, size=KEPT_BYTES)
        self._asked: dict[bytes, asyncio.Task[_Verdict]] = {}

    async def require_way_in(self, connection: Connection, *, production: bool) -> None:
        """Says in the log who is let in. Raises AccessUnconfigured in production where that is nobody."""
        if self.is_open:
            logger.warning(
                "Open: whoever reaches this machine's loopback address is an admin, since AURUM_ENV is development and "
                "AURUM_HOST is of this machine alone. Whoever comes to another address is asked for a key."
            )
        elif self._tokens is None and not await has_live_key(connection):
            lack = "No API key is in use and no tokens are taken: make a key with invoke key-new, or set AURUM_JWT_JWKS_URL."
            if production:
                raise AccessUnconfigured(lack)
            logger.warning("Nobody is let in yet. %s", lack)

    def find_at_home(self, scope: Any) -> Principal | None:
        """Everybody, of a connection that nobody is asked on; None of any other."""
        # By the address that it came to, not by the setting: a server may have been told to listen elsewhere.
        if self.is_open and (server := scope.get("server")) and (server[0] == "127.0.0.1" or is_loopback(server[0])):
            # Most proxies on this machine tell for whom they come.
            return None if _come_from_elsewhere(scope["headers"]) else EVERYONE
        return None

    async def identify_sender(self, scope: Any) -> Principal | None:
        """Who has sent a request; None where it doesn't say. Raises as `identify`."""
        try:
            credentials = read_headers(scope["headers"])
        except Unauthenticated:
            self.strangers.count(scope)
            raise
        return None if credentials is None else await self.identify(credentials, scope)

    async def identify_opener(self, scope: Any, payload: Mapping[str, Any]) -> Principal:
        """Who opens a WebSocket, by its connection_init or by the headers that it began with. Raises as `identify`."""
        try:
            credentials = read_connection(payload) or read_headers(scope["headers"])
        except Unauthenticated:
            self.strangers.count(scope)
            raise
        if credentials is None:
            self.strangers.count(scope)
            raise Unauthenticated(_ASKED_FOR_OPENER)
        return await self.identify(credentials, scope)

    async def identify(self, credentials: str, scope: Any) -> Principal:
        """Who holds a key or a token, which came in this scope. Raises RateLimited where its address was wrong too often."""
        try:
            return await self._identify(credentials, scope)
        except Unauthenticated:
            self.strangers.count(scope)
            raise

    async def _identify(self, credentials: str, scope: Any) -> Principal:
        digest = hashlib.sha256(credentials.encode(errors="surrogateescape")).digest()
        verdict = self._known.get(digest)
        if verdict is None or verdict.until <= time.monotonic():
            if verdict is None or verdict.principal is None:
                async with self.strangers.line_up(scope):
                    verdict = await self._ask(digest, credentials)
            else:
                verdict = await self._ask(digest, credentials)
        principal = verdict.principal
        if principal is None:
            raise Unauthenticated(verdict.refusal)
        if principal.expires_at is not None and principal.expires_at <= read_clock():
            raise Unauthenticated(_tell_expired(principal))
        self.keys.note(principal)
        return principal

    async def _ask(self, digest: bytes, credentials: str) -> _Verdict:
        """However many requests bring the same key at once, it is looked up once."""
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._judge(digest, credentials))
            task.add_done_callback(partial(self._forget, digest))
        return await asyncio.shield(task)

    def _forget(self, digest: bytes, task: asyncio.Task[_Verdict]) -> None:
        del self._asked[digest]
        if not task.cancelled():
            task.exception()  # whoever asked may have hung up, and then nobody else looks at it

    async def _judge(self, digest: bytes, credentials: str) -> _Verdict:
        until = time.monotonic() + HOLDS
        try:
            verdict = _Verdict(await self._check(credentials), "", until)
        except Unauthenticated as error:
            verdict = _Verdict(None, str(error), until)
        self._known.put(digest, verdict, KEPT_BYTES // KEPT)
        return verdict

    async def _check(self, credentials: str) -> Principal:
        if credentials.startswith(BEGINNING):
            async with self._database.reading() as connection:
                return await find_holder(connection, credentials)
        if self._tokens is None:
            raise Unauthenticated("That is no API key, and this service takes no tokens.")
        if len(credentials) > LONGEST:
            raise Unauthenticated("The token is too long.")
        return await self._tokens.verify(credentials)

    async def wait_for_end(self, principal: Principal) -> str:
        """Returns why, once somebody who was let in is to be let out again: it has expired, or was revoked."""
        while True:
            left = _count_seconds(principal.expires_at)
            if left <= 0:
                return _tell_expired(principal)
            await asyncio.sleep(min(left, HOLDS))
            # Where that can't be found out just now, there is nothing new to be seen either.
            with suppress(AurumError):
                if principal.key_id is not None and await self.keys.is_revoked(principal.key_id):
                    return REVOKED


def _come_from_elsewhere(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether they say that a proxy brings what somebody on another machine has sent."""
    for name, value in headers:
        if name in _BY_PROXIES and not all(is_loopback(each.strip()) for each in value.decode("latin-1").split(",")):
            return True
    return False


def _tell_expired(principal: Principal) -> str:
    return EXPIRED if principal.kind is PrincipalKind.KEY else TOKEN_EXPIRED


def _count_seconds(until: datetime | None) -> float:
    return HOLDS if until is None else (until - read_clock()).total_seconds()
