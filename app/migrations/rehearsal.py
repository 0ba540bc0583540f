"""Runs migrations once more, in a schema that is never committed, to be told by the server what they make."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, redirect_stdout, suppress
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import asyncpg
from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from app.database import CLOSE_TIMEOUT, describe_error, explain_refusal
from app.engine import UNREACHABLE, Engine
from app.errors import DatabaseBusy, MigrationFailed, MigrationRefused
from app.migrations.watch import watch
from app.timescale.definitions import Catalogue, read_catalogue
from app.timescale.manager import TimescaleMigrationManager, set_lock_timeout
from app.timescale.steps import LOCK_TIMEOUT

# What the server writes definitions by, whatever it or the role has been set to.
_WORDING = f"SET lock_timeout = {LOCK_TIMEOUT // timedelta(milliseconds=1)}; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 1; SET quote_all_identifiers = off"


@asynccontextmanager
async def open_rehearsal(engine: Engine) -> AsyncIterator[Any]:
    """A connection that may rehearse, and by which everything in the block goes.

    Raises DatabaseUnavailable, DatabaseBusy where others hold a lock on what it reads for longer than LOCK_TIMEOUT, and
    MigrationRefused where the database is read-only or the role may not create a schema.
    """
    with explain_refusal():
        connection: Any = await engine.get_new_connection()
        try:
            await connection.execute(_WORDING)
            await _require_rights(connection)
            async with watch(engine, connection.get_server_pid(), lambda _: None) as watched:
                try:
                    with engine.hold(connection):
                        yield connection
                except asyncpg.LockNotAvailableError as error:
                    blockers = "; ".join(watched.blockers) or describe_error(error)
                    raise DatabaseBusy(
                        f"What there is can't be read, for others have it locked: {blockers}. Try again when they are done."
                    ) from error
        finally:
            with suppress(*UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=CLOSE_TIMEOUT)


async def rehearse(engine: Engine, managers: Iterable[MigrationManager], *, hypertables: bool) -> Catalogue:
    """The catalogue that these migrations make, with what TimescaleDB adds or without.

    Raises MigrationFailed; whatever comes of it, nothing of it remains.
    """
    schema = f"aurum_check_{uuid4().hex[:12]}"
    try:
        async with engine.transaction() as transaction:
            connection = transaction.connection
            await set_lock_timeout(connection)
            live = await connection.fetchval("SELECT current_schema()")
            await connection.execute(f"CREATE SCHEMA {schema}")
            # TimescaleDB's functions are in the schema that it was created in, mostly public.
            path = f"SELECT set_config('search_path', '{schema}, ' || current_setting('search_path'), true)"
            await connection.execute(path)
            with redirect_stdout(StringIO()):  # Piccolo names each migration that it runs
                for manager in managers:
                    if isinstance(manager, TimescaleMigrationManager):
                        await manager.rehearse(engine, hypertables=hypertables)
                    else:
                        await manager.run()
            catalogue = await read_catalogue(connection, schema, hypertables=hypertables, live=live)
            await transaction.rollback()  # type: ignore[no-untyped-call]  # Piccolo's has no annotations
    except (asyncpg.InsufficientPrivilegeError, asyncpg.LockNotAvailableError):
        raise  # which open_rehearsal tells
    except asyncpg.PostgresError as error:
        raise MigrationFailed(
            f"The migrations can't be run again beside the live schema, which is untouched: {describe_error(error)}."
        ) from error
    return catalogue


async def _require_rights(connection: Any) -> None:
    read_only, role, database, allowed = await connection.fetchrow(
        "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', quote_ident(current_user), "
        "quote_ident(current_database()), has_database_privilege(current_database(), 'CREATE')"
    )
    if read_only:
        raise MigrationRefused(
            "The database of DATABASE_URL is read-only, a replica most likely. What the migrations make is found by running "
            "them again in a transaction that is rolled back, which only the primary allows."
        )
    if not allowed:
        raise MigrationRefused(
            f"The role {role} may not create a schema in the database {database}. What the migrations make is found by "
            "running them again in a schema of their own, which is rolled back: "
            f"let the owner of the database run GRANT CREATE ON DATABASE {database} TO {role}."
        )
