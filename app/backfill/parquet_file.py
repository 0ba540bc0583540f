"""Rows of a Parquet file; a place is a row, counted from 1.

Read page by page, so that a row group may be larger than memory. Only what loads Parquet imports this: pyarrow takes
half a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from app.backfill.cells import read_instant, read_microseconds
from app.backfill.layout import Layout, LoadOptions, plan_layout, read_timezone
from app.backfill.rows import Given, Position, Refusal, choose_batch_rows, open_failed
from app.errors import InvalidInput
from app.ingest.refusal import RejectionCode

_BUFFER = 1024 * 1024  # bytes that are read at a time, of each column
_UNITS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}


class ParquetBatch(msgspec.Struct, frozen=True):
    """Rows, and what they give."""

    cells: list[Any]  # arrays, one per column
    places: range
    given: list[Given]
    end: Position

    def show_cells(self, index: int) -> list[str]:
        """The row as texts."""
        return [_show(column[index]) for column in self.cells]


class ParquetFile:
    """A Parquet file that is open. `columns` are those that are read."""

    place_name = "row"

    def __init__(self, path: Path, options: LoadOptions, most_metrics: int) -> None:
        """Raises InvalidInput when it can't be opened, is damaged, or hasn't the columns that there must be."""
        self.path = path
        self._zone = read_timezone(options.timezone)
        self._machine_id = options.machine_id
        try:
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} is not a whole Parquet file: {_describe(error)}.") from error
        except OSError as error:
            raise open_failed(path, error) from error
        schema = self._file.schema_arrow
        layout = plan_layout(schema.names, options, most_metrics)
        self.columns = [schema.names[index] for index in layout.used]
        self._layout = _move_indexes(layout)
        self._types = [schema.types[index] for index in layout.used]
        self._check_types()

    @property
    def is_long(self) -> bool:
        return self._layout.value is not None

    def close(self) -> None:
        self._file.close()

    def estimate_rows(self, _: Position) -> int:
        """Exactly as many as the file says."""
        rows: int = self._file.metadata.num_rows
        return rows

    def read(self, start: Position) -> Iterator[ParquetBatch]:
        """Batches from there on."""
        groups, skip = self._find_groups(start.offset)
        place = start.place
        try:
            for found in self._file.iter_batches(
                batch_size=choose_batch_rows(self._layout),
                row_groups=groups,
                columns=self.columns,
                use_threads=False,
            ):
                if skip >= found.num_rows:
                    skip -= found.num_rows
                    continue
                rows, skip = found.slice(skip), 0
                cells = [rows.column(name) for name in self.columns]
                given = self._read_columns(cells)
                places = range(place + 1, place + 1 + len(given))
                place += len(given)
                yield ParquetBatch(cells, places, given, Position(place, place))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{self.path} is damaged after row {place}: {_describe(error)}.") from error

    def _find_groups(self, done: int) -> tuple[list[int], int]:
        """The row groups that hold what follows the rows that are done, and how many of the first one's are done."""
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if done < rows:
                return list(range(group, metadata.num_row_groups)), done
            done -= rows
        return [], 0

    def _check_types(self) -> None:
        layout = self._layout
        self._require(
            layout.timestamp, _is_instant, "a timestamp: TIMESTAMP, DATE, text, or INT of milliseconds since 1970"
        )
        for index in (layout.machine, layout.metric):
            if index is not None:
                self._require(index, _is_name, "a name: text or a whole number")
        numbers = [layout.value] if layout.value is not None else [index for index, _ in layout.metrics]
        for index in numbers:
            self._require(index, _is_number, "a metric: a number or a boolean")

    def _require(self, index: int, fits: Any, what: str) -> None:
        if not fits(self._types[index]):
            name = self.columns[index]
            raise InvalidInput(
                f"The column {name!r} is of type {self._types[index]}, and can't be {what}. A column is ignored by "
                f"--columns {name}=."
            )

    def _read_columns(self, cells: Sequence[Any]) -> list[Given]:
        layout = self._layout
        instants = _read_instants(
            cells[layout.timestamp], self._types[layout.timestamp], self._zone, self.columns[layout.timestamp]
        )
        count = len(instants)
        machines = [self._machine_id] * count if layout.machine is None else _read_names(cells[layout.machine])
        metrics: list[dict[Any, float]]
        if layout.metric is not None and layout.value is not None:
            pairs = zip(_read_names(cells[layout.metric]), _read_numbers(cells[layout.value]), strict=True)
            metrics = [{} if value is None else {name: value} for name, value in pairs]
        else:
            names = [name for _, name in layout.metrics]
            columns = [_read_numbers(cells[index]) for index, _ in layout.metrics]
            metrics = [
                {name: value for name, value in zip(names, row, strict=True) if value is not None}
                for row in zip(*columns, strict=True)
            ]
        return [
            instant
            if isinstance(instant, Refusal)
            else {"machine_id": machine, "timestamp": instant, "metrics": values}
            for machine, instant, values in zip(machines, instants, metrics, strict=True)
        ]


def _move_indexes(layout: Layout) -> Layout:
    """The layout of the columns that are read, without the others."""
    moved: dict[int | None, int] = {old: new for new, old in enumerate(layout.used)}
    return Layout(
        moved[layout.timestamp],
        moved.get(layout.machine),
        tuple((moved[index], name) for index, name in layout.metrics),
        moved.get(layout.metric),
        moved.get(layout.value),
    )


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_name(kind: Any) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _is_instant(kind: Any) -> bool:
    return _is_name(kind) or bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_number(kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def _read_names(column: Any) -> list[str | None]:
    names: list[str | None] = column.cast(pa.string()).to_pylist()
    return names


def _read_numbers(column: Any) -> list[float | None]:
    """In double precision: the nearest one; true is 1, false is 0."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_float64(column.type):
        return values
    return [None if value is None else float(value) for value in values]


def _read_instants(column: Any, kind: Any, zone: tzinfo, name: str) -> list[Any]:
    """An aware datetime for each row, or a Refusal."""
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        times, parts = _UNITS[kind.unit]
        clock = zone if kind.tz is None else None
        values = column.cast(pa.int64()).to_pylist()

        def read(value: Any) -> Any:
            # What is finer than a microsecond is cut off.
            return read_microseconds(value * times // parts, clock)

    else:
        values = _read_names(column)

        def read(value: Any) -> Any:
            return read_instant(value.strip(), zone)

    instants: list[Any] = []
    for place, value in enumerate(values):
        try:
            instants.append(_MISSING if value is None else read(value))
        except ValueError as error:
            message = f"{name} is {_show(column[place])[:80]!r}: it must be {error}."
            instants.append(Refusal(RejectionCode.BAD_TIMESTAMP, message))
    return instants


_MISSING = Refusal(RejectionCode.MISSING_FIELD, "the reading lacks timestamp.")


def _show(cell: Any) -> str:
    if not cell.is_valid:
        return ""
    text: str = cell.cast(pa.string()).as_py()
    return text


def _describe(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]
