"""The roles, and which of them may do what is done at the service. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Role(Enum):
    """What somebody is there for. Whoever has several may do what any of them may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    INGEST = "ingest"
    ENGINEER = "engineer"
    ADMIN = "admin"


READERS: Final = frozenset({Role.VIEWER, Role.OPERATOR, Role.ENGINEER, Role.ADMIN})
ATTENDANTS: Final = frozenset({Role.OPERATOR, Role.ENGINEER, Role.ADMIN})  # of alerts
ENGINEERS: Final = frozenset({Role.ENGINEER, Role.ADMIN})
SENDERS: Final = frozenset({Role.INGEST, Role.ADMIN})  # of readings
