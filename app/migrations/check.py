"""Whether a database still is what the code says: migrations to be applied, a live schema that differs, models that moved on.

What the schema should be is found by rehearsing the applied migrations: PostgreSQL and TimescaleDB themselves say what a
migration makes.
"""

from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec
from piccolo.conf.apps import AppConfig

from app.database import probe_edition
from app.engine import Engine
from app.errors import DatabaseBusy, MigrationRefused
from app.migrations.rehearsal import open_rehearsal, rehearse
from app.migrations.state import MigrationState, find_disordered, find_edited, read_state, require_known
from app.migrations.watch import find_runs
from app.timescale.autogenerate import draft_migration
from app.timescale.definitions import Catalogue, read_catalogue, unquote
from app.timescale.drift import Difference, find_differences
from app.timescale.files import find_folder, list_files, load_managers
from app.timescale.indexes import find_index
from app.timescale.journal import Entry, read_journal
from app.timescale.leftovers import read_leftovers
from app.timescale.moves import read_progress

IN_STEP, PENDING, DIFFERENT, MOVED_ON = 0, 2, 3, 4

ATTEMPTS = 50  # at reading a schema that changes meanwhile
PAUSE = 0.1  # seconds between two of them
# What PostgreSQL says where something is dropped while its definition is being read.
VANISHED = (asyncpg.InternalServerError, asyncpg.UndefinedTableError, asyncpg.UndefinedObjectError)


class Unfinished(msgspec.Struct, frozen=True):
    """What a run that was cut off has left of a migration: the kind of its statement."""

    migration: str
    left: str


class CheckResult(msgspec.Struct, frozen=True):
    """How files, database and models differ.

    `pending` ids are to be applied, the `out_of_order` ones of them sort before one that is applied. `unfinished` is to be
    done after a run that was cut off, unless a run in `running` is doing it. `edited` ids have other files than when
    they were applied. `differences` are the live schema's from what the applied migrations make; `moved_on` says whether
    the models changed since the newest file, and how.
    """

    pending: list[str]
    out_of_order: list[str]
    unfinished: list[Unfinished]
    running: list[str]
    edited: list[str]
    differences: list[Difference]
    moved_on: str | None

    @property
    def exit_code(self) -> int:
        """The gravest first: what `migrate` can't put right, then what it can, then a migration to write."""
        if self.differences or self.edited or self.out_of_order:
            return DIFFERENT
        if self.pending or self.unfinished or self.running:
            return PENDING
        return IN_STEP if self.moved_on is None else MOVED_ON

    def describe(self) -> Iterator[str]:
        """A sentence for each."""
        for session in self.running:
            yield f"A run is under way: {session}."
        for name in self.pending:
            if name not in self.out_of_order:
                yield f"{name} is not applied: run invoke migrate."
        for name in self.out_of_order:
            yield f"{name} is not applied, and one that comes after it is: give the file an ID later than every other."
        for each in self.unfinished:
            yield f"{each.migration} is not finished: {each.left} is left. Run invoke migrate."
        for name in self.edited:
            yield f"{name} was edited since it was applied: put its file back, or run invoke migrate --accept-edited."
        for difference in self.differences:
            yield f"{difference}."
        if self.moved_on is not None:
            yield self.moved_on
        if self.exit_code == IN_STEP:
            yield "Migrations, database and tables are in step."


async def check_database(engine: Engine, app: AppConfig) -> CheckResult:
    """Compares files, database and models; waits for no run that is under way.

    Raises SchemaAhead, SchemaForeign, DatabaseUnavailable, MigrationRefused where it can't be found out, MigrationFailed.
    """
    managers, moved_on = await load_managers(app), await _find_change(app)
    folder = find_folder(app)
    known = tuple(list_files(folder))
    async with open_rehearsal(engine) as connection:
        edition = await probe_edition(connection, timescale="auto")
        state, steps, actual = await _read_settled(connection, known, hypertables=edition.has_hypertables)
        require_known(state)
        expected = await rehearse(
            engine,
            [manager for manager in managers if manager.migration_id in state.applied],
            hypertables=edition.has_hypertables,
        )
        # An index that is being built is there and not valid yet, or isn't there.
        building = {find_index(statement) for _, statement in steps}
        progress = await read_progress(connection)
        return CheckResult(
            pending=list(state.pending),
            out_of_order=find_disordered(state),
            unfinished=[
                *(Unfinished(migration, _name_kind(statement)) for migration, statement in steps),
                *(Unfinished(migration, f"a change of rows, {done:,} done so far,") for migration, done in progress),
            ],
            running=await find_runs(connection),
            edited=await find_edited(connection, folder, state),
            differences=[each for each in find_differences(expected, actual) if _name_index(each) not in building],
            moved_on=moved_on,
        )


async def _read_settled(
    connection: Any, known: tuple[str, ...], *, hypertables: bool
) -> tuple[MigrationState, list[tuple[str, str]], Catalogue]:
    """Bookkeeping and catalogue of one moment: read again where a run has got on in between. Raises DatabaseBusy."""
    schema = await connection.fetchval("SELECT coalesce(current_schema(), 'public')")
    for _ in range(ATTEMPTS):
        with suppress(*VANISHED):
            before = await _read_books(connection, known)
            catalogue = await read_catalogue(connection, schema, hypertables=hypertables)
            if before == await _read_books(connection, known):
                state, steps, _ = before
                return state, steps, catalogue
        await asyncio.sleep(PAUSE)
    raise DatabaseBusy("The schema changed at every attempt to read it: try again in a moment.")


async def _read_books(
    connection: Any, known: tuple[str, ...]
) -> tuple[MigrationState, list[tuple[str, str]], list[Entry]]:
    return await read_state(connection, known), await read_leftovers(connection), await read_journal(connection)


def _name_index(difference: Difference) -> str:
    return unquote(difference.name.rpartition(".")[2]) if difference.kind == "index" else ""


def _name_kind(statement: str) -> str:
    """What a statement does, without its details: CALL refresh_continuous_aggregate."""
    known = re.sub(r":\w+ ", "", statement.split("(", maxsplit=1)[0])  # without what is only known when it is run
    return textwrap.shorten(known, width=80, placeholder=" ...")


async def _find_change(app: AppConfig) -> str | None:
    try:
        draft = await draft_migration(app, "", renames=None)
    except MigrationRefused as error:
        return str(error)
    return None if draft is None else "The tables have changed since the newest migration: run invoke migration."
