"""A file on its way to be a backup: locked, under a name of its own, and gone again if it doesn't get there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.embedded.locks import Hold, try_lock
from app.errors import BackupFailed

_SUFFIX = ".unfinished"


@dataclass(frozen=True)
class Draft:
    """`file` is open for writing at `place`, and is to be at `path`."""

    path: Path
    place: Path
    file: int

    def publish(self, companion: Path, text: bytes) -> None:
        """Gives the file its name, once it and `companion` with that text are on the disk.

        Raises BackupFailed where something has that name by now, and OSError.
        """
        os.fsync(self.file)
        _write_safely(companion, text, os.fstat(self.file))
        _require_free(self.path)
        self.place.rename(self.path)
        _sync(self.path.parent)


@contextmanager
def open_draft(path: Path) -> Iterator[Draft]:
    """An empty file that only its owner may read, for as long as the block lasts or until it is published.

    Raises BackupFailed where `path` is taken or somebody else is writing it, and OSError.
    """
    path = path.absolute()
    if not path.parent.is_dir():
        raise BackupFailed(f"The folder {path.parent} isn't there: make it, or name another file.")
    place = path.with_name(path.name + _SUFFIX)
    file = try_lock(place, Hold.ALONE)
    if file is None:
        raise BackupFailed(f"Another backup is writing {path} just now: wait for it, or name another file.")
    try:
        _require_free(path)
        os.fchmod(file, 0o600)
        os.ftruncate(file, 0)  # of one that was killed
        yield Draft(path, place, file)
    finally:
        place.unlink(missing_ok=True)
        os.close(file)


def prepare_folder(folder: Path) -> None:
    """Makes a folder for backups, and removes the drafts of those that were killed from one that is there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for place in (*folder.glob(f"*.dump{_SUFFIX}"), *folder.glob(f"*.dump.json{_SUFFIX}")):
        if (file := try_lock(place, Hold.ALONE)) is not None:
            place.unlink(missing_ok=True)
            os.close(file)


def _require_free(path: Path) -> None:
    if path.is_symlink() or path.exists():
        raise BackupFailed(f"{path} is there already, and a backup replaces nothing: name another file.")


def _write_safely(path: Path, text: bytes, like: os.stat_result) -> None:
    place = path.with_name(path.name + _SUFFIX)
    file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
        if os.geteuid() == 0:
            os.fchown(file, like.st_uid, like.st_gid)
        with os.fdopen(os.dup(file), "wb") as opened:
            opened.write(text)
        os.fsync(file)
        place.rename(path)
    finally:
        os.close(file)
        place.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
