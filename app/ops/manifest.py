"""What is known of a backup: a JSON file beside the dump, under its name and `.json`, that can't be changed unnoticed.

It was read in the snapshot that the dump is of, so a restored database can be compared with it to the last row.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import msgspec

from app.console import Bar
from app.errors import BackupDamaged
from app.ops.contents import Contents

FORMAT = 1

_BLOCK = 4 * 1024 * 1024  # bytes


class Dump(msgspec.Struct, frozen=True):
    """A dump's file: who wrote it, its size and hash, and how many bytes of SQL pg_restore makes of it."""

    pg_dump_version: str
    size: int
    sha256: str
    script_size: int


class Manifest(msgspec.Struct, frozen=True):
    """What is in the dump, and the dump itself."""

    contents: Contents
    dump: Dump


class Backup(msgspec.Struct, frozen=True):
    """A dump that is whole, and what is known of it."""

    path: Path
    manifest: Manifest

    def __str__(self) -> str:
        contents, dump = self.manifest.contents, self.manifest.dump
        return f"{len(contents.tables):,} tables with {contents.rows:,} rows in {dump.size / 1_000_000:,.1f} MB"


def write_return_command(backup: Backup, *, embedded: bool) -> str:
    """The shell command that restores it beside what is there: into a new database, or a new embedded server."""
    contents = backup.manifest.contents
    command = ["uv", "run", "invoke", "restore", "--file", str(backup.path)]
    moment = f"{contents.taken_at:%Y%m%d%H%M%S}"
    if embedded:
        return f"AURUM_DATA_DIR=.aurum-{moment} {shlex.join(command)}"
    return shlex.join([*command, "--database", f"{contents.database[:40]}_{moment}"])


class _Sealed(msgspec.Struct, frozen=True):
    """The file: `sha256` is of the manifest's bytes as they stand in it."""

    format: int
    manifest: msgspec.Raw
    sha256: str


def name_manifest(dump: Path) -> Path:
    return dump.with_name(f"{dump.name}.json")


def write_manifest(manifest: Manifest) -> bytes:
    """The text of the file."""
    text = msgspec.json.format(msgspec.json.encode(manifest))
    return msgspec.json.encode(_Sealed(FORMAT, msgspec.Raw(text), hashlib.sha256(text).hexdigest())) + b"\n"


def read_manifest(dump: Path) -> Manifest:
    """The manifest of a dump. Raises BackupDamaged when it isn't there, can't be read or isn't as it was written."""
    path = name_manifest(dump)
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        if hashlib.sha256(sealed.manifest).hexdigest() != sealed.sha256:
            raise BackupDamaged(f"{path} isn't as it was written: take both files from another copy of the backup.")
        if sealed.format != FORMAT:
            raise BackupDamaged(
                f"{path} is of the kind {sealed.format}, and this code knows {FORMAT}: use the code that made it."
            )
        return msgspec.json.decode(sealed.manifest, type=Manifest)
    except FileNotFoundError:
        raise BackupDamaged(
            f"{path} isn't there: a restore is compared with it, so it has to lie beside its dump."
        ) from None
    except OSError as error:
        raise BackupDamaged(f"{path} can't be read: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise BackupDamaged(f"{path} isn't the description of a backup: {error}.") from error


def hash_file(path: Path, show: Bar) -> str:
    """The SHA-256 of a file's bytes. Raises OSError."""
    size, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            show(done, size)
    return digest.hexdigest()
