"""Arithmetic on columns of instants and values: filling empty buckets, marking gaps between readings. Pure.

Instants are int64 microseconds since 1970, ascending; values are float64, NaN where there is none; both have the same
length.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Instants: TypeAlias = npt.NDArray[np.int64]
Values: TypeAlias = npt.NDArray[np.float64]


class Fill(Enum):
    """What an empty bucket shows: nothing, null, the last value, or a line between its neighbours."""

    NONE = "NONE"
    NULL = "NULL"
    LOCF = "LOCF"
    LINEAR = "LINEAR"


GAP_INTERVALS = 4  # a reading that is late by fewer is jitter, or some that were lost
_LEAST_INTERVALS = 4  # from which one can say what is usual


def mark_gaps(instants: Instants, values: Values) -> tuple[Instants, Values]:
    """Puts a null into each gap between readings, at the instant when the next one was due."""
    before, due = find_gaps(instants)
    return np.insert(instants, before + 1, due), np.insert(values, before + 1, np.nan)


def find_gaps(instants: Instants) -> tuple[npt.NDArray[np.int64], Instants]:
    """Behind which places there is a gap, and when the next reading was due in each.

    A gap is an interval longer than 4 times what is usual: the 0.9 quantile of the intervals between the readings given
    (nearest rank, never the longest), as liveness has it, and no less than the second longest of the four intervals around
    it, so that a stretch of slower readings is none. With fewer than 4 intervals nothing is usual.
    """
    intervals = np.diff(instants)
    if len(intervals) < _LEAST_INTERVALS:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    rank = min(-(-9 * len(intervals) // 10), len(intervals) - 1)
    usual = np.partition(intervals, rank - 1)[rank - 1]
    long = np.flatnonzero(intervals > GAP_INTERVALS * usual)
    around = np.pad(intervals, 2)[long + np.array([[0], [1], [3], [4]])]
    due = np.maximum(usual, np.partition(around, 2, axis=0)[2])
    gaps = intervals[long] > GAP_INTERVALS * due
    before = long[gaps]
    return before, instants[before] + due[gaps]


def fill_buckets(instants: Instants, values: Values, grid: Instants, fill: Fill) -> tuple[Instants, Values]:
    """Lays buckets onto `grid`, which holds every one of `instants`, and fills those that were empty.

    LOCF leaves null what lies before the first value, LINEAR what lies outside the first and the last: nothing is
    invented beyond what was measured. Both are what TimescaleDB's locf (nulls taken as missing) and interpolate give
    with time_bucket_gapfill, to the last bit.
    """
    if fill is Fill.NONE:
        return instants, values
    filled = np.full(len(grid), np.nan)
    filled[np.searchsorted(grid, instants)] = values
    known = np.flatnonzero(~np.isnan(filled))
    if len(known) == 0 or fill is Fill.NULL:
        return grid, filled
    if fill is Fill.LINEAR:
        return grid, _draw_lines(grid, filled, known)
    latest = np.searchsorted(known, np.arange(len(grid)), side="right") - 1
    return grid, np.where(latest >= 0, filled[known[np.maximum(latest, 0)]], np.nan)


def _draw_lines(grid: Instants, filled: Values, known: npt.NDArray[np.int64]) -> Values:
    """The line between the values at `known`, at every place of the grid from the first of them to the last."""
    drawn = filled.copy()
    between = np.flatnonzero(np.isnan(filled[known[0] : known[-1]])) + known[0]
    following = np.searchsorted(known, between)
    left, right = known[following - 1], known[following]
    done, left_over = grid[between] - grid[left], grid[right] - grid[between]
    span = grid[right] - grid[left]
    with np.errstate(over="ignore", invalid="ignore"):
        drawn[between] = (filled[left] * left_over + filled[right] * done) / span
    # The products of values beyond 1e290 don't fit a double, those of their shares do.
    beyond = ~np.isfinite(drawn[between])
    shares = filled[left] * (left_over / span) + filled[right] * (done / span)
    drawn[between[beyond]] = shares[beyond]
    return drawn
