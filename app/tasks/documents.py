"""Commands that write the files which follow from the code, or see that they are what it says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from app.console import complain, say
from app.piccolo_app import APP_CONFIG
from app.tasks.checkout import ROOT
from app.tasks.databases import open_piccolo
from app.tasks.reports import report_errors

DOCS = ROOT / "docs"


@task(help={"check": "change nothing; fail when a file isn't what the migrations say"})
def schema_snapshot(_: Context, check: bool = False) -> None:
    """Writes docs/schema.sql and docs/schema.md, the schema that the migrations make, as SQL and as a diagram."""
    from app.migrations.snapshot import make_snapshot

    with report_errors(), open_piccolo():
        from piccolo_conf import DB

        snapshot = asyncio.run(make_snapshot(DB, APP_CONFIG))
        stale = [name for name, text in snapshot.items() if _read(DOCS / name) != text]
        if not check:
            for name in stale:
                (DOCS / name).write_text(snapshot[name], encoding="utf-8")
                say(f"Wrote docs/{name}.")
        elif stale:
            names = " and ".join(f"docs/{name}" for name in stale)
            complain(f"Not what the migrations say: {names}. Run invoke schema-snapshot, and review the change.")
            sys.exit(1)


@task(help={"check": "change nothing; fail when the file isn't what the code says"})
def graphql_schema(_: Context, check: bool = False) -> None:
    """Writes schema.graphql, the API as clients see it."""
    from app.graphql.schema import make_schema

    sdl = make_schema().as_str() + "\n"
    complaint = "schema.graphql is not what the code says: run invoke graphql-schema, and review the change."
    _write(ROOT / "schema.graphql", sdl, complaint, check)


@task(help={"check": "change nothing; fail when a file isn't what the code says"})
def configuration_doc(_: Context, check: bool = False) -> None:
    """Writes docs/configuration.md and .env.example, the settings as people read them."""
    from app.settings import write_example, write_guide

    texts = {DOCS / "configuration.md": write_guide(), ROOT / ".env.example": write_example()}
    for path, text in texts.items():
        complaint = f"{path.name} is not what the code says: run invoke configuration-doc, and review the change."
        _write(path, text, complaint, check)


@task(help={"check": "change nothing; fail when the file isn't what the packages say"})
def licences(_: Context, check: bool = False) -> None:
    """Writes docs/licences.md, the licences of the packages that come with the service; fails where one may not be used."""
    from app.ops.licences import find_refused, list_licences, write_licences

    found = list_licences()
    refused = find_refused(found)
    for sentence in refused:
        complain(sentence)
    complaint = "docs/licences.md is not what the packages say: run invoke licences, and review the change."
    _write(DOCS / "licences.md", write_licences(found), complaint, check)
    if refused:
        sys.exit(1)


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


def _write(file: Path, text: str, complaint: str, check: bool) -> None:
    """Writes a file; or changes nothing, and ends the command with the complaint where it isn't so yet."""
    if not check:
        file.write_text(text, encoding="utf-8")
    elif _read(file) != text:
        complain(complaint)
        sys.exit(1)
