"""What was done with each migration, for people and programs. Reads only; imports no migration."""

from __future__ import annotations

import re
from enum import Enum

import msgspec
from piccolo.conf.apps import AppConfig

from app.database import Connection
from app.migrations.state import read_state
from app.timescale.files import find_folder, list_files
from app.timescale.journal import Entry, read_journal

# In brackets on a line of its own where it is long.
_DESCRIPTION = re.compile(r"""^DESCRIPTION = (?:\(\n +)?["'](.*)["']$""", re.MULTILINE)


class State(Enum):
    """Whether a database has a migration: UNKNOWN is applied and in no file."""

    APPLIED = "applied"
    PENDING = "pending"
    UNKNOWN = "not in the code"


class HistoryLine(msgspec.Struct, frozen=True):
    """A migration, and its entries in the journal, oldest first: none where it was applied before there were journals."""

    migration: str
    description: str
    state: State
    log: list[Entry]


async def read_history(connection: Connection, app: AppConfig) -> list[HistoryLine]:
    """Every migration that the code or the database knows, in order. Raises SchemaForeign."""
    files = list_files(find_folder(app))
    state = await read_state(connection, tuple(files))
    journal = await read_journal(connection)
    lines = []
    for name in sorted({*state.applied, *state.pending, *state.unknown}):
        known = State.APPLIED if name in state.applied else State.PENDING if name in state.pending else State.UNKNOWN
        found = _DESCRIPTION.search(files[name].read_text(encoding="utf-8")) if name in files else None
        log = [entry for entry in journal if entry.migration == name]
        lines.append(HistoryLine(name, found[1] if found else "", known, log))
    return lines
