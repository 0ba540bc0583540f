"""The machines that exist: registering them, changing what is known of them, taking them out of service.

Arrives: names from a client. Leaves: the machine as it is stored. Fails: InvalidInput, NotFound, AlreadyExists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import asyncpg
import msgspec

from app.access.audit import Deed, Subject, describe_change, record_changes
from app.database import Connection, Database
from app.errors import AlreadyExists, InvalidInput, NotFound, blame
from app.ingest.refusal import match_machine_id
from app.texts import check_line, quote_text

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


async def register_machine(database: Database, machine: NewMachine, deed: Deed) -> StoredMachine:
    """Adds a machine, in service. Raises AlreadyExists when one has that id."""
    (stored,) = await _register(database, [_check(machine)], lambda _: "machineId", deed)
    return stored


async def register_machines(database: Database, machines: Sequence[NewMachine], deed: Deed) -> list[StoredMachine]:
    """Adds all of them, in service, or none; in their order. Errors blame machines.INDEX.FIELD."""
    if len(machines) > MOST_AT_ONCE:
        raise InvalidInput(
            f"machines holds {len(machines):,}: send at most {MOST_AT_ONCE:,} at once.", field="machines"
        )
    checked: dict[str, NewMachine] = {}
    for index, machine in enumerate(machines):
        with blame(f"machines.{index}"):
            if machine.machine_id in checked:
                raise InvalidInput(
                    f"A machine {quote_text(machine.machine_id)} is in the list twice.", field="machineId"
                )
            checked[machine.machine_id] = _check(machine)
    return await _register(database, list(checked.values()), lambda index: f"machines.{index}.machineId", deed)


def _check(machine: NewMachine) -> NewMachine:
    if not match_machine_id(machine.machine_id):
        raise InvalidInput(
            "machineId must be 1 to 64 letters, digits, dots, colons, dashes and underscores, "
            "and start with a letter or a digit.",
            field="machineId",
        )
    return NewMachine(
        machine.machine_id,
        check_line(machine.machine_type, "machineType"),
        check_line(machine.location, "location"),
    )


async def _register(
    database: Database, machines: Sequence[NewMachine], name_field: Callable[[int], str], deed: Deed
) -> list[StoredMachine]:
    if not machines:
        return []
    try:
        async with database.transaction() as connection:
            stored = await _insert(connection, machines)
            changes = [describe_change(Subject.MACHINE, each.machine_id, None, each) for each in stored]
            await record_changes(connection, deed, changes)
    except asyncpg.UniqueViolationError as error:
        known = await find_machines(database, [machine.machine_id for machine in machines])
        index = next((index for index, machine in enumerate(machines) if machine.machine_id in known), 0)
        raise AlreadyExists(
            f"A machine {quote_text(machines[index].machine_id)} is registered already.", field=name_field(index)
        ) from error
    return stored


async def _insert(connection: Connection, machines: Sequence[NewMachine]) -> list[StoredMachine]:
    rows = await connection.fetch(
        f"""
        INSERT INTO machines (machine_id, machine_type, location, operational)
        SELECT *, true FROM unnest($1::text[], $2::text[], $3::text[])
        RETURNING {_COLUMNS}
        """,
        [machine.machine_id for machine in machines],
        [machine.machine_type for machine in machines],
        [machine.location for machine in machines],
    )
    return [StoredMachine(**row) for row in rows]


async def update_machine(
    database: Database,
    machine_id: str,
    deed: Deed,
    *,
    machine_type: str | None = None,
    location: str | None = None,
    operational: bool | None = None,
) -> StoredMachine:
    """Changes what isn't None. Raises NotFound."""
    given = {
        "machine_type": None if machine_type is None else check_line(machine_type, "machineType"),
        "location": None if location is None else check_line(location, "location"),
        "operational": operational,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise InvalidInput("Nothing to change: give machineType, location or operational.", field="input")
    assignments = ", ".join(f"{name} = ${place}" for place, name in enumerate(changes, start=2))
    async with database.transaction() as connection:
        # Its readings, which only refer to it, don't wait.
        row = await connection.fetchrow(
            f"SELECT {_COLUMNS} FROM machines WHERE machine_id = $1 FOR NO KEY UPDATE", machine_id
        )
        if row is None:
            raise NotFound(f"No machine {quote_text(machine_id)} is registered.", field="machineId")
        changed = await connection.fetchrow(
            f"UPDATE machines SET {assignments}, updated_at = now() WHERE machine_id = $1 RETURNING {_COLUMNS}",
            machine_id,
            *changes.values(),
        )
        assert changed is not None  # noqa: S101 - its row is locked
        before, after = StoredMachine(**row), StoredMachine(**changed)
        await record_changes(connection, deed, [describe_change(Subject.MACHINE, machine_id, before, after)])
    return after


async def find_machines(database: Database, machine_ids: Sequence[str]) -> dict[str, StoredMachine]:
    """Those of the machines that are registered."""
    async with database.reading() as connection:
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} FROM machines WHERE machine_id = ANY($1::text[])", list(machine_ids)
        )
    return {row["machine_id"]: StoredMachine(**row) for row in rows}
