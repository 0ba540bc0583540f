"""A backup back into an empty database: refused, or done and compared to the last row, or said to be unfinished.

While it runs the database has the table MARKER, which goes with the last step: no service, migration or backup takes such a
database for whole, and the next restore begins anew. Whoever restores holds LOCK in each of its sessions, one after the
other; the marker's token tells a session whether another restore has come in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from app.console import say, show_progress
from app.database import Connection, EditionName, describe_error, probe_edition
from app.embedded.installations import read_major
from app.errors import RestoreFailed, RestoreRefused
from app.migrations.state import MARKER, list_migrations
from app.ops.contents import Contents, count_hypertables, sum_tables
from app.ops.dump import choose_reader, list_backup
from app.ops.manifest import Backup
from app.ops.script import run_script
from app.ops.session import make_environment, open_session
from app.ops.target import clear_unfinished, is_superuser, list_timescale_versions, prepare_target

# Any number will do, as long as it never changes.
LOCK = 4_727_201_007
LOCK_SECONDS = 5  # a session that has just ended lets go of it within

# TimescaleDB's scheduler must stay out until all is compared; this session alone has hypertables already.
_READING = {"timescaledb.restoring": "off"}

_AGAIN = "The database is not whole; restore again, it begins anew by itself."
_TAKEN_OVER = "Another restore into this database has begun in the meantime, and this one gives way to it."


@dataclass(frozen=True)
class Restored:
    """A backup that is back, and what is still to do, in sentences."""

    backup: Backup
    remaining: tuple[str, ...]


async def restore(dsn: str, path: Path, *, pg_bin: Path | None = None) -> Restored:
    """Restores a backup into an empty database, and compares every table with what was backed up.

    What a restore that was cut off has left there is dropped first. Raises BackupDamaged, ProgramsMissing,
    DatabaseUnavailable, RestoreRefused and DatabaseNotEmpty before anything is restored, and RestoreFailed.
    """
    backup = await list_backup(path, pg_bin=pg_bin)
    programs = choose_reader(backup.manifest, pg_bin)
    contents = backup.manifest.contents
    token = uuid4().hex
    try:
        async with _open_alone(dsn) as session:
            if await clear_unfinished(session):
                say("A restore that was cut off is begun anew.")
        async with _open_alone(dsn) as session:
            await prepare_target(session, contents, backup.path, token)
            environment = make_environment(session, dsn)
            options = [] if await is_superuser(session) else ["--no-owner"]
            server = str(await session.fetchval("SELECT current_setting('server_version')"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise RestoreRefused(f"The database does not let this role restore: {describe_error(error)}.") from error
    with show_progress("Restoring", "bytes of SQL") as bar:
        await run_script(
            programs,
            environment,
            backup.path,
            options,
            prologue=_write_prologue(contents, token),
            server_major=read_major(server),
            show=bar,
            size=backup.manifest.dump.script_size,
        )
    try:
        async with _open_alone(dsn, **_READING if contents.timescale_version else {}) as session:
            remaining = await _finish(session, contents, token)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise RestoreFailed(f"The last steps failed: {describe_error(error)}. {_AGAIN}") from error
    return Restored(backup, remaining)


async def make_database(dsn: str, name: str) -> str:
    """The URL of the database of that name on the same server, which is made if it isn't there.

    Raises RestoreRefused where the role may not.
    """
    session = await open_session(dsn)
    try:
        quoted = await session.fetchval("SELECT quote_ident($1)", name)
        await session.execute(f"CREATE DATABASE {quoted} TEMPLATE template0")
    except asyncpg.DuplicateDatabaseError:
        pass
    except asyncpg.PostgresError as error:
        raise RestoreRefused(f"The database {name} can't be made: {describe_error(error)}.") from error
    finally:
        await session.close()
    parts = urlsplit(dsn)
    return urlunsplit((parts.scheme, parts.netloc, "/" + quote(name, safe=""), parts.query, ""))


@asynccontextmanager
async def _open_alone(dsn: str, **settings: str) -> AsyncIterator[Connection]:
    """A session that has LOCK. Raises RestoreRefused while somebody else has it."""
    session = await open_session(dsn, **settings)
    try:
        await session.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        try:
            await session.execute(f"SELECT pg_advisory_lock({LOCK})")
        except asyncpg.LockNotAvailableError:
            raise RestoreRefused("Another restore into this database is running: wait for it to end.") from None
        await session.execute("RESET lock_timeout")
        yield session
    finally:
        await session.close()


def _write_prologue(contents: Contents, token: str) -> str:
    """What the session that restores does first."""
    lines = [
        f"SET lock_timeout = '{LOCK_SECONDS}s';",
        f"SELECT pg_advisory_lock({LOCK});",
        "RESET lock_timeout;",
        # The last step is waited for until it is on the disk, and all before it with it.
        "SET synchronous_commit = off;",
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM {MARKER} WHERE token = '{token}') "
        f"THEN RAISE EXCEPTION '{_TAKEN_OVER}'; END IF; END $$;",
    ]
    if contents.timescale_version is not None:
        lines.append("SELECT timescaledb_pre_restore();")
    return "\n".join(lines) + "\n"


async def _finish(session: Connection, contents: Contents, token: str) -> tuple[str, ...]:
    """Compares, and takes the marker away if all is there; what is still to do."""
    if await session.fetchval(f"SELECT token FROM {MARKER}") != token:
        raise RestoreFailed(_TAKEN_OVER)
    edition = await probe_edition(session, timescale="auto")
    with show_progress("Comparing", "tables") as bar:
        tables = await sum_tables(session, edition, bar)
    expected: dict[str, object] = {table.name: table for table in contents.tables}
    actual: dict[str, object] = {table.name: table for table in tables}
    if contents.hypertables is not None:
        expected["the hypertables"] = contents.hypertables
        actual["the hypertables"] = await count_hypertables(session, edition)
    if different := sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)):
        first = different[0]
        raise RestoreFailed(
            f"What is in the database is not the backup: {len(different)} of {len(expected)} differ, the first is {first} "
            f"with {actual.get(first, 'nothing')} instead of {expected.get(first, 'nothing')}. {_AGAIN}"
        )
    await session.execute("ANALYZE")
    remaining = await _find_remaining(session, contents, edition.name)
    async with session.transaction():
        if contents.timescale_version is not None:
            await session.execute("SELECT timescaledb_post_restore()")
        await session.execute(f"DROP TABLE {MARKER}")
    return remaining


async def _find_remaining(session: Connection, contents: Contents, edition: EditionName) -> tuple[str, ...]:
    found = []
    known = set(list_migrations())
    if known - set(contents.migrations):
        found.append("The backup is older than this code: run invoke migrate.")
    if set(contents.migrations) - known:
        found.append("The backup is of a later release than this code, which refuses the database: run that release.")
    gained = edition is not contents.edition and edition is not EditionName.NONE
    if gained or (contents.edition is EditionName.NONE and await list_timescale_versions(session)):
        found.append("The server can do more for the tables than the one they come from: run invoke timescale-apply.")
    return tuple(found)
