"""The machines that exist: registering them, changing what is known of them, taking them out of service.

Arrives: names from a client. Leaves: the machine as it is stored. Fails: InvalidInput, NotFound, AlreadyExists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
from piccolo.querystring import QueryString

from app.database import Database, translate_errors
from app.errors import AlreadyExists, InvalidInput, NotFound, blame
from app.ingest.refusal import match_machine_id
from app.tables import Machine
from app.texts import check_line

MOST_AT_ONCE = 1_000  # machines of one request


class StoredMachine(msgspec.Struct, frozen=True):
    """A row of machines; times are in UTC."""

    machine_id: str
    machine_type: str
    location: str
    operational: bool
    created_at: datetime
    updated_at: datetime


_COLUMNS = ", ".join(StoredMachine.__struct_fields__)


class NewMachine(msgspec.Struct, frozen=True):
    """A machine to be registered, as a client says."""

    machine_id: str
    machine_type: str
    location: str


async def register_machine(machine: NewMachine) -> StoredMachine:
    """Adds a machine, in service. Raises AlreadyExists when one has that id."""
    (stored,) = await _register([_check(machine)], lambda _: "machineId")
    return stored


async def register_machines(machines: Sequence[NewMachine]) -> list[StoredMachine]:
    """Adds all of them, in service, or none; in their order. Errors blame machines.INDEX.FIELD."""
    if len(machines) > MOST_AT_ONCE:
        raise InvalidInput(
            f"machines holds {len(machines):,}: send at most {MOST_AT_ONCE:,} at once.", field="machines"
        )
    checked: dict[str, Machine] = {}
    for index, machine in enumerate(machines):
        with blame(f"machines.{index}"):
            if machine.machine_id in checked:
                raise InvalidInput(f"A machine {machine.machine_id!r} is in the list twice.", field="machineId")
            checked[machine.machine_id] = _check(machine)
    return await _register(list(checked.values()), lambda index: f"machines.{index}.machineId")


def _check(machine: NewMachine) -> Machine:
    if not match_machine_id(machine.machine_id):
        raise InvalidInput(
            "machineId must be 1 to 64 letters, digits, dots, colons, dashes and underscores, "
            "and start with a letter or a digit.",
            field="machineId",
        )
    default = QueryString("DEFAULT")
    return Machine(
        machine_id=machine.machine_id,
        machine_type=check_line(machine.machine_type, "machineType"),
        location=check_line(machine.location, "location"),
        created_at=default,
        updated_at=default,
    )


async def _register(machines: Sequence[Machine], name_field: Callable[[int], str]) -> list[StoredMachine]:
    if not machines:
        return []
    try:
        with translate_errors():
            rows = await Machine.insert(*machines).returning(*Machine.all_columns())
    except asyncpg.UniqueViolationError as error:
        wanted = [machine.machine_id for machine in machines]
        stored = await Machine.select(Machine.machine_id).where(Machine.machine_id.is_in(wanted))
        known = {row["machine_id"] for row in stored}
        index = next((index for index, machine in enumerate(machines) if machine.machine_id in known), 0)
        raise AlreadyExists(
            f"A machine {machines[index].machine_id!r} is registered already.", field=name_field(index)
        ) from error
    return [StoredMachine(**row) for row in rows]


async def update_machine(
    machine_id: str, *, machine_type: str | None, location: str | None, operational: bool | None
) -> StoredMachine:
    """Changes what isn't None. Raises NotFound."""
    changes: dict[Any, Any] = {Machine.updated_at: QueryString("now()")}
    if machine_type is not None:
        changes[Machine.machine_type] = check_line(machine_type, "machineType")
    if location is not None:
        changes[Machine.location] = check_line(location, "location")
    if operational is not None:
        changes[Machine.operational] = operational
    if len(changes) == 1:
        raise InvalidInput("Nothing to change: give machineType, location or operational.", field="input")
    with translate_errors():
        rows = await Machine.update(changes).where(Machine.machine_id == machine_id).returning(*Machine.all_columns())
    if not rows:
        raise NotFound(f"No machine {machine_id!r} is registered.", field="machineId")
    return StoredMachine(**rows[0])


async def find_machines(database: Database, machine_ids: Sequence[str]) -> dict[str, StoredMachine]:
    """Those of the machines that are registered."""
    async with database.reading() as connection:
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} FROM machines WHERE machine_id = ANY($1::text[])", list(machine_ids)
        )
    return {row["machine_id"]: StoredMachine(**row) for row in rows}
