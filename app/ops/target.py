"""The database that a backup is to go into: whether it can, and what of a restore that was cut off is in the way."""

from __future__ import annotations

from pathlib import Path

from app.database import Connection, EditionName, probe_edition
from app.embedded.installations import read_major
from app.errors import DatabaseNotEmpty, RestoreRefused
from app.migrations.state import MARKER
from app.ops.contents import Contents, DatabaseObject, list_objects

_MOST_NAMED = 5

_AVAILABLE = """
SELECT version FROM pg_available_extension_versions WHERE name = 'timescaledb'
  AND EXISTS (SELECT FROM pg_settings WHERE name LIKE 'timescaledb.%') ORDER BY version
"""


async def prepare_target(session: Connection, contents: Contents, file: Path, token: str) -> None:
    """Marks an empty database as one into which `file` is being restored, with the TimescaleDB that it needs.

    Raises RestoreRefused or DatabaseNotEmpty; then nothing was done.
    """
    async with session.transaction():
        found = [each for each in await list_objects(session) if not _is_marker(each)]
        if found:
            raise DatabaseNotEmpty(
                f"The database is not empty: it has {_sum_up(found)}. Restore into an empty one, such as one that "
                "--database names and that isn't there yet."
            )
        await _check_server(session, contents)
        await _check_roles(session, contents)
        if contents.timescale_version is not None:
            await _provide_timescale(session, contents, contents.timescale_version)
        await session.execute(
            f"CREATE TABLE IF NOT EXISTS {MARKER} "
            "(token text NOT NULL, backup text NOT NULL, timescale boolean NOT NULL, began_at timestamptz NOT NULL)"
        )
        await session.execute(f"DELETE FROM {MARKER}")
        timescale = contents.timescale_version is not None
        await session.execute(f"INSERT INTO {MARKER} VALUES ($1, $2, $3, now())", token, file.name, timescale)


async def clear_unfinished(session: Connection) -> bool:
    """Drops what a restore that was cut off has left, all but its marker; whether there was one.

    What is there came out of a backup: restores begin in empty databases, and nothing else uses one that has the marker.
    """
    if await session.fetchval("SELECT to_regclass($1) IS NULL", MARKER):
        return False
    if await session.fetchval(f"SELECT bool_or(timescale) FROM {MARKER}"):
        database = await session.fetchval("SELECT quote_ident(current_database())")
        await session.execute(f"ALTER DATABASE {database} RESET timescaledb.restoring")
        await session.execute("DROP EXTENSION IF EXISTS timescaledb CASCADE")
    # One by one: all at once may be more than the server has room for locks.
    for each in await list_objects(session):
        if not _is_marker(each):
            await session.execute(f"DROP {each.kind} IF EXISTS {each.name} CASCADE")
    return True


async def _check_server(session: Connection, contents: Contents) -> None:
    server = await session.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)")
    if read_major(server) < read_major(contents.postgres_version):
        raise RestoreRefused(
            f"The backup is of PostgreSQL {contents.postgres_version} and this server is {server}: a backup goes into the "
            "same major version or a later one."
        )
    encoding = await session.fetchval("SELECT current_setting('server_encoding')")
    if encoding != contents.encoding:
        raise RestoreRefused(
            f"The backup is in {contents.encoding} and this database in {encoding}: make one with "
            f"CREATE DATABASE ... TEMPLATE template0 ENCODING '{contents.encoding}'."
        )


async def _check_roles(session: Connection, contents: Contents) -> None:
    needed = {*contents.roles, *(contents.owners if await is_superuser(session) else ())}
    rows = await session.fetch("SELECT rolname::text AS name FROM pg_roles")
    if missing := sorted(needed - {row["name"] for row in rows}):
        raise RestoreRefused(
            f"The backup has things that belong to, or may be used by, roles that this server lacks ({', '.join(missing)}): "
            "make them with CREATE ROLE and restore again."
        )


async def list_timescale_versions(session: Connection) -> list[str]:
    """The versions of TimescaleDB that can be enabled in this database."""
    return [row["version"] for row in await session.fetch(_AVAILABLE)]


async def is_superuser(session: Connection) -> bool:
    return bool(await session.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))


async def _provide_timescale(session: Connection, contents: Contents, version: str) -> None:
    """Enables that version of TimescaleDB, unless it is enabled already."""
    wanted = f"The backup is of a database with TimescaleDB {version} ({contents.edition.value})"
    installed = await session.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    available = await list_timescale_versions(session)
    if version not in (installed, *available):
        offered = f"offers {', '.join(available)}" if available else "has none that is installed and preloaded"
        raise RestoreRefused(
            f"{wanted}, and this server {offered}: install TimescaleDB {version} on it, with timescaledb in "
            "shared_preload_libraries, or restore on a server that has it and upgrade there."
        )
    if installed not in (None, version):
        raise RestoreRefused(
            f"{wanted}, and in this one {installed} is enabled: have a superuser run DROP EXTENSION timescaledb in it, which "
            "is empty, and restore again."
        )
    if not await session.fetchval("SELECT has_parameter_privilege('timescaledb.restoring', 'SET')"):
        raise RestoreRefused(f"{wanted}: TimescaleDB lets only a superuser restore, so name one in DATABASE_URL.")
    if installed is None:
        await session.execute(f"CREATE EXTENSION timescaledb VERSION '{version}'")
    edition = await probe_edition(session, timescale="auto")
    if contents.edition is EditionName.COMMUNITY and edition.name is not EditionName.COMMUNITY:
        raise RestoreRefused(
            f"{wanted}, and this server has its {edition.name.value} edition, which can't read what is compressed: set "
            "timescaledb.license to timescale on a server that has the Community edition."
        )


def _is_marker(each: DatabaseObject) -> bool:
    return each.kind == "table" and each.name.rpartition(".")[2] == MARKER


def _sum_up(objects: list[DatabaseObject]) -> str:
    named = ", ".join(str(each) for each in objects[:_MOST_NAMED])
    more = len(objects) - _MOST_NAMED
    return f"{named} and {more:,} more" if more > 0 else named
