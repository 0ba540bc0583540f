"""The text of a migration file, before it is written."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import black
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.conf.apps import AppConfig

from app.timescale.files import find_folder

_LINE_LENGTH = 88


@dataclass(frozen=True)
class Draft:
    """A migration that isn't written yet."""

    migration_id: str
    path: Path
    text: str


def make_draft(
    app: AppConfig,
    managers: Sequence[MigrationManager],
    description: str,
    manager: type[MigrationManager],
    body: Iterable[str],
    imports: Iterable[str] = (),
    definitions: Iterable[str] = (),
) -> Draft:
    """A file after those of `managers`, whose `forwards` makes a `manager` and runs the statements of `body` on it."""
    migration_id = _choose_id(managers)
    used = {*imports, f"from {manager.__module__} import {manager.__name__}"}
    text = "\n".join(
        [
            *sorted(used, key=lambda line: (not line.startswith("import "), line)),
            "",
            *sorted(definitions),
            f"ID = {migration_id!r}",
            f"DESCRIPTION = {description!r}",
            "",
            "async def forwards():",
            f'    manager = {manager.__name__}(migration_id=ID, app_name="{app.app_name}", description=DESCRIPTION)',
            *(f"\n{_indent(each)}" for each in body),
            "\n    return manager",
        ]
    )
    name = f"{app.app_name}_{re.sub(r'[-:]', '_', migration_id).lower()}.py"
    formatted = black.format_str(text, mode=black.Mode(line_length=_LINE_LENGTH))
    return Draft(migration_id, find_folder(app) / name, formatted)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _choose_id(managers: Sequence[MigrationManager]) -> str:
    """Now, in UTC, and after every other: files are applied in the order of their ids, whatever a clock said."""
    now = datetime.datetime.now(datetime.UTC)
    newest = max((manager.migration_id for manager in managers), default="")
    if newest >= now.strftime("%Y-%m-%dT%H:%M:%S:%f"):
        now = datetime.datetime.strptime(newest, "%Y-%m-%dT%H:%M:%S:%f").replace(tzinfo=datetime.UTC)
        now += datetime.timedelta(microseconds=1)
    return now.strftime("%Y-%m-%dT%H:%M:%S:%f")
