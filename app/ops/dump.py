"""The file that pg_dump writes: making it, and finding out whether it is whole."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from pathlib import Path

from app.console import show_progress
from app.embedded.installations import read_major
from app.errors import BackupDamaged, BackupFailed
from app.ops.contents import Contents
from app.ops.draft import Draft
from app.ops.manifest import Backup, Dump, Manifest, hash_file, name_manifest, read_manifest, write_manifest
from app.ops.programs import Programs, choose_programs, run_program

# Half the time of pg_dump's default, for a file that is a tenth larger.
_COMPRESSION = "1"
_BLOCK = 1024 * 1024  # bytes


async def dump_database(
    programs: Programs, environment: Mapping[str, str], file: int, snapshot: str, show: Callable[[int], None]
) -> None:
    """Has pg_dump write the database to an open file, as it is in a snapshot that another session holds.

    `show` is told how many tables have been begun. Raises BackupFailed.
    """
    begun = 0

    def read(line: str) -> None:
        nonlocal begun
        if "dumping contents of table" in line:
            begun += 1
            show(begun)

    options = ("--format=custom", f"--compress={_COMPRESSION}", f"--snapshot={snapshot}", "--no-password", "--verbose")
    async with run_program(programs["pg_dump"], *options, environment=environment, stdout=file, on_line=read) as run:
        if reason := await run.finish():
            raise BackupFailed(f"pg_dump {programs.version} failed: {reason}.")


async def finish_draft(draft: Draft, contents: Contents, programs: Programs) -> Backup:
    """Reads the dump back to its end, and gives it its name and its manifest. Raises BackupFailed, OSError."""
    with show_progress(f"Reading {draft.place.name}", "bytes") as bar:
        hashing = asyncio.to_thread(hash_file, draft.place, bar)
        sha256, script_size = await asyncio.gather(hashing, _measure_script(programs, draft.place))
    dump = Dump(programs.version, os.fstat(draft.file).st_size, sha256, script_size)
    manifest = Manifest(contents, dump)
    draft.publish(name_manifest(draft.path), write_manifest(manifest))
    return Backup(draft.path, manifest)


async def _measure_script(programs: Programs, path: Path) -> int:
    command = (programs["pg_restore"], "--file=-", str(path))
    async with run_program(*command, environment=os.environ, stdout=PIPE) as run:
        size = 0
        while block := await run.stdout.read(_BLOCK):
            size += len(block)
        if reason := await run.finish():
            raise BackupFailed(f"What pg_dump wrote can't be read back by pg_restore {programs.version}: {reason}.")
    return size


async def list_backup(path: Path, *, pg_bin: Path | None = None) -> Backup:
    """A backup that is there, whole, as it was written, and that pg_restore can list. Raises BackupDamaged, ProgramsMissing."""
    backup = await asyncio.to_thread(_check_file, path)
    programs = choose_reader(backup.manifest, pg_bin)
    async with run_program(programs["pg_restore"], "--list", str(backup.path), environment=os.environ) as run:
        if reason := await run.finish():
            raise BackupDamaged(f"{path} can't be read by pg_restore {programs.version}: {reason}.")
    return backup


def choose_reader(manifest: Manifest, pg_bin: Path | None) -> Programs:
    """The programs that can read a dump. Raises ProgramsMissing."""
    version = manifest.dump.pg_dump_version
    return choose_programs(pg_bin, read_major(version), f"A backup made with pg_dump {version}")


def _check_file(path: Path) -> Backup:
    path = path.absolute()
    try:
        size = path.stat().st_size
        manifest = read_manifest(path)
        if size == manifest.dump.size:
            with show_progress(f"Reading {path.name}", "bytes") as bar:
                found = hash_file(path, bar)
    except OSError as error:
        raise BackupDamaged(f"{path} can't be read: {error.strerror}.") from error
    if size != manifest.dump.size:
        raise BackupDamaged(
            f"{path} has {size:,} bytes, and had {manifest.dump.size:,} when it was made: it isn't whole."
        )
    if found != manifest.dump.sha256:
        raise BackupDamaged(f"{path} isn't as it was made: its SHA-256 differs.")
    return Backup(path, manifest)
