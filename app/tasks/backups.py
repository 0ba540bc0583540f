"""Commands that back a database up, and restore what was backed up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from app.console import say
from app.errors import InvalidInput
from app.settings import load_settings
from app.tasks.databases import open_server
from app.tasks.reports import report_errors


@task(help={"file": "where to; by default backups/aurumai-DATABASE-TIME.dump"})
def backup(_: Context, file: str = "") -> None:
    """Backs up the whole database while the service runs, and reads the backup back."""
    from app.ops.backup import back_up
    from app.ops.manifest import write_return_command

    with report_errors():
        settings = load_settings()
        with open_server(settings) as dsn:
            made = asyncio.run(back_up(dsn, Path(file) if file else None, pg_bin=settings.pg_bin))
        say(f"{made.path}: {made}.")
        say(
            f"To have it beside what is there now: {write_return_command(made, embedded=settings.database_url is None)}"
        )


@task(
    help={
        "file": "the .dump of a backup; its .json lies beside it",
        "database": "another database on the server of DATABASE_URL, which is made if it isn't there",
    }
)
def restore(_: Context, file: str, database: str = "") -> None:
    """Restores a backup into an empty database, and compares every table with what was backed up."""
    from app.ops.restore import make_database
    from app.ops.restore import restore as restore_backup

    with report_errors():
        settings = load_settings()
        if database and settings.database_url is None:
            raise InvalidInput(
                "--database needs DATABASE_URL; for an embedded server, set AURUM_DATA_DIR to a new folder."
            )
        with open_server(settings) as dsn:
            target = asyncio.run(make_database(dsn, database)) if database else dsn
            restored = asyncio.run(restore_backup(target, Path(file), pg_bin=settings.pg_bin))
        say(f"Restored {restored.backup}; every table has the rows and the checksum that it had.")
        for sentence in restored.remaining:
            say(sentence)
        if database:
            say(f"Set DATABASE_URL to the database {database} to use it.")
