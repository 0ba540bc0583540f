"""The machines that exist: registering them, changing what is known of them, taking them out of service.

Arrives: names from a client. Leaves: the machine as it is stored. Fails: InvalidInput, NotFound, AlreadyExists.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from piccolo.querystring import QueryString

from app.database import translate_errors
from app.errors import AlreadyExists, InvalidInput, NotFound
from app.ingest.refusal import match_machine_id
from app.tables import Machine

_MAX_TEXT = 200  # characters


class StoredMachine(msgspec.Struct, frozen=True):
    """A row of machines; times are in UTC."""

    machine_id: str
    machine_type: str
    location: str
    operational: bool
    created_at: datetime
    updated_at: datetime


async def register_machine(machine_id: str, machine_type: str, location: str) -> StoredMachine:
    """Adds a machine, in service. Raises AlreadyExists when one has that id."""
    if not match_machine_id(machine_id):
        raise InvalidInput(
            "machineId must be 1 to 64 letters, digits, dots, colons, dashes and underscores, "
            "and start with a letter or a digit.",
            field="machineId",
        )
    default = QueryString("DEFAULT")
    machine = Machine(
        machine_id=machine_id,
        machine_type=_check_text(machine_type, "machineType"),
        location=_check_text(location, "location"),
        created_at=default,
        updated_at=default,
    )
    try:
        with translate_errors():
            rows = await Machine.insert(machine).returning(*Machine.all_columns())
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists(f"A machine {machine_id!r} is registered already.", field="machineId") from error
    return StoredMachine(**rows[0])


async def update_machine(
    machine_id: str, *, machine_type: str | None, location: str | None, operational: bool | None
) -> StoredMachine:
    """Changes what isn't None. Raises NotFound."""
    changes: dict[Any, Any] = {Machine.updated_at: QueryString("now()")}
    if machine_type is not None:
        changes[Machine.machine_type] = _check_text(machine_type, "machineType")
    if location is not None:
        changes[Machine.location] = _check_text(location, "location")
    if operational is not None:
        changes[Machine.operational] = operational
    if len(changes) == 1:
        raise InvalidInput("Nothing to change: give machineType, location or operational.", field="input")
    with translate_errors():
        rows = await Machine.update(changes).where(Machine.machine_id == machine_id).returning(*Machine.all_columns())
    if not rows:
        raise NotFound(f"No machine {machine_id!r} is registered.", field="machineId")
    return StoredMachine(**rows[0])


async def find_machines(machine_ids: Sequence[str]) -> dict[str, StoredMachine]:
    """Those of the machines that are registered."""
    with translate_errors():
        rows = await Machine.select().where(Machine.machine_id.is_in(list(machine_ids)))
    return {row["machine_id"]: StoredMachine(**row) for row in rows}


def _check_text(text: str, field: str) -> str:
    stripped = text.strip()
    if not 1 <= len(stripped) <= _MAX_TEXT or not stripped.isprintable():
        raise InvalidInput(f"{field} must be 1 to {_MAX_TEXT} printable characters.", field=field)
    return stripped
