"""What a file gives, whatever its format: rows in batches, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from app.backfill.layout import Layout
from app.errors import InvalidInput
from app.ingest.refusal import RejectionCode

MOST_ROWS, FEWEST_ROWS = 5_000, 500  # of one batch
MOST_VALUES = 50_000  # of one batch, before FEWEST_ROWS


class Refusal(msgspec.Struct, frozen=True):
    """Why a row is no reading."""

    code: RejectionCode
    message: str


# A reading with machine_id, timestamp and metrics, for the checks that every reading goes through.
Given: TypeAlias = dict[str, Any] | Refusal


class Position(msgspec.Struct, frozen=True):
    """Where reading goes on: the place of the last row that was read, and where in the file the next one begins."""

    place: int = 0
    offset: int = 0


class Batch(Protocol):
    """Rows that follow each other. `end` is the position behind them."""

    @property
    def places(self) -> Sequence[int]: ...

    @property
    def given(self) -> Sequence[Given]: ...

    @property
    def end(self) -> Position: ...

    def show_cells(self, index: int) -> list[str]:
        """The row as texts, one for each of the source's columns."""


class Source(Protocol):
    """A file that is open, at an absolute path. `place_name` says what its places count; `columns` are those of the refused rows."""

    path: Path
    place_name: str
    columns: list[str]

    @property
    def is_long(self) -> bool: ...

    def read(self, start: Position) -> Iterator[Batch]:
        """Batches from there on. Raises InvalidInput where the file is damaged."""

    def estimate_rows(self, end: Position) -> int:
        """How many rows there are, about, as far as that can be told from what was read up to `end`."""

    def close(self) -> None: ...


def choose_batch_rows(layout: Layout) -> int:
    """Fewer rows where they have many metrics, so that a batch takes about the same memory."""
    return max(FEWEST_ROWS, min(MOST_ROWS, MOST_VALUES // max(1, len(layout.metrics))))


def open_failed(path: Path, error: OSError) -> InvalidInput:
    """What to say of a file that the operating system doesn't give."""
    return InvalidInput(f"{path} can't be read: {error.strerror or error}.")
