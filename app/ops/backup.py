"""A backup: a dump in pg_dump's custom format, and beside it a manifest of the same snapshot to compare a restore with.

The dump has its name only when it is whole, has been read back to its end, and is on the disk with its manifest.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import asyncpg

from app.console import show_progress
from app.database import Connection, Edition, describe_error, probe_edition
from app.embedded.installations import read_major
from app.errors import BackupFailed
from app.migrations.state import require_whole
from app.ops.contents import Contents, list_objects, read_contents
from app.ops.draft import Draft, open_draft, prepare_folder
from app.ops.dump import dump_database, finish_draft
from app.ops.manifest import Backup
from app.ops.programs import Programs, choose_programs
from app.ops.session import make_environment, open_session

FOLDER = Path("backups")
LOCK_SECONDS = 60  # to wait for whoever has a table to themselves
MOST_ATTEMPTS = 10


async def back_up(dsn: str, path: Path | None = None, *, pg_bin: Path | None = None) -> Backup:
    """Backs up the whole database as it is at one moment, while others go on writing to it.

    `path` is a file that isn't there yet, by default backups/aurumai-DATABASE-TIME.dump; `pg_bin` is the folder of
    PostgreSQL's programs to use. Raises BackupFailed, ProgramsMissing, DatabaseUnavailable, StartupRefused.
    """
    try:
        session = await open_session(dsn)
        try:
            await require_whole(session)
            edition = await probe_edition(session, timescale="auto")
            version = edition.postgres_version
            programs = choose_programs(pg_bin, read_major(version), f"A backup of PostgreSQL {version}")
            with open_draft(path or await _name_file(session)) as draft:
                contents = await _dump_and_read(session, dsn, programs, edition, draft)
                session.terminate()  # nobody has to wait for what follows
                return await finish_draft(draft, contents, programs)
        finally:
            session.terminate()
    # asyncpg says the last of a session that the server has ended, and whose connection it has not closed yet.
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise BackupFailed(f"The database could not be read: {describe_error(error)}.") from error
    except OSError as error:
        raise BackupFailed(f"The backup could not be written: {_describe(error)}.") from error


async def _name_file(session: Connection) -> Path:
    """In the folder for backups, which is made if need be, and without what earlier ones left that were killed."""
    database = str(await session.fetchval("SELECT current_database()"))
    prepare_folder(FOLDER)
    return FOLDER / f"aurumai-{re.sub(r'[^A-Za-z0-9_.-]', '_', database)}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"


def _describe(error: OSError) -> str:
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")


async def _dump_and_read(session: Connection, dsn: str, programs: Programs, edition: Edition, draft: Draft) -> Contents:
    """Dumps the database and reads its contents, both in one snapshot and at the same time."""
    tables = await _begin_snapshot(session)
    snapshot = str(await session.fetchval("SELECT pg_export_snapshot()"))
    environment = make_environment(session, dsn)
    steps = {"written": (0, tables), "counted": (0, tables)}
    with show_progress("Backing up", "tables written and counted") as bar:

        def show(step: str, done: int, total: int) -> None:
            steps[step] = (done, max(done, total))  # pg_dump writes tables of extensions too
            bar(*(sum(numbers) for numbers in zip(*steps.values(), strict=True)))

        try:
            async with asyncio.TaskGroup() as group:
                show_written = partial(show, "written", total=tables)
                group.create_task(dump_database(programs, environment, draft.file, snapshot, show_written))
                reading = group.create_task(read_contents(session, edition, partial(show, "counted")))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
    return reading.result()


async def _begin_snapshot(session: Connection) -> int:
    """Begins a transaction whose snapshot is of a moment at which every table was locked already; how many there are.

    Reading goes on and so does writing, but nobody can empty, drop or rewrite a table between snapshot and dump, which
    would show the snapshot an empty one.
    """
    for _ in range(MOST_ATTEMPTS):
        tables = await _list_tables(session)
        # No snapshot is taken before the first statement that reads.
        await session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            if tables:
                await session.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                await session.execute(f"LOCK TABLE {', '.join(f'ONLY {name}' for name in tables)} IN ACCESS SHARE MODE")
            if set(await _list_tables(session)) <= set(tables):
                return len(tables)
        except asyncpg.LockNotAvailableError:
            raise BackupFailed(
                f"Somebody has had a table to themselves for {LOCK_SECONDS} seconds, a migration perhaps: try again when "
                "that is done."
            ) from None
        except asyncpg.UndefinedTableError:
            pass  # dropped since it was listed
        await session.execute("ROLLBACK")
    raise BackupFailed("Tables kept being made and dropped while the backup was to begin: try again later.")


async def _list_tables(session: Connection) -> list[str]:
    return [each.name for each in await list_objects(session) if each.kind == "table"]
