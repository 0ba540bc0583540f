"""Commands that write migration files, or look at them; none of them asks a database."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.tasks import task

from app.console import complain, say
from app.errors import InvalidInput
from app.piccolo_app import APP_CONFIG
from app.tasks.checkout import ROOT
from app.tasks.databases import name_no_server
from app.tasks.reports import print_json, report_errors

if TYPE_CHECKING:
    from app.timescale.drafts import Draft


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
        name_no_server()
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
        name_no_server()
        _write_migration(asyncio.run(draft_empty(APP_CONFIG, msg)))


@task(help={"msg": "what the migration is for"})
def migration_data(_: Context, msg: str) -> None:
    """Writes a data migration, which changes rows batch by batch, to be filled in."""
    from app.timescale.autogenerate import draft_data

    with report_errors():
        name_no_server()
        _write_migration(asyncio.run(draft_data(APP_CONFIG, msg)))


def _write_migration(draft: Draft) -> None:
    draft.path.write_text(draft.text, encoding="utf-8")
    say(f"Wrote {draft.path.relative_to(ROOT)}: read it, then run invoke migrate.")


@task(help={"file": "where to write it; without it, it is printed"})
def migrate_sql(_: Context, file: str = "") -> None:
    """Writes all migrations as one psql script, which may be run again at any time; asks no database."""
    from app.migrations.script import write_script

    with report_errors():
        name_no_server()
        script = asyncio.run(write_script(APP_CONFIG))
        if file:
            Path(file).write_text(script, encoding="utf-8")
            say(f"Wrote {file}: run it with psql --no-psqlrc --file {file} DATABASE_URL.")
        else:
            print(script, end="")  # noqa: T201 - for a file or for psql


@task(help={"json": "for programs: a list of {migration, file, rule, message, statement}, as JSON"})
def migrate_lint(_: Context, json: bool = False) -> None:
    """Finds what is wrong with the migration files, without a database: exit 0 nothing, 1 something."""
    from app.migrations.lint.linter import lint_migrations

    with report_errors():
        name_no_server()
        findings = asyncio.run(lint_migrations(APP_CONFIG))
        if json:
            print_json(findings)
        else:
            for each in findings:
                complain(f"{each.file}: {each.rule}: {each.message}")
                if each.statement is not None:
                    complain(f"  {shorten(each.statement, 200)}")
            count = f"{len(findings)} finding{'' if len(findings) == 1 else 's'}."
            say(count if findings else "Nothing is wrong with the migrations.")
        sys.exit(1 if findings else 0)
