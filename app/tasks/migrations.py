"""Commands that bring a database from one migration to another, or tell where it is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec
from invoke.context import Context
from invoke.tasks import task

from app.console import complain, say
from app.database import connect, explain_refusal
from app.errors import AurumError, InvalidInput
from app.migrations.history import HistoryLine, read_history
from app.migrations.runner import catch_up, reverse_migrations
from app.migrations.state import MigrationState, list_migrations, read_state, require_order
from app.piccolo_app import APP_CONFIG
from app.settings import load_settings
from app.tasks.databases import TERMINAL, migrate_forwards, open_piccolo
from app.tasks.reports import print_json, report_errors

_ACCEPT_EDITED = "files that were edited after they were applied are right as they are now"


@task(help={"accept-edited": _ACCEPT_EDITED})
def migrate(_: Context, accept_edited: bool = False) -> None:
    """Applies every migration that the database lacks."""
    with report_errors(), open_piccolo():
        migrate_forwards(accept_edited=accept_edited)


@task
def migrate_safe(_: Context) -> None:
    """Takes a backup, sees that it can be listed, and migrates; where that fails it prints how to go back."""
    from app.ops.backup import back_up
    from app.ops.dump import list_backup
    from app.ops.manifest import write_return_command

    with report_errors():
        settings = load_settings()
        with open_piccolo():
            before = asyncio.run(_read_state())
            require_order(before)
            if not before.pending:
                migrate_forwards()  # says so, and finishes what was cut off
                return
            made = asyncio.run(back_up(os.environ["DATABASE_URL"], pg_bin=settings.pg_bin))
            asyncio.run(list_backup(made.path, pg_bin=settings.pg_bin))
            say(f"Backed up {made} to {made.path}, and it can be listed.")
            try:
                migrate_forwards()
            except BaseException:
                for line in _describe_way_back(
                    before, write_return_command(made, embedded=settings.database_url is None)
                ):
                    complain(line)
                raise


def _describe_way_back(before: MigrationState, restore_command: str) -> Iterator[str]:
    """What undoes a run that did not get to its end, as commands."""
    with suppress(AurumError):  # the database may be why
        done = set(asyncio.run(_read_state()).applied) - set(before.applied)
        if done:
            yield f"Applied before it failed: {', '.join(sorted(done))}. To reverse that, keeping every other row:"
            yield f"  uv run invoke migrate-to --id {before.applied[-1] if before.applied else 'base'}"
        else:
            yield "No migration was applied, so there is nothing to reverse."
    yield "To have the database as it was backed up, beside what is there now:"
    yield f"  {restore_command}"


@task(help={"yes": "rows that the migration's tables and columns hold may go", "accept-edited": _ACCEPT_EDITED})
def migrate_rollback(_: Context, yes: bool = False, accept_edited: bool = False) -> None:
    """Reverses the newest migration."""
    with report_errors(), open_piccolo():
        state = asyncio.run(_read_state())
        _reverse(state.applied[-1:], yes, accept_edited)


@task(
    help={
        "id": "the migration to be at; `base` is before the first",
        "yes": "when going back: rows that the migrations' tables and columns hold may go",
        "accept-edited": _ACCEPT_EDITED,
    }
)
def migrate_to(_: Context, id: str, yes: bool = False, accept_edited: bool = False) -> None:  # noqa: A002 - the option's name
    """Goes forwards or back to a migration."""
    with report_errors(), open_piccolo():
        _require_migration(id)
        state = asyncio.run(_read_state())
        surplus = [name for name in state.applied if id == "base" or name > id]
        if surplus:
            _reverse(surplus, yes, accept_edited)
        elif id in state.pending:
            migrate_forwards(until=id, accept_edited=accept_edited)
        else:
            say(f"The database is at {id} already.")


def _require_migration(id: str) -> None:  # noqa: A002 - as the option is called
    known = list_migrations()
    if id not in (*known, "base"):
        raise InvalidInput(f"There is no migration {id}: choose base or one of {', '.join(known)}.")


@task(
    help={
        "to": "the migration to be at, forwards or back; `base` is before the first",
        "json": "for programs: {at, server, leftovers, migrations, losses}, as JSON",
    }
)
def migrate_preview(_: Context, to: str = "", json: bool = False) -> None:
    """Shows every statement that would run, what it locks and how much of it there is; changes nothing."""
    from app.migrations.preview import preview_migrations
    from app.migrations.sheet import describe_preview

    with report_errors(), open_piccolo():
        from piccolo_conf import DB

        if to:
            _require_migration(to)
        preview = asyncio.run(preview_migrations(DB, APP_CONFIG, to or None))
        if json:
            print_json(preview)
        else:
            for line in describe_preview(preview):
                say(line)


@task(help={"json": "for programs: {migration, pending, unknown}, as JSON"})
def migrate_current(_: Context, json: bool = False) -> None:
    """Shows the newest migration that the database has."""
    with report_errors(), open_piccolo():
        state = asyncio.run(_read_state())
        newest = state.applied[-1] if state.applied else None
        if json:
            print_json({"migration": newest, "pending": state.pending, "unknown": state.unknown})
        else:
            say(newest or "base: no migration is applied.")


@task(help={"json": "for programs: a list of {migration, description, state, log}, as JSON"})
def migrate_history(_: Context, json: bool = False) -> None:
    """Shows every migration, whether the database has it, and who did what with it when."""
    with report_errors(), open_piccolo():
        lines = asyncio.run(_read_history())
        if json:
            print_json(lines)
            return
        for line in lines:
            say(f"{line.migration}  {line.state.value}  {line.description}".rstrip())
            for entry in line.log:
                by = f"{entry.by} as {entry.role}" if entry.by else f"{entry.role} by a script"
                say(
                    f"  {entry.event.value} {entry.at:%Y-%m-%d %H:%M:%S} UTC by {by}, took "
                    f"{entry.took.total_seconds():.2f} s, file {entry.checksum[:12]}"
                )


@task
def timescale_apply(_: Context) -> None:
    """Makes hypertables, policies and aggregates of a database whose server gained TimescaleDB after it was migrated."""
    with report_errors(), open_piccolo():
        from piccolo_conf import DB

        asyncio.run(catch_up(DB, APP_CONFIG, TERMINAL))


@task(help={"json": "for programs: what differs, as JSON"})
def migrate_check(_: Context, json: bool = False) -> None:
    """Compares migrations, live database and tables: exit 0 in step, 2 to be migrated, 3 it differs, 4 to be generated."""
    from app.migrations.check import check_database

    with report_errors(), open_piccolo():
        from piccolo_conf import DB

        result = asyncio.run(check_database(DB, APP_CONFIG))
        if json:
            print_json({**msgspec.to_builtins(result), "exit_code": result.exit_code})
        else:
            for sentence in result.describe():
                say(sentence)
        sys.exit(result.exit_code)


async def _read_history() -> list[HistoryLine]:
    connection = await connect(os.environ["DATABASE_URL"])
    try:
        with explain_refusal():
            return await read_history(connection, APP_CONFIG)
    finally:
        await connection.close()


async def _read_state() -> MigrationState:
    connection = await connect(os.environ["DATABASE_URL"])
    try:
        with explain_refusal():
            return await read_state(connection, list_migrations())
    finally:
        await connection.close()


def _reverse(migration_ids: Sequence[str], yes: bool, accept_edited: bool) -> None:
    """Goes back behind the first of these; rows may go only with --yes."""
    if not migration_ids:
        say("No migration is applied.")
        return
    from piccolo_conf import DB

    asyncio.run(reverse_migrations(DB, APP_CONFIG, migration_ids, TERMINAL, may_lose=yes, accept_edited=accept_edited))
