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
    empty = np.isnan(values)
    spans = (points - 2) // (3 if empty.any() else 2)
    # One microsecond more than the range divided by `spans`: a product of both wouldn't fit an int64 over ten years.
    width = int(instants[-1] - instants[0]) // spans + 1
    span = (instants - instants[0]) // width
    ends = np.array([0, len(instants) - 1])
    kept = np.unique(np.concatenate([ends, _first_of_each(span, empty), *_extremes_of_each(span, values, ~empty)]))
    return instants[kept], values[kept]


def _first_of_each(span: Instants, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The place of the first chosen point of each span."""
    places = np.flatnonzero(chosen)
    return places[np.unique(span[places], return_index=True)[1]]


def _extremes_of_each(
    span: Instants, values: Values, chosen: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The places of the least and of the greatest chosen point of each span."""
    places = np.flatnonzero(chosen)
    places = places[np.lexsort((values[places], span[places]))]
    starts = np.unique(span[places], return_index=True)[1]
    return places[starts], places[np.append(starts[1:], len(places)) - 1] if len(places) else places
