"""Whoever asks for something, once it is known who that is. Pure."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Final

import msgspec

from app.access.roles import Role


class PrincipalKind(Enum):
    """What somebody is known by: an API key, a token that an identity provider has signed, a login on the machine where a command
    runs, or nothing at all."""

    KEY = "key"
    USER = "user"
    COMMAND = "command"
    ANYONE = "anyone"


class Principal(msgspec.Struct, frozen=True):
    """`name` is what transitions keep, such as key:plant-a or user:ana. `locations` are those whose machines are there for
    them, None all of them. `key_id` is of a KEY. At `expires_at`, in UTC, whatever made them known holds no longer."""

    name: str
    kind: PrincipalKind
    roles: frozenset[Role]
    locations: frozenset[str] | None = None
    key_id: int | None = None
    expires_at: datetime | None = None

    @property
    def can_end(self) -> bool:
        """Whether they may have to be let out while they are here."""
        return self.expires_at is not None or self.key_id is not None


def make_operator(login: str) -> Principal:
    """Whoever runs a command, and so has the database's password; such as command:ana@plant-7."""
    return Principal(f"command:{login}", PrincipalKind.COMMAND, frozenset({Role.ADMIN}))


# Everybody, where a developer's own machine is as far as the service can be reached.
EVERYONE: Final = Principal("anonymous", PrincipalKind.ANYONE, frozenset({Role.ADMIN}))
