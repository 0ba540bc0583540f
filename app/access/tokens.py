"""Tokens of people (JWT): signed by somebody else, whom the settings name, and checked by what they say.

Arrives: a token. Leaves: a Principal. Fails: Unauthenticated, for a token that doesn't hold; IdentityUnavailable, where the
keys to check it by can't be fetched. One algorithm is taken, the one that belongs to the key that was configured: what a
token says of its own algorithm decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import jwt

from app.access.principal import Principal, PrincipalKind
from app.access.roles import Role
from app.errors import SettingsError, Unauthenticated

LEAST_SECRET = 32  # bytes, as long as what HS256 makes of them
LONGEST_NAME = 200  # characters of who a token is about
ANYWHERE = "*"  # among a token's locations: all of them
TOKEN_EXPIRED = "The token has expired: get a new one."  # noqa: S105 - a sentence

_ROLES: Final = {role.value: role for role in Role}


class KeySource(Protocol):
    """Where the keys come from that tokens are checked by."""

    algorithm: str

    async def find_key(self, key_id: str | None) -> Any:
        """The key of that `kid`. Raises Unauthenticated where there is none."""


class FixedKey:
    """One key for all tokens: a secret for HS256, a public key in PEM for RS256."""

    def __init__(self, key: str, algorithm: str) -> None:
        self.algorithm = algorithm
        self._key = jwt.get_algorithm_by_name(algorithm).prepare_key(key)

    async def find_key(self, key_id: str | None) -> Any:  # noqa: ARG002 - there is no other
        return self._key


def read_public_key(path: Path) -> FixedKey:
    """The RSA public key in a file. Raises SettingsError."""
    try:
        return FixedKey(path.read_text(encoding="ascii"), "RS256")
    except OSError as error:
        raise SettingsError(f"AURUM_JWT_PUBLIC_KEY is {path}, which can't be read: {error.strerror}.") from error
    except (jwt.PyJWTError, ValueError) as error:
        raise SettingsError(f"AURUM_JWT_PUBLIC_KEY is {path}, which must hold an RSA public key in PEM.") from error


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What tokens must say. `roles` and `locations` are names of claims, with dots where they lie within others; without
    `locations` nobody is bound to any."""

    issuer: str | None
    audience: str | None
    leeway: timedelta
    roles: str
    locations: str | None


class Tokens:
    """The tokens that are taken."""

    def __init__(self, source: KeySource, claims: Claims) -> None:
        self._source = source
        self._claims = claims

    async def verify(self, token: str) -> Principal:
        """Who a token is about."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._source.find_key(key_id if isinstance(key_id, str) else None)
            said = self._decode(token, key)
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated(TOKEN_EXPIRED) from error
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(_explain(error)) from error
        return self._read(said)

    def _decode(self, token: str, key: Any) -> dict[str, Any]:
        claims = self._claims
        return jwt.decode(
            token,
            key,
            algorithms=[self._source.algorithm],
            issuer=claims.issuer,
            audience=claims.audience,
            leeway=claims.leeway,
            options={
                "require": ["exp", "sub"],
                "verify_iss": claims.issuer is not None,
                "verify_aud": claims.audience is not None,
            },
        )

    def _read(self, said: Mapping[str, Any]) -> Principal:
        subject = said["sub"]
        if not 0 < len(subject) <= LONGEST_NAME or not subject.isprintable():
            raise Unauthenticated(f"The token's sub must be 1 to {LONGEST_NAME} printable characters.")
        named = _find(said, self._claims.roles)
        try:
            ends = datetime.fromtimestamp(int(said["exp"]), UTC) + self._claims.leeway
        except (OverflowError, ValueError, OSError):
            raise Unauthenticated("The token's exp is no instant.") from None
        return Principal(
            name=f"user:{subject}",
            kind=PrincipalKind.USER,
            roles=frozenset(_ROLES[name] for name in _read_names(named) if name in _ROLES),
            locations=self._read_locations(said),
            expires_at=ends,
        )

    def _read_locations(self, said: Mapping[str, Any]) -> frozenset[str] | None:
        if self._claims.locations is None:
            return None
        given = _find(said, self._claims.locations)
        # A location may have a space in its name, so it's a list or it's one.
        locations = [given] if isinstance(given, str) else given
        if not isinstance(locations, list) or not all(isinstance(each, str) for each in locations):
            raise Unauthenticated(
                "The token doesn't say for which locations it is, as tokens here must: an array of names, a name, or *."
            )
        return None if ANYWHERE in locations else frozenset(locations)


def _find(said: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or within others by theirs. A name may have dots itself, as those that are URLs."""
    if path in said:
        return said[path]
    found: Any = said
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _read_names(given: Any) -> list[str]:
    if isinstance(given, str):
        return given.split()
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []


def _explain(error: jwt.InvalidTokenError) -> str:
    """What is wrong with a token, in words that quote nothing of it."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"The token lacks {error.claim}."
    return next(
        (sentence for kind, sentence in _SENTENCES if isinstance(error, kind)), "The token can't be taken here."
    )


# Those that are kinds of others come first.
_SENTENCES: Final[tuple[tuple[type[jwt.InvalidTokenError], str], ...]] = (
    (jwt.InvalidIssuerError, "The token is of another issuer than the one of AURUM_JWT_ISSUER."),
    (jwt.InvalidAudienceError, "The token is for another audience than the one of AURUM_JWT_AUDIENCE."),
    (jwt.ImmatureSignatureError, "The token doesn't hold yet: compare the clocks."),
    (jwt.InvalidIssuedAtError, "The token doesn't hold yet: compare the clocks."),
    (jwt.InvalidAlgorithmError, "The token is signed by another algorithm than the one that is taken here."),
    (jwt.InvalidSignatureError, "The token's signature doesn't fit the key that tokens are checked by here."),
    (jwt.DecodeError, "That is neither an API key nor a token."),
)
