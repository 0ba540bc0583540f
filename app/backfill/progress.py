"""How far a file is loaded, in the table file_loads: in the database, so that it always speaks of the rows that this
database has, whatever was restored or loaded elsewhere.

A file is known by what is in it (its size, its time, its beginning and its end) and by how it's read: after any change
it's loaded from its beginning.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from app.backfill.layout import LoadOptions
from app.backfill.rows import Position
from app.database import Connection
from app.ingest.refusal import RejectionCode

_SAMPLE = 1024 * 1024  # bytes of the beginning, and of the end


class Progress(msgspec.Struct, frozen=True):
    """What became of the rows so far; each is in exactly one of the counts. `refused_bytes` and their CRC-32 are of the
    file of refused rows."""

    position: Position = Position()
    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: dict[RejectionCode, int] = {}
    refused_bytes: int = 0
    refused_crc: int = 0

    @property
    def rejected(self) -> int:
        return sum(self.refused.values())

    @property
    def rows(self) -> int:
        return self.accepted + self.duplicates + self.conflicts + self.rejected


class KnownLoad(msgspec.Struct, frozen=True):
    """A row of file_loads."""

    progress: Progress
    finished: bool


def compute_fingerprint(path: Path, options: LoadOptions) -> str:
    """Of what is in the file and of how it's read. Raises OSError."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_SAMPLE))
        file.seek(max(0, status.st_size - _SAMPLE))
        digest.update(file.read(_SAMPLE))
    digest.update(msgspec.json.encode([status.st_size, status.st_mtime_ns, options], order="deterministic"))
    return digest.hexdigest()


async def find_load(connection: Connection, fingerprint: str) -> Progress | None:
    """How far an unfinished load of this file came; None where there is none."""
    stored = await connection.fetchval(
        "SELECT progress FROM file_loads WHERE fingerprint = $1 AND finished_at IS NULL", fingerprint
    )
    return None if stored is None else msgspec.json.decode(stored, type=Progress)


async def find_loads_of(connection: Connection, path: Path) -> list[KnownLoad]:
    """Every load of a file at this absolute path, whatever was in it."""
    rows = await connection.fetch(
        "SELECT progress, finished_at IS NOT NULL AS finished FROM file_loads WHERE path = $1", str(path)
    )
    return [KnownLoad(msgspec.json.decode(row["progress"], type=Progress), row["finished"]) for row in rows]


async def store_progress(
    connection: Connection, fingerprint: str, path: Path, progress: Progress, *, finished: bool
) -> None:
    """Remembers how far the load came."""
    await connection.execute(
        """
        INSERT INTO file_loads (fingerprint, path, progress, finished_at)
        VALUES ($1, $2, $3::jsonb, CASE WHEN $4 THEN now() END)
        ON CONFLICT (fingerprint) DO UPDATE SET path = excluded.path, progress = excluded.progress,
          finished_at = excluded.finished_at, updated_at = now()
        """,
        fingerprint,
        str(path),
        msgspec.json.encode(progress).decode(),
        finished,
    )
