"""The server and the database that a command works on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from app.console import complain, say, show_progress
from app.database import Connection, Database, explain_refusal
from app.embedded import open_embedded
from app.migrations.runner import Terminal, apply_migrations
from app.migrations.state import require_schema
from app.piccolo_app import APP_CONFIG
from app.settings import Settings, load_settings

Answer = TypeVar("Answer")

TABLES = [table._meta.tablename for table in APP_CONFIG.table_classes]
TERMINAL = Terminal(say, complain, show_progress)


@contextmanager
def open_server(settings: Settings) -> Iterator[str]:
    """The DSN of DATABASE_URL, or of the embedded server for as long as the block lasts."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    # Which server it is is said beside the output, which may be for a program.
    with open_embedded(settings.data_dir, settings.pg_bin, progress=complain) as server:
        complain(server.description)
        yield server.dsn


@contextmanager
def open_piccolo() -> Iterator[None]:
    """Makes piccolo_conf.py, which the runner goes by, and this command use one server."""
    with open_server(load_settings()) as dsn:
        name_server(dsn)
        yield


def name_server(dsn: str) -> None:
    """Makes a server the one that piccolo_conf.py takes."""
    os.environ["DATABASE_URL"] = dsn
    os.environ.pop("DATABASE_URL_FILE", None)


def name_no_server() -> None:
    """Keeps piccolo_conf.py, where Piccolo looks for the kind of engine, from starting a server for that."""
    name_server("postgresql://localhost/nobody_connects")


def migrate_forwards(until: str | None = None, *, accept_edited: bool = False) -> None:
    """Applies what is pending, up to and including a migration."""
    # It opens a server of its own where DATABASE_URL is unset, so only once that names ours.
    from piccolo_conf import DB

    asyncio.run(apply_migrations(DB, APP_CONFIG, TERMINAL, until, accept_edited=accept_edited))


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The database that `open_piccolo` named, with its schema checked."""
    database = Database(timescale=settings.timescale.value, pool_size=4, statement_timeout=settings.statement_timeout)
    await database.open(os.environ["DATABASE_URL"])
    try:
        database.bind(APP_CONFIG.table_classes)
        async with database.connection() as connection:
            with explain_refusal():
                await require_schema(connection, TABLES)
        yield database
    finally:
        await database.close()


def ask_database(ask: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """What `ask` finds out, on a connection to the database of DATABASE_URL or to the embedded one."""

    async def run() -> Answer:
        async with open_database(settings) as database, database.connection() as connection:
            return await ask(connection)

    settings = load_settings()
    with open_piccolo():
        return asyncio.run(run())
