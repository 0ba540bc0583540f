"""Commands that load files of readings into the database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.tasks import task

from app.access.audit import begin_deed
from app.access.principal import make_operator
from app.console import complain, say, show_progress
from app.errors import InvalidInput
from app.settings import Settings, load_settings
from app.tasks.databases import migrate_forwards, open_database, open_piccolo
from app.tasks.options import read_choice
from app.tasks.reports import report_errors
from app.timescale.journal import name_user

if TYPE_CHECKING:
    from app.backfill.layout import LoadOptions
    from app.backfill.loader import LoadSummary
    from app.backfill.rows import Source

FILE_PATIENCE = timedelta(minutes=10)  # with a database that is slow or away: a file can wait, as no client would


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
    from app.backfill.layout import LoadOptions, Shape, read_renames
    from app.ingest.merge import OnConflict

    return LoadOptions(
        machine_id=machine or None,
        machine_column=machine_column or None,
        timestamp_column=timestamp_column or None,
        shape=read_choice("layout", layout, Shape),
        columns=read_renames(columns) if columns else {},
        timezone=timezone,
        on_conflict=read_choice("on-conflict", on_conflict.upper(), OnConflict),
    )


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
    from app.backfill.loader import MOST_SHOWN
    from app.backfill.refused import name_refused

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
    from app.backfill.loader import load_file
    from app.ingest.backlog import Backlog
    from app.ingest.writer import Writer

    deed = begin_deed(make_operator(name_user()), command)
    async with open_database(settings) as database:
        writer = Writer(database, Backlog(sys.maxsize), FILE_PATIENCE)  # a batch at a time is bound enough
        with show_progress(f"Loading {source.path.name}", "rows") as bar:
            return await load_file(database, writer, source, options, settings.max_metrics, described, deed, bar)
