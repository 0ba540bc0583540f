"""Which migrations a database has, against which the code knows. Reads only; creates nothing, imports no migration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from app.database import Connection
from app.errors import MigrationRefused, RestoreUnfinished, SchemaAhead, SchemaBehind, SchemaForeign
from app.timescale.files import compute_checksum, list_files
from app.timescale.journal import Event, read_journal, write_entry

APP_NAME = "app"
# A database has a table of this name while a backup is being restored into it, and still if that was cut off.
MARKER = "restore_unfinished"
FOLDER = Path(__file__).parents[2] / "piccolo_migrations"


@dataclass(frozen=True)
class MigrationState:
    """Ids in the order in which they are applied. `unknown` are in the database and in no file."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]


def list_migrations(folder: Path = FOLDER) -> tuple[str, ...]:
    """The ids of the migration files, in order."""
    return tuple(list_files(folder))


async def find_edited(connection: Connection, folder: Path, state: MigrationState) -> list[str]:
    """The applied migrations whose files are no longer what the journal knows them by."""
    known = {entry.migration: entry.checksum for entry in await read_journal(connection)}
    files = list_files(folder)
    return [name for name in state.applied if name in known and compute_checksum(files[name]) != known[name]]


async def require_unedited(connection: Connection, folder: Path, state: MigrationState, *, accept: bool) -> None:
    """Raises MigrationRefused when the file of an applied migration was edited; `accept` takes it as it is now instead."""
    edited, files = await find_edited(connection, folder, state), list_files(folder)
    if accept:
        for name in edited:
            await write_entry(connection, name, Event.ACCEPTED, compute_checksum(files[name]), timedelta())
    elif edited:
        names = ", ".join(files[name].name for name in edited)
        raise MigrationRefused(
            f"Edited since it was applied: {names}. Databases that have it already won't get the change: put the file back "
            "as it was and write another migration. If the edit changes nothing that was run, add --accept-edited."
        )


async def read_state(connection: Connection, known: tuple[str, ...]) -> MigrationState:
    """Compares the database's bookkeeping with `known`.

    Raises SchemaForeign when that table isn't Piccolo's, RestoreUnfinished while the database isn't whole.
    """
    await require_whole(connection)
    columns = await connection.fetch(
        """
        SELECT attname FROM pg_attribute
        WHERE attrelid = to_regclass('migration') AND attnum > 0 AND NOT attisdropped
        """
    )
    names = {row["attname"] for row in columns}
    if not names:
        return MigrationState((), known, ())
    if not {"name", "app_name", "ran_on"} <= names:
        raise SchemaForeign(
            "The database has a table \"migration\" that isn't Piccolo's: "
            "another program lives here. Give AurumAI a database of its own."
        )
    rows = await connection.fetch("SELECT name FROM migration WHERE app_name = $1 ORDER BY name", APP_NAME)
    recorded = {str(row["name"]) for row in rows}
    return MigrationState(
        applied=tuple(name for name in known if name in recorded),
        pending=tuple(name for name in known if name not in recorded),
        unknown=tuple(sorted(recorded - set(known))),
    )


async def require_whole(connection: Connection) -> None:
    """Raises RestoreUnfinished when a backup is being restored into the database, or that was cut off."""
    if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", MARKER):
        row = await connection.fetchrow(f"SELECT backup, began_at::timestamp(0)::text AS began FROM {MARKER}")
        begun = f"of {row['backup']} at {row['began']} UTC " if row else ""
        raise RestoreUnfinished(
            f"A restore {begun}into this database was begun and is not finished, so it is not whole: wait if it still runs, "
            "else run invoke restore again."
        )


async def require_schema(connection: Connection, tables: Iterable[str]) -> MigrationState:
    """The state, when the database is exactly where the code expects it.

    Raises SchemaBehind, SchemaAhead or SchemaForeign, each saying what to do. `tables` are the names that the
    migrations create: some of them in a database without any migration were made by somebody else.
    """
    known = list_migrations()
    state = await read_state(connection, known)
    if not state.applied and not state.unknown:
        existing = await connection.fetch(
            "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(quote_ident(name)) IS NOT NULL ORDER BY name",
            list(tables),
        )
        if existing:
            names = ", ".join(row["name"] for row in existing)
            raise SchemaForeign(
                f"The database has tables that AurumAI's migrations did not make ({names}): "
                "give AurumAI a database of its own."
            )
    require_known(state)
    if state.pending:
        raise SchemaBehind(
            f"The database is behind this code: {_count(state.pending)} not applied, the first is {state.pending[0]}. "
            "Run: invoke migrate"
        )
    return state


def require_known(state: MigrationState) -> None:
    """Raises SchemaAhead or SchemaForeign when the database has migrations that the code doesn't know."""
    if state.unknown:
        newest, known = state.unknown[-1], state.applied
        if state.pending:
            raise SchemaForeign(
                f"The database has migrations that this code doesn't know (the newest is {newest}) and lacks some that "
                f"it does (the first is {state.pending[0]}): they come from different branches. Run the code that the "
                "database was migrated with."
            )
        raise SchemaAhead(
            f"The database is ahead of this code: it has {_count(state.unknown)} that the code doesn't know, the newest "
            f"is {newest}. Run the newer code, or go back with it: invoke migrate-to --id {known[-1] if known else 'base'}."
        )


def find_disordered(state: MigrationState) -> list[str]:
    """The migrations that aren't applied and sort before one that is.

    Files are applied in the order of their ids, and what comes after was generated without them.
    """
    return [name for name in state.pending if state.applied and name < state.applied[-1]]


def require_order(state: MigrationState) -> None:
    """Raises MigrationRefused when a file that isn't applied sorts before one that is."""
    if disordered := find_disordered(state):
        raise MigrationRefused(
            f"The migration {disordered[0]} comes before {state.applied[-1]}, which is applied: they were made on two "
            "branches. Give the file an ID that is later than every other (its name too), look whether it still says what "
            "was meant after those, and run this again."
        )


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names)} migration{'' if len(names) == 1 else 's'}"
