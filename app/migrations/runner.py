"""Applies and reverses the migrations of the Piccolo project: one runner at a time, each migration wholly or not at all.

A run has one connection, which holds a session's advisory lock from its beginning to its end, so that what can't run in a
transaction is under the lock too. Each migration and its bookkeeping, Piccolo's and the journal's, are one transaction.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

import asyncpg
from piccolo.apps.migrations.tables import Migration
from piccolo.conf.apps import AppConfig, MigrationModule

from app.database import CLOSE_TIMEOUT, OVERTAKEN, describe_error, explain_refusal, translate_errors
from app.engine import UNREACHABLE, Engine
from app.errors import MigrationFailed, MigrationRefused
from app.migrations.losses import require_no_losses
from app.migrations.state import list_migrations, read_state, require_known, require_order, require_unedited
from app.migrations.watch import find_runs, watch
from app.timescale.autogenerate import read_hypertables
from app.timescale.files import find_folder, load_managers, load_modules
from app.timescale.journal import LOCK, name_user
from app.timescale.leftovers import has_leftovers, read_leftovers, record_steps, run_leftovers
from app.timescale.manager import TimescaleMigrationManager, load_own_manager, set_lock_timeout
from app.timescale.moves import DataMigrationManager
from app.timescale.statements import ENABLE_TIMESCALE
from app.timescale.steps import CONDITIONS, Needs, Step
from app.timescale.transitions import plan_catching_up

ATTEMPTS = 15  # at a migration that others are in the way of
LONGEST_PAUSE = 20.0  # seconds between two of them
CATCHING_UP = "catching up"
UNTOUCHED = "and all is as it was before it"
AFTERWARDS = "A step after the migration's transaction"
BEGINS = "and the next run begins with it"
GOES_ON = "and the batches before that stay: the next run goes on from there"


@dataclass(frozen=True)
class Terminal:
    """Where a run tells of itself: `say` what was done, `warn` what it waits for, `show_progress` (label, unit) how far it is."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    show_progress: Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]


async def apply_migrations(
    engine: Engine, app: AppConfig, terminal: Terminal, until: str | None = None, *, accept_edited: bool = False
) -> None:
    """Applies whatever is pending, up to and including `until`.

    Raises MigrationRefused before anything is done, and MigrationFailed when a migration doesn't go through: then the
    database is as it was before that one.
    """
    modules = load_modules(app)
    async with _run_alone(engine, app, terminal) as connection:
        await _finish(engine, connection, terminal)
        state = await read_state(connection, tuple(modules))
        require_order(state)
        await require_unedited(connection, find_folder(app), state, accept=accept_edited)
        chosen = [name for name in state.pending if until is None or name <= until]
        if not chosen:
            terminal.say(f"Nothing to apply: the database is at {state.applied[-1] if state.applied else 'base'}.")
        await _require_managers(app, modules, chosen)
        for migration_id in chosen:
            await _run_one(engine, app, connection, migration_id, modules[migration_id], terminal)


async def reverse_migrations(
    engine: Engine,
    app: AppConfig,
    migration_ids: Sequence[str],
    terminal: Terminal,
    *,
    may_lose: bool,
    accept_edited: bool = False,
) -> None:
    """Reverses these migrations, the newest first. Raises MigrationFailed; what was reversed before that stays so.

    Raises MigrationRefused before anything is done, or where rows or values came in meanwhile that may not be lost.
    """
    modules = load_modules(app)
    async with _run_alone(engine, app, terminal) as connection:
        state = await read_state(connection, tuple(modules))
        await require_unedited(connection, find_folder(app), state, accept=accept_edited)
        if not may_lose:
            await require_no_losses(engine, app, migration_ids, lock=False)
        # What is left of those that go needn't be done, and may be why they go. Where nothing is, its table may be.
        left = {migration for migration, _ in await read_leftovers(connection)}
        if not left or left - set(migration_ids):
            await _finish(engine, connection, terminal)
        chosen = sorted(set(migration_ids) & set(state.applied), reverse=True)
        await _require_managers(app, modules, chosen)
        for migration_id in chosen:
            module = modules[migration_id]
            await _run_one(engine, app, connection, migration_id, module, terminal, backwards=True, may_lose=may_lose)


async def catch_up(engine: Engine, app: AppConfig, terminal: Terminal) -> None:
    """Gives a database what its server could not do when it was migrated: hypertables with the rows that are there, and so on.

    Without TimescaleDB there is nothing to do. Raises MigrationFailed; then the database is as it was.
    """
    managers = await load_managers(app)
    async with _run_alone(engine, app, terminal) as connection:
        await _finish(engine, connection, terminal)
        state = await read_state(connection, tuple(manager.migration_id for manager in managers))
        declared = read_hypertables(manager for manager in managers if manager.migration_id in state.applied)

        async def run() -> None:
            async with engine.transaction():
                await connection.execute(ENABLE_TIMESCALE)
                await set_lock_timeout(connection)
                later: list[Step] = []
                for table, hypertable in sorted(declared.items()):
                    for step in plan_catching_up(table, hypertable):
                        if step.transactional:
                            await connection.execute(step.sql)
                        else:
                            later.append(step)
                await record_steps(connection, CATCHING_UP, later)

        await _persist(engine, connection, CATCHING_UP, terminal, run, UNTOUCHED)
        await _finish(engine, connection, terminal)
        if not await connection.fetchval(f"SELECT {CONDITIONS[Needs.HYPERTABLES]}"):
            terminal.say("Nothing to do: the server has no TimescaleDB for this database, or AURUM_TIMESCALE is off.")
            return
        for table, hypertable in sorted(declared.items()):
            terminal.say(f"{table}: {hypertable.time_column} in chunks of {hypertable.chunk_interval}")
        terminal.say("The database has what its edition of TimescaleDB can do.")


async def _require_managers(app: AppConfig, modules: Mapping[str, MigrationModule], chosen: Sequence[str]) -> None:
    """Raises MigrationRefused where one of these files can't say what it asks for, before those that can are run."""
    for migration_id in chosen:
        await load_own_manager(app, migration_id, modules[migration_id])


async def _run_one(
    engine: Engine,
    app: AppConfig,
    connection: Any,
    migration_id: str,
    module: MigrationModule,
    terminal: Terminal,
    *,
    backwards: bool = False,
    may_lose: bool = True,
) -> None:
    began = time.monotonic()
    first = await load_own_manager(app, migration_id, module)

    async def run() -> None:
        manager = await load_own_manager(app, migration_id, module)
        if isinstance(manager, DataMigrationManager):
            with terminal.show_progress(migration_id, "rows") as manager.on_progress:
                await _run_recorded(engine, app, connection, manager, backwards, may_lose)
        else:
            with redirect_stdout(StringIO()):  # Piccolo names the migration
                await _run_recorded(engine, app, connection, manager, backwards, may_lose)

    outcome = GOES_ON if isinstance(first, DataMigrationManager) else UNTOUCHED
    await _persist(engine, connection, migration_id, terminal, run, outcome)
    await _finish(engine, connection, terminal)
    done = "reversed" if backwards else "applied"
    terminal.say(f"{migration_id}  {getattr(module, 'DESCRIPTION', '')}: {done} in {time.monotonic() - began:.1f} s.")


async def _persist(
    engine: Engine, connection: Any, name: str, terminal: Terminal, run: Callable[[], Awaitable[None]], outcome: str
) -> None:
    """Runs what `outcome` says of when it fails; again after a pause, as often as others are in its way."""
    seen = ""  # who was in the way, by the last attempt that got to see it
    for attempt in range(1, ATTEMPTS + 1):
        gave_way = await _try_once(engine, connection, name, terminal, run, outcome)
        if gave_way is None:
            return
        blockers, error = gave_way
        seen = blockers or seen
        if attempt == ATTEMPTS:
            raise MigrationFailed(
                f"{name} did not get its locks in {ATTEMPTS} attempts, {outcome}. "
                f"In its way: {seen or error}. End that session, or run this again later."
            )
        pause = min(2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        terminal.warn(
            f"{name} gave way to {blockers or error}: attempt {attempt + 1} of {ATTEMPTS} in {pause:.1f} s. "
            "Nobody waits for it meanwhile."
        )
        await asyncio.sleep(pause)


async def _try_once(
    engine: Engine, connection: Any, name: str, terminal: Terminal, run: Callable[[], Awaitable[None]], outcome: str
) -> tuple[str, str] | None:
    """Who was in the way, as far as that was seen, and what the server said of it; None when it is done."""
    async with watch(engine, connection.get_server_pid(), terminal.warn) as watched:
        try:
            await run()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.InternalServerError) as error:
            if isinstance(error, asyncpg.InternalServerError) and not str(error).startswith(OVERTAKEN):
                raise MigrationFailed(_refuse(name, outcome, error)) from error
            return "; ".join(watched.blockers), describe_error(error)
        except (*UNREACHABLE, asyncpg.InterfaceError) as error:
            raise MigrationFailed(
                f"The connection to the database was lost during {name[:1].lower()}{name[1:]}, which is done wholly or not at all: run this again "
                "to see, and to go on."
            ) from error
        except asyncpg.PostgresError as error:
            raise MigrationFailed(_refuse(name, outcome, error)) from error
    return None


def _refuse(name: str, outcome: str, error: asyncpg.PostgresError) -> str:
    return f"{name} was refused by the database, {outcome}: {describe_error(error)}."


async def _run_recorded(
    engine: Engine, app: AppConfig, connection: Any, manager: TimescaleMigrationManager, backwards: bool, may_lose: bool
) -> None:
    """Runs it and tells Piccolo's bookkeeping, in one transaction where the migration itself is in one."""
    async with engine.transaction() if manager.wrap_in_transaction else nullcontext():
        if not may_lose and manager.wrap_in_transaction:
            # Since they were counted, rows may have come in: for as long as a run gives way to a reader, for one.
            await set_lock_timeout(connection)
            await require_no_losses(engine, app, [manager.migration_id], lock=True)
        await Migration.create_table(if_not_exists=True).run()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
        await manager.run(backwards=backwards)
        name = (app.app_name, manager.migration_id)
        if backwards:
            await connection.execute("DELETE FROM migration WHERE app_name = $1 AND name = $2", *name)
        else:
            await connection.execute("INSERT INTO migration (app_name, name) VALUES ($1, $2)", *name)


async def _finish(engine: Engine, connection: Any, terminal: Terminal) -> None:
    """Runs the steps that a migration left for after its transaction, this one or one that was cut off."""
    if await has_leftovers(connection):
        await _persist(engine, connection, AFTERWARDS, terminal, lambda: run_leftovers(connection), BEGINS)


@asynccontextmanager
async def _run_alone(engine: Engine, app: AppConfig, terminal: Terminal) -> AsyncIterator[Any]:
    """The one connection of a run, held for everything that Piccolo sends, under the lock of the migrations."""
    with explain_refusal():
        connection: Any = await engine.get_new_connection()
    try:
        with translate_errors():
            await _require_writable(connection)
            require_known(await read_state(connection, list_migrations(find_folder(app))))
            await connection.execute("SELECT set_config('application_name', $1, false)", f"migrations of {name_user()}")
            await _lock(connection, terminal)
            with engine.hold(connection):
                yield connection
    finally:
        with suppress(*UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=CLOSE_TIMEOUT)


async def _require_writable(connection: Any) -> None:
    replica, role, schema, path = await connection.fetchrow(
        "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', current_user, current_schema(), "
        "current_setting('search_path')"
    )
    if replica:
        raise MigrationRefused(
            "The database of DATABASE_URL is read-only, a replica most likely: migrations run on the primary."
        )
    if schema is None:
        raise MigrationRefused(
            f"There is no schema to create tables in: of search_path, which is {path}, none is there that the role {role} may "
            "use. Create one and grant it USAGE and CREATE, or set another search_path."
        )
    if not await connection.fetchval("SELECT has_schema_privilege(current_schema(), 'CREATE')"):
        raise MigrationRefused(
            f"The role {role} may not create tables in the schema {schema}: "
            f'let its owner run GRANT CREATE ON SCHEMA {schema} TO "{role}".'
        )


async def _lock(connection: Any, terminal: Terminal) -> None:
    """Asks again and again rather than wait in the server, where a waiting query would hold back VACUUM."""
    said = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
        runs = await find_runs(connection)
        if runs and not said:
            said = True
            terminal.warn(f"Another run is under way on this database, and this one waits for it: {'; '.join(runs)}.")
        await asyncio.sleep(0.3)
