"""The record of who changed what: a row for each thing that was changed, written in the transaction that changed it.

The table only takes rows. Its triggers number them without gaps, chain each to the one before by a hash, and refuse whatever
would change or remove one; `app.access.chain` has the hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec

from app.access.principal import Principal
from app.correlation import read_correlation_id
from app.database import Connection


class Deed(msgspec.Struct, frozen=True):
    """Who does something, and what: `action` is the name of a mutation or of a command; `correlation_id` the request's."""

    by: Principal
    action: str
    correlation_id: str


def begin_deed(by: Principal, action: str) -> Deed:
    """What somebody does with the request that this task works on."""
    return Deed(by, action, read_correlation_id())


class Subject(Enum):
    """What a change is of, and what it's named by."""

    MACHINE = "machine"  # its machine_id
    ALERT = "alert"  # its id
    PREDICTION = "prediction"  # its prediction_id
    READINGS = "readings"  # the machine_id, or how many machines they are of
    KEY = "key"  # its prefix


class Change(msgspec.Struct, frozen=True):
    """What became of one thing; `before` and `after` are objects as JSON has them, None where it wasn't there."""

    kind: Subject
    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def describe_change(kind: Subject, name: str, before: msgspec.Struct | None, after: msgspec.Struct) -> Change:
    """All of something that is new; of something that was there, the fields that differ."""
    new = _show(after)
    if before is None:
        return Change(kind, name, None, new)
    old = _show(before)
    changed = [field for field in new if old[field] != new[field]]
    return Change(kind, name, {field: old[field] for field in changed}, {field: new[field] for field in changed})


def _show(record: msgspec.Struct) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(record)
    return shown


async def record_changes(connection: Connection, deed: Deed, changes: Sequence[Change]) -> None:
    """Writes down those that changed something, in their order.

    To be called late in a transaction, and before events are published: whoever else records something waits from here to
    the transaction's end, and in another order two of them could wait for each other.
    """
    changes = [change for change in changes if change.before != change.after]
    if not changes:
        return
    await connection.execute(
        """
        INSERT INTO audit (actor, actor_kind, actor_key, action, subject_kind, subject, before, after, correlation_id)
        SELECT $1, $2, $3, $4, given->>'kind', given->>'name',
               nullif(given->'before', 'null'), nullif(given->'after', 'null'), $5
        FROM jsonb_array_elements($6::jsonb) WITH ORDINALITY AS each (given, place)
        ORDER BY place
        """,
        deed.by.name,
        deed.by.kind.value,
        deed.by.key_id,
        deed.action,
        deed.correlation_id,
        msgspec.json.encode(changes).decode(),
    )
