"""What a table says to become a hypertable: `hypertable = Hypertable("timestamp", timedelta(days=1))` in its body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from piccolo.table import Table


@dataclass(frozen=True)
class Hypertable:
    """A table cut into chunks by time.

    `time_column` is a timestamptz column that is part of every unique key of the table; `chunk_interval` is the span
    of one chunk: long enough that a chunk isn't trivially small, short enough that the newest one fits in memory.
    """

    time_column: str
    chunk_interval: timedelta

    def __post_init__(self) -> None:
        if self.chunk_interval < timedelta(minutes=1):
            raise ValueError(f"a chunk interval of {self.chunk_interval} makes far too many chunks: use hours or days")


def find_hypertables(tables: Iterable[type[Table]]) -> dict[str, Hypertable]:
    """The declarations by table name, for the tables that have one."""
    return {
        table._meta.tablename: declared  # noqa: SLF001 - Piccolo's documented way to a table's name
        for table in tables
        if isinstance(declared := getattr(table, "hypertable", None), Hypertable)
    }
