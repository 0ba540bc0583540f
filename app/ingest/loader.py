"""Loads a CSV file: a column `timestamp`, and a column per metric under its name. The same checks and the same writer
as for readings over HTTP.

Arrives: a file, the machine that it's about, and the time zone of timestamps without an offset. Leaves: what became of
each row. Fails: InvalidInput when the file can't be opened or its first line names no
columns; a row that can't be read is reported with its line, and the rest is loaded.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from app.errors import InvalidInput
from app.ingest.merge import OnConflict
from app.ingest.message import Limits, read_objects
from app.ingest.refusal import MOST_TOLD
from app.ingest.writer import Writer
from app.instants import EPOCH, read_clock

BATCH = MOST_TOLD  # rows of one commit: were it more, not every refused row would be told

_NUMBER = re.compile(r"\A[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_MILLISECONDS = re.compile(r"\A\d{11,14}\Z", re.ASCII)


@dataclass(frozen=True)
class RefusedRow:
    """A row that was not loaded: its line in the file, counted from 1, and why."""

    line: int
    message: str


@dataclass
class LoadSummary:
    """Every row of the file is in exactly one of the four counts."""

    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: list[RefusedRow] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.accepted + self.duplicates + self.conflicts + len(self.rejected)


@dataclass(frozen=True)
class _Row:
    line: int
    reading: dict[str, Any] | None
    problem: str


def read_timezone(name: str) -> tzinfo:
    """The time zone of an IANA name. Raises InvalidInput."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"{name!r} is not a time zone: use an IANA name such as UTC or Europe/Madrid.") from error


def check_csv(path: Path) -> None:
    """Raises InvalidInput when the file can't be opened, or its first line names no columns."""
    with _open_csv(path) as file:
        _read_header(file)


@contextmanager
def _open_csv(path: Path) -> Iterator[TextIO]:
    try:
        # What isn't UTF-8 is replaced: its row then says what is wrong with it.
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            yield file
    except OSError as error:
        raise InvalidInput(f"{path} can't be read: {error.strerror}.") from error


async def load_csv(
    writer: Writer,
    limits: Limits,
    path: Path,
    machine_id: str,
    zone: tzinfo,
    on_progress: Callable[[int, int], None],
) -> LoadSummary:
    """Loads the file in commits of BATCH rows; `on_progress` gets the bytes read so far and those of the file.

    Loading it again is harmless: what is stored already counts as duplicates.
    """
    summary = LoadSummary()
    with _open_csv(path) as file:
        size = os.fstat(file.fileno()).st_size
        batch: list[_Row] = []
        for row in _read_rows(file, machine_id, zone):
            batch.append(row)
            if len(batch) == BATCH:
                await _commit(writer, limits, batch, summary)
                batch.clear()
                on_progress(os.lseek(file.fileno(), 0, os.SEEK_CUR), size)
        await _commit(writer, limits, batch, summary)
        on_progress(size, size)
    summary.rejected.sort(key=lambda row: row.line)
    return summary


async def _commit(writer: Writer, limits: Limits, batch: Sequence[_Row], summary: LoadSummary) -> None:
    summary.rejected.extend(RefusedRow(row.line, row.problem) for row in batch if row.reading is None)
    good = [(row.line, row.reading) for row in batch if row.reading is not None]
    lines = [line for line, _ in good]
    checked = read_objects([reading for _, reading in good], read_clock(), limits)
    result = await writer.commit(checked, OnConflict.KEEP)
    summary.accepted += result.accepted
    summary.duplicates += result.duplicates
    summary.conflicts += result.conflicts
    summary.rejected.extend(RefusedRow(lines[refused.index], refused.message) for refused in result.rejected)


def _read_header(file: TextIO) -> list[str]:
    line = file.readline()
    try:
        header = [name.strip() for name in _split(line)]
    except csv.Error:
        header = []
    metrics = [name for name in header if name != "timestamp"]
    if header.count("timestamp") != 1 or not metrics or len(set(header)) != len(header):
        raise InvalidInput(
            "The first line must name the columns, parted by commas: one is `timestamp`, and every other a metric of "
            f"its own. It says: {line.strip()[:200] or 'nothing'}."
        )
    return header


def _read_rows(file: TextIO, machine_id: str, zone: tzinfo) -> Iterator[_Row]:
    header = _read_header(file)
    # Line by line, so that a quote that is never closed costs its line and not all that follow.
    for number, line in enumerate(file, 2):
        try:
            cells = _split(line)
        except csv.Error as error:
            yield _Row(number, None, f"not CSV: {error}.")
            continue
        if cells:
            yield _read_row(number, header, cells, machine_id, zone)


def _split(line: str) -> list[str]:
    return next(csv.reader([line], strict=True), [])


def _read_row(line: int, header: list[str], cells: list[str], machine_id: str, zone: tzinfo) -> _Row:
    if len(cells) != len(header):
        return _Row(line, None, f"{len(cells)} columns, but the first line names {len(header)}.")
    metrics: dict[str, float] = {}
    timestamp: datetime | None = None
    for name, cell in zip(header, cells, strict=True):
        text = cell.strip()
        try:
            if name == "timestamp":
                timestamp = _read_timestamp(text, zone)
            elif text:
                metrics[name] = _read_number(text)
        except ValueError as error:
            return _Row(line, None, f"{name} is {text[:80]!r}: it must be {error}.")
    return _Row(line, {"machine_id": machine_id, "timestamp": timestamp, "metrics": metrics}, "")


def _read_number(text: str) -> float:
    """The number. Raises ValueError, saying what it must be: Python's float would take more, such as 1_000."""
    if not _NUMBER.match(text):
        raise ValueError("a number, such as 12.5")
    return float(text)


def _read_timestamp(text: str, zone: tzinfo) -> datetime:
    """The instant. Raises ValueError, saying what it must be."""
    if _MILLISECONDS.match(text):
        return EPOCH + timedelta(milliseconds=int(text))
    try:
        # A number of another length would be read as a date by some, as seconds by others.
        instant = None if _NUMBER.match(text) else datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None:
        raise ValueError("an ISO 8601 date and time, or 11 to 14 digits of milliseconds since 1970")
    if instant.tzinfo is not None:
        return instant
    local = instant.replace(tzinfo=zone)
    if local.utcoffset() != local.replace(fold=1).utcoffset():
        raise ValueError("given with its offset, since the clocks of this time zone change then")
    return local
