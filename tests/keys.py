"""API keys for tests, made as `invoke key-new` makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

from app.access.audit import begin_deed
from app.access.keys import NewKey, make_key
from app.access.principal import EVERYONE
from app.access.roles import Role

PRODUCTION = {"AURUM_ENV": "production"}


async def make(
    connection: asyncpg.Connection[asyncpg.Record],
    *roles: Role,
    locations: tuple[str, ...] | None = None,
    expires: timedelta | None = None,
    name: str = "test",
) -> str:
    """A key with these roles, whose name is `test` unless it's said."""
    bound = None if locations is None else frozenset(locations)
    ends = None if expires is None else datetime.now(UTC) + expires
    return await make_key(
        connection, NewKey(name, frozenset(roles), bound, ends, "tests"), begin_deed(EVERYONE, "key-new")
    )
