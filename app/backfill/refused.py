"""The rows of a file that were refused, in a CSV file beside it: their cells, their place, the code and the message."""

from __future__ import annotations

import csv
import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.backfill.progress import KnownLoad, Progress
from app.backfill.rows import Refusal
from app.errors import InvalidInput

_CHUNK = 1024 * 1024  # bytes
_SUFFIX = ".refused.csv"


class RefusedRow(msgspec.Struct, frozen=True):
    """A row that was not loaded: its place in the file, counted from 1, its cells, and why."""

    place: int
    cells: list[str]
    refusal: Refusal


def name_refused(path: Path) -> Path:
    """Where the refused rows of a file go."""
    return path.with_name(path.name + _SUFFIX)


class RefusedFile:
    """The file of refused rows, made with the first of them. `size` and `crc` are what progress has to remember."""

    def __init__(self, path: Path, columns: Sequence[str], place_name: str) -> None:
        self.path = path
        self.size = 0
        self.crc = 0
        self._header = [*columns, place_name, "code", "message"]

    def begin(self, stored: Progress | None, known: Sequence[KnownLoad]) -> Progress | None:
        """Takes what is there back to where an unfinished load remembers it, or away; returns from where to go on.

        That is from the beginning where the file is gone. Raises InvalidInput when it isn't what a load has left.
        """
        try:
            if not self.path.exists():
                return None if stored is not None and stored.refused_bytes else stored
            if not any(self._is_left_by(load) for load in known):
                raise InvalidInput(
                    f"{self.path} is there already, and is not as a load of {self.path.name.removesuffix(_SUFFIX)} has "
                    "left it: move it away, or remove it."
                )
            if stored is None or not self._begins_with(stored):
                self.path.unlink()
                return None
            if stored.refused_bytes:
                os.truncate(self.path, stored.refused_bytes)
            else:
                self.path.unlink()
            self.size, self.crc = stored.refused_bytes, stored.refused_crc
        except OSError as error:
            raise InvalidInput(f"{self.path} can't be written: {error.strerror}.") from error
        return stored

    def _is_left_by(self, load: KnownLoad) -> bool:
        """Whether it's what that load wrote; one that was cut off may have written more than it remembered."""
        whole = not load.finished or self.path.stat().st_size == load.progress.refused_bytes
        return whole and self._begins_with(load.progress)

    def _begins_with(self, progress: Progress) -> bool:
        left, crc = progress.refused_bytes, 0
        with self.path.open("rb") as file:
            if not left:
                # Nothing was remembered, but the first rows may have been written.
                head = self._encode([self._header])
                return head.startswith(file.read(len(head)))
            while left and (chunk := file.read(min(left, _CHUNK))):
                left -= len(chunk)
                crc = zlib.crc32(chunk, crc)
        return not left and crc == progress.refused_crc

    def append(self, rows: Sequence[RefusedRow]) -> None:
        """Writes them down, durably. Raises InvalidInput when that can't be."""
        if not rows:
            return
        lines = [[*row.cells, str(row.place), row.refusal.code.value, row.refusal.message] for row in rows]
        text = self._encode(lines if self.size else [self._header, *lines])
        try:
            # "x": what somebody else put there meanwhile is not overwritten.
            with self.path.open("ab" if self.size else "xb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InvalidInput(f"The refused rows can't be written to {self.path}: {error.strerror}.") from error
        self.size += len(text)
        self.crc = zlib.crc32(text, self.crc)

    @staticmethod
    def _encode(rows: Sequence[Sequence[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().encode(errors="replace")
