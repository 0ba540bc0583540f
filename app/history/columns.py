"""Arithmetic on columns of instants and values: filling empty buckets, thinning out for a chart. Pure.

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


def fill_buckets(instants: Instants, values: Values, grid: Instants, fill: Fill) -> tuple[Instants, Values]:
    """Lays buckets onto `grid`, which holds every one of `instants`, and fills those that were empty.

    LOCF leaves null what lies before the first value, LINEAR what lies outside the first and the last: nothing is
    invented beyond what was measured.
    """
    if fill is Fill.NONE:
        return instants, values
    filled = np.full(len(grid), np.nan)
    filled[np.searchsorted(grid, instants)] = values
    known = np.flatnonzero(~np.isnan(filled))
    if len(known) == 0 or fill is Fill.NULL:
        return grid, filled
    if fill is Fill.LINEAR:
        return grid, np.interp(grid, grid[known], filled[known], left=np.nan, right=np.nan)
    latest = np.searchsorted(known, np.arange(len(grid)), side="right") - 1
    return grid, np.where(latest >= 0, filled[known[np.maximum(latest, 0)]], np.nan)


def thin_out(instants: Instants, values: Values, points: int) -> tuple[Instants, Values]:
    """At most `points` of the given points, among them the first, the last, and the extremes of each stretch of time.

    The range is cut into equal spans of time; each gives its minimum, its maximum and, where it has one, a null, so
    that an empty stretch stays empty. Raises ValueError for fewer than 8 points.
    """
    if points < 8:
        raise ValueError("fewer than 8 points show nothing")
    if len(instants) <= points:
        return instants, values
    spans = (points - 2) // 3
    # One microsecond more than the range divided by `spans`: a product of both wouldn't fit an int64 over ten years.
    width = int(instants[-1] - instants[0]) // spans + 1
    span = (instants - instants[0]) // width
    starts = np.flatnonzero(np.diff(span, prepend=-1))
    chosen = {0, len(instants) - 1}
    for start, end in zip(starts, [*starts[1:], len(instants)], strict=True):
        stretch = values[start:end]
        empty = np.isnan(stretch)
        if empty.any():
            chosen.add(int(start + np.argmax(empty)))
        if not empty.all():
            chosen.update((int(start + np.nanargmin(stretch)), int(start + np.nanargmax(stretch))))
    kept = np.array(sorted(chosen))
    return instants[kept], values[kept]
