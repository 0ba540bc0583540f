"""The migration files: their ids, checksums and managers. Fails: MigrationRefused, naming the file and its line."""

from __future__ import annotations

import re
import traceback
from hashlib import sha256
from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.apps.migrations.commands.base import BaseMigrationManager
from piccolo.conf.apps import AppConfig, MigrationModule

from app.errors import MigrationRefused

_PREFIX = "app_"  # of the files that Piccolo names after its app
_ID = re.compile(r"""^ID *= *["']([^"']+)["'] *(?:#.*)?$""", re.MULTILINE)


def list_files(folder: Path) -> dict[str, Path]:
    """The migration files by id, in the order in which they are applied. Imports none of them.

    Raises MigrationRefused where two have the same id, and where one that is named as a migration has none.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.py")):
        match = _ID.search(path.read_text(encoding="utf-8"))
        if match is None and path.name.startswith(_PREFIX):
            raise MigrationRefused(
                f'The migration {path.name} has no line ID = "...", by which it would be known: say it as the others do, or '
                "move the file elsewhere if it is no migration."
            )
        if match is None:
            continue
        if match[1] in found:
            raise MigrationRefused(
                f"The migrations {found[match[1]].name} and {path.name} have the same ID, {match[1]}: give one a later ID."
            )
        found[match[1]] = path
    return dict(sorted(found.items()))


def compute_checksum(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits, the same however git ends its lines."""
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def find_folder(app: AppConfig) -> Path:
    """Where the migration files of an app are."""
    return Path(app.resolved_migrations_folder_path)


def load_modules(app: AppConfig) -> dict[str, MigrationModule]:
    """The imported migration files by id, in order."""
    list_files(find_folder(app))
    try:
        modules = BaseMigrationManager().get_migration_modules(app.resolved_migrations_folder_path)
    except SyntaxError as error:
        name = Path(error.filename or "?").name
        raise MigrationRefused(f"The migration {name} can't be read: line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        raise MigrationRefused(f"A migration can't be imported: {_describe(error, find_folder(app))}.") from error
    return dict(sorted(modules.items()))


async def load_manager(app: AppConfig, migration_id: str, module: MigrationModule) -> MigrationManager:
    """What one file asks for. Every call gives a new one: a manager runs once."""
    try:
        manager = await module.forwards()
    except Exception as error:
        reason = _describe(error, find_folder(app))
        raise MigrationRefused(f"The forwards() of the migration {migration_id} fails: {reason}.") from error
    if not isinstance(manager, MigrationManager):
        raise MigrationRefused(f"The forwards() of the migration {migration_id} must return its manager.")
    return manager


async def load_managers(app: AppConfig) -> list[MigrationManager]:
    """What every file asks for, in order."""
    return [await load_manager(app, migration_id, module) for migration_id, module in load_modules(app).items()]


def _describe(error: Exception, folder: Path) -> str:
    """The error with the line of the migration that it came from."""
    said = f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: {said}" if frames else said
