"""The keys of an identity provider (JWKS), fetched when they're needed and kept.

Fails: Unauthenticated for a key that the provider doesn't have; IdentityUnavailable where it can't be asked, and the key
isn't known from before. No redirect is followed: where the keys come from is settled by the configuration alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import jwt
import msgspec

from app.errors import IdentityUnavailable, Unauthenticated

TIMEOUT = 5.0  # seconds, for the provider to answer
LARGEST = 256 * 1024  # bytes of its answer
RENEWED_AFTER = 600.0  # seconds; what the provider has taken back is forgotten then
FORGOTTEN_AFTER = 86_400.0  # seconds for which keys are kept where it doesn't answer
ASKED_EVERY = 10.0  # seconds at least between two requests: anybody may send tokens of a made-up key
LEAST_BITS = 2048
ALGORITHM = "RS256"

logger = logging.getLogger(__name__)


class ProviderKeys:
    """The keys of one provider, by their ids."""

    def __init__(self, url: str) -> None:
        self.algorithm = ALGORITHM
        self._url = url
        self._keys: dict[str | None, Any] = {}
        self._fetched = float("-inf")
        self._asked = float("-inf")
        self._fetching = asyncio.Lock()

    async def find_key(self, key_id: str | None) -> Any:
        """The key of that `kid`; of a provider with one key alone, that one for tokens that name none."""
        if key_id not in self._keys or self._fetched + RENEWED_AFTER <= time.monotonic():
            async with self._fetching:
                await self._renew(key_id)
        stale = self._asked > self._fetched and key_id not in self._keys
        if stale or time.monotonic() - self._fetched > FORGOTTEN_AFTER:
            raise IdentityUnavailable("The identity provider's keys can't be fetched just now: try again later.")
        key = self._keys.get(key_id)
        if key is None:
            raise Unauthenticated("The token is signed with a key that the identity provider doesn't have.")
        return key

    async def _renew(self, key_id: str | None) -> None:
        now = time.monotonic()
        known = key_id in self._keys and self._fetched + RENEWED_AFTER > now
        if known or now < self._asked + ASKED_EVERY:
            return  # somebody has just asked
        self._asked = now
        try:
            keys = read_keys(await self._fetch())
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            logger.warning("The identity provider's keys could not be fetched: %s", type(error).__name__)
            return
        self._keys, self._fetched = keys, time.monotonic()

    async def _fetch(self) -> bytes:
        async with (
            asyncio.timeout(TIMEOUT),
            httpx.AsyncClient(follow_redirects=False, timeout=TIMEOUT) as client,
            client.stream("GET", self._url, headers={"Accept": "application/json"}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            gathered = bytearray()
            async for piece in response.aiter_bytes():
                gathered += piece
                if len(gathered) > LARGEST:
                    raise ValueError("too large")
        return bytes(gathered)


def read_keys(document: bytes) -> dict[str | None, Any]:
    """The keys for signatures by RS256 in a JWKS, by `kid`; a single one under None as well. Raises ValueError."""
    listed = msgspec.json.decode(document, type=dict[str, Any]).get("keys")
    if not isinstance(listed, list):
        raise ValueError("no keys")  # noqa: TRY004 - as for any other document that isn't one
    keys: dict[str | None, Any] = {}
    for each in listed:
        if not isinstance(each, dict) or each.get("kty") != "RSA":
            continue
        if each.get("use", "sig") != "sig" or each.get("alg", ALGORITHM) != ALGORITHM:
            continue
        try:
            key: Any = jwt.PyJWK(each, ALGORITHM).key
        except jwt.PyJWTError:
            continue
        if key.key_size >= LEAST_BITS and isinstance(each.get("kid"), str):
            keys[each["kid"]] = key
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    return keys
