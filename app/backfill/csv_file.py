"""Rows of a CSV file in UTF-8 whose first line names the columns; a place is a line, counted from 1.

Line by line, so that a quote that is never closed costs its line and not all that follow.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

from app.backfill.cells import read_instant, read_number
from app.backfill.layout import LoadOptions, plan_layout, read_timezone
from app.backfill.rows import Given, Position, Refusal, choose_batch_rows, open_failed
from app.errors import InvalidInput
from app.ingest.refusal import RejectionCode
from app.instants import EPOCH

LONGEST_LINE = 1024 * 1024  # bytes
_BOM = b"\xef\xbb\xbf"
_UTF_16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class CsvBatch(msgspec.Struct, frozen=True):
    """Lines, and what they give."""

    width: int
    lines: list[str]
    places: list[int]
    given: list[Given]
    end: Position

    def show_cells(self, index: int) -> list[str]:
        """The row as texts; a line that isn't as many cells as there are columns stands whole in the first."""
        line = self.lines[index]
        try:
            cells = _split(line)
        except csv.Error:
            cells = []
        return cells if len(cells) == self.width else [line, *[""] * (self.width - 1)]


class CsvFile:
    """A CSV file that is open."""

    place_name = "line"

    def __init__(self, path: Path, options: LoadOptions, most_metrics: int) -> None:
        """Raises InvalidInput when it can't be opened or its first line doesn't name the columns that there must be."""
        self.path = path
        self._zone = read_timezone(options.timezone)
        self._machine_id = options.machine_id
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise open_failed(path, error) from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.columns = self._read_header()
            self._layout = plan_layout(self.columns, options, most_metrics)
        except OSError as error:
            raise open_failed(path, error) from error
        self._first = self._file.tell()
        self._latest = ("", EPOCH)

    @property
    def is_long(self) -> bool:
        return self._layout.value is not None

    def close(self) -> None:
        self._file.close()

    def estimate_rows(self, end: Position) -> int:
        """By the bytes for which the rows so far have taken."""
        rows = max(1, end.place - 1)
        done = max(1, end.offset - self._first)
        return rows + round((self._size - end.offset) * rows / done)

    def read(self, start: Position) -> Iterator[CsvBatch]:
        """Batches from there on; lines that are empty are no rows."""
        most = choose_batch_rows(self._layout)
        place, offset = (start.place, start.offset) if start.place else (1, self._first)
        self._file.seek(offset)
        read_line = partial(self._file.readline, LONGEST_LINE + 1)
        while raws := list(islice(iter(read_line, b""), most)):
            if max(map(len, raws)) > LONGEST_LINE:
                raise InvalidInput(
                    f"{self.path} has a line after line {place} of more than {LONGEST_LINE} bytes: not CSV."
                )
            batch = self._read_lines(raws, place)
            place += len(raws)
            offset += sum(map(len, raws))
            yield msgspec.structs.replace(batch, end=Position(place, offset))

    def _read_lines(self, raws: list[bytes], place: int) -> CsvBatch:
        batch = CsvBatch(len(self.columns), [], [], [], Position())
        for number, (line, cells) in enumerate(_split_all(raws), place + 1):
            if cells:
                batch.lines.append(line)
                batch.places.append(number)
                batch.given.append(cells if isinstance(cells, Refusal) else self._read_cells(cells))
        return batch

    def _read_header(self) -> list[str]:
        raw = self._file.readline(LONGEST_LINE)
        if raw.startswith(_UTF_16_BOMS):
            raise InvalidInput(f"{self.path} is in UTF-16: save it in UTF-8.")
        try:
            columns = [name.strip() for name in _split(raw.removeprefix(_BOM).decode().rstrip("\r\n"))]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidInput(f"The first line of {self.path} is not CSV in UTF-8: {error}.") from error
        if len(columns) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns[0]), "")):
            raise InvalidInput(
                f"The first line of {self.path} parts its columns by {mark!r}: part them by commas, and write decimal "
                "points."
            )
        if not columns:
            raise InvalidInput(f"The first line of {self.path} is empty: it must name the columns, parted by commas.")
        return columns

    def _read_cells(self, cells: list[str]) -> Given:
        layout = self._layout
        if len(cells) != len(self.columns):
            message = f"{len(cells)} columns, but the first line names {len(self.columns)}."
            return Refusal(RejectionCode.BAD_READING, message)
        index = layout.timestamp
        code = RejectionCode.BAD_TIMESTAMP
        metrics: dict[str, float] = {}
        try:
            timestamp = self._read_instant(cells[index].strip())
            code = RejectionCode.BAD_METRIC
            if layout.value is not None and layout.metric is not None:
                index = layout.value
                if text := cells[index].strip():
                    metrics[cells[layout.metric].strip()] = read_number(text)
            for index, name in layout.metrics:
                if text := cells[index].strip():
                    metrics[name] = read_number(text)
        except ValueError as error:
            text = cells[index].strip()
            return Refusal(code, f"{self.columns[index]} is {text[:80]!r}: it must be {error}.")
        machine_id = self._machine_id if layout.machine is None else cells[layout.machine].strip()
        return {"machine_id": machine_id, "timestamp": timestamp, "metrics": metrics}

    def _read_instant(self, text: str) -> datetime:
        # Long files say the same instant in row after row.
        if text != self._latest[0]:
            self._latest = (text, read_instant(text, self._zone))
        return self._latest[1]


def _split_all(raws: list[bytes]) -> Iterable[tuple[str, list[str] | Refusal]]:
    """The cells of each line, with its text; of one that is empty, none."""
    try:
        text = b"".join(raws).decode()
        lines = text.removesuffix("\n").split("\n")
        rows = list(csv.reader(lines, strict=True))
        # As many rows as lines: then each line is a row. Otherwise a quote was left open over the end of its line.
        if len(rows) == len(lines) == len(raws):
            return zip(lines, rows, strict=True)
    except (UnicodeDecodeError, csv.Error):
        pass
    return map(_split_raw, raws)


def _split_raw(raw: bytes) -> tuple[str, list[str] | Refusal]:
    line = raw.decode(errors="replace").rstrip("\r\n")
    try:
        raw.decode()
        return line, _split(line)
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.object[error.start]:#04x} can't be read."
    except csv.Error as error:
        message = f"not CSV: {error}."
    return line, Refusal(RejectionCode.BAD_READING, message)


def _split(line: str) -> list[str]:
    return next(csv.reader([line], strict=True), [])
