"""API keys: made, found, listed and revoked in api_keys.

A key is `aurum_<prefix>_<secret>`: 32 public bits that it's looked up and spoken of by, and 256 random ones. The database
has a SHA-256 of the whole alone: of so many random bits nobody guesses one, so a slow hash would only slow down requests.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import asyncpg
import msgspec

from app.access.audit import Change, Deed, Subject, record_changes
from app.access.principal import Principal, PrincipalKind
from app.access.roles import Role
from app.database import Connection
from app.errors import AlreadyExists, InvalidInput, NotFound, Unauthenticated
from app.instants import format_instant
from app.texts import check_line

BEGINNING = "aurum_"
_FORM = re.compile(r"aurum_([0-9a-f]{8})_[0-9a-f]{64}")
_ATTEMPTS = 5  # at a prefix that no other key has


class NewKey(msgspec.Struct, frozen=True):
    """A key to be made. `locations` None binds it to none; `expires_at` None lets it hold until it is revoked."""

    name: str
    roles: frozenset[Role]
    locations: frozenset[str] | None
    expires_at: datetime | None
    created_by: str


class ListedKey(msgspec.Struct, frozen=True):
    """What may be known of a key."""

    prefix: str
    name: str
    roles: tuple[str, ...]
    locations: tuple[str, ...] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def describe(self) -> str:
        """A line for a person."""
        where = "" if self.locations is None else f" at {', '.join(self.locations)}"
        if self.revoked_at is not None:
            standing = f"revoked {_show(self.revoked_at)}"
        else:
            standing = "never expires" if self.expires_at is None else f"expires {_show(self.expires_at)}"
        used = "never used" if self.last_used_at is None else f"last used {_show(self.last_used_at)}"
        made = f"made {_show(self.created_at)} by {self.created_by}"
        return f"{self.prefix}  {self.name}  {', '.join(self.roles)}{where}  {standing}, {used}, {made}"


def _show(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


async def make_key(connection: Connection, new: NewKey, deed: Deed) -> str:
    """Stores a key and returns it, the only time that it is shown. Raises InvalidInput."""
    name = check_line(new.name, "name")
    if not new.roles:
        raise InvalidInput(f"roles must name at least one of {', '.join(role.value for role in Role)}.", field="roles")
    if new.locations is not None and not new.locations:
        raise InvalidInput("locations must name at least one, or be left out for all.", field="locations")
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    if new.expires_at is not None and new.expires_at <= now:
        raise InvalidInput("expires must be in the future.", field="expires")
    for _ in range(_ATTEMPTS):
        prefix = secrets.token_hex(4)
        key = f"{BEGINNING}{prefix}_{secrets.token_hex(32)}"
        try:
            async with connection.transaction():
                await _insert(connection, prefix, key, msgspec.structs.replace(new, name=name))
                await record_changes(connection, deed, [Change(Subject.KEY, prefix, None, _describe(new))])
        except asyncpg.UniqueViolationError:
            continue
        return key
    raise AlreadyExists("Every prefix that was tried belongs to a key: try again.")


async def _insert(connection: Connection, prefix: str, key: str, new: NewKey) -> None:
    await connection.execute(
        """
        INSERT INTO api_keys (prefix, digest, name, roles, locations, created_by, expires_at)
        VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7)
        """,
        prefix,
        _digest(key),
        new.name,
        _encode(role.value for role in new.roles),
        None if new.locations is None else _encode(new.locations),
        new.created_by,
        new.expires_at,
    )


def _describe(new: NewKey) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(new)
    return {**shown, "roles": sorted(role.value for role in new.roles)}


def _encode(texts: Iterable[str]) -> str:
    return msgspec.json.encode(sorted(texts)).decode()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def find_holder(connection: Connection, key: str) -> Principal:
    """Who holds a key. Raises Unauthenticated where nobody does, or not any more."""
    formed = _FORM.fullmatch(key)
    row = formed and await connection.fetchrow(
        """
        SELECT id, digest, name, roles, locations, expires_at, revoked_at, expires_at <= clock_timestamp() AS expired
        FROM api_keys WHERE prefix = $1
        """,
        formed[1],
    )
    # In a time that doesn't tell how much of it was right.
    if not row or not hmac.compare_digest(row["digest"], _digest(key)):
        raise Unauthenticated("The API key is not one of this service.")
    if row["revoked_at"] is not None:
        raise Unauthenticated(REVOKED)
    if row["expired"]:
        raise Unauthenticated(EXPIRED)
    locations = row["locations"]
    return Principal(
        name=f"key:{row['name']}",
        kind=PrincipalKind.KEY,
        roles=frozenset(Role(role) for role in msgspec.json.decode(row["roles"])),
        locations=None if locations is None else frozenset(msgspec.json.decode(locations)),
        key_id=row["id"],
        expires_at=row["expires_at"],
    )


REVOKED = "The API key was revoked: use another."
EXPIRED = "The API key has expired: use another."


async def find_revoked(connection: Connection, key_ids: Sequence[int]) -> set[int]:
    """Those of the keys that are revoked, or gone."""
    rows = await connection.fetch(
        """
        SELECT asked FROM unnest($1::bigint[]) AS asked
        WHERE NOT EXISTS (SELECT FROM api_keys WHERE id = asked AND revoked_at IS NULL)
        """,
        list(key_ids),
    )
    return {row["asked"] for row in rows}


async def has_live_key(connection: Connection) -> bool:
    """Whether there is a key that lets anybody in."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (SELECT FROM api_keys WHERE revoked_at IS NULL
                           AND (expires_at IS NULL OR expires_at > clock_timestamp()))
            """
        )
    )


async def note_uses(connection: Connection, uses: Mapping[int, datetime]) -> None:
    """Writes when keys were used last; it never goes back."""
    await connection.execute(
        """
        UPDATE api_keys SET last_used_at = used_at FROM unnest($1::bigint[], $2::timestamptz[]) AS used (key_id, used_at)
        WHERE id = key_id AND (last_used_at IS NULL OR last_used_at < used_at)
        """,
        list(uses),
        list(uses.values()),
    )


async def list_keys(connection: Connection) -> list[ListedKey]:
    """All keys there ever were, the oldest first."""
    rows = await connection.fetch(
        """
        SELECT prefix, name, roles, locations, created_at, created_by, expires_at, last_used_at, revoked_at
        FROM api_keys ORDER BY id
        """
    )
    return [
        ListedKey(
            **{**row, "roles": _decode(row["roles"]), "locations": row["locations"] and _decode(row["locations"])}
        )
        for row in rows
    ]


def _decode(texts: str) -> tuple[str, ...]:
    return msgspec.json.decode(texts, type=tuple[str, ...])


async def revoke_key(connection: Connection, prefix: str, deed: Deed) -> str:
    """Takes a key out of use for good and returns its name. Raises NotFound where no key that holds has the prefix."""
    async with connection.transaction():
        row = await connection.fetchrow(
            """
            UPDATE api_keys SET revoked_at = now() WHERE prefix = $1 AND revoked_at IS NULL RETURNING name, revoked_at
            """,
            prefix,
        )
        if row is None:
            raise NotFound(f"No key with the prefix {prefix!r} is in use: invoke key-list shows them.", field="prefix")
        after = {"revoked_at": format_instant(row["revoked_at"])}
        await record_changes(connection, deed, [Change(Subject.KEY, prefix, {"revoked_at": None}, after)])
    return str(row["name"])
