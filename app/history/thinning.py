"""Thinning a series out for a chart: which of its points are drawn when it has more than there is room for. Pure.

Instants and values are as `columns` has them.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tsdownsample import MinMaxLTTBDownsampler

from app.history.columns import Instants, Values

Places: TypeAlias = npt.NDArray[np.int64]

LEAST_POINTS = 8

_DOWNSAMPLER = MinMaxLTTBDownsampler()  # type: ignore[no-untyped-call]  # its constructor has no annotations


def thin_out(instants: Instants, values: Values, points: int) -> tuple[Instants, Values]:
    """At most `points` of the given points, as they are and in their order.

    Among them are always the first and the last point, and the least and the greatest value. Between two values with
    nulls between them there is a null, so that no line is drawn over a gap.

    What lies between is chosen by MinMaxLTTB, which keeps the shape (https://arxiv.org/abs/2305.00332), and every
    stretch between two gaps keeps its first and its last value. Where gaps are so many that these alone take more than
    half of the points, the range is cut into equal spans of time instead, and each shows its least and its greatest
    value. Raises ValueError for fewer than 8 points.
    """
    if points < LEAST_POINTS:
        raise ValueError(f"fewer than {LEAST_POINTS} points show nothing")
    if len(instants) <= points:
        return instants, values
    empty = np.isnan(values)
    known = np.flatnonzero(~empty)
    kept = _find_landmarks(values, known)
    if len(kept) > points // 2:
        kept = _choose_by_spans(instants, values, empty, known, points)
    elif len(known):
        # The first and the last value are landmarks, and MinMaxLTTB counts them too.
        room = points - len(kept) + 2
        chosen = _DOWNSAMPLER.downsample(instants[known] - instants[known[0]], values[known], n_out=room)
        kept = np.union1d(kept, known[chosen])
    return instants[kept], values[kept]


def _find_landmarks(values: Values, known: Places) -> Places:
    """The ends, the extremes, the first null of each gap, and the values on both sides of it."""
    ends = np.array([0, len(values) - 1])
    if len(known) == 0:
        return ends
    gaps = np.flatnonzero(np.diff(known) > 1)
    beside = np.concatenate([known[gaps], known[gaps] + 1, known[gaps + 1], known[[0, -1]]])
    extremes = known[[np.argmin(values[known]), np.argmax(values[known])]]
    return np.unique(np.concatenate([ends, beside, extremes]))


def _choose_by_spans(
    instants: Instants, values: Values, empty: npt.NDArray[np.bool_], known: Places, points: int
) -> Places:
    # Two values and a null behind each; the ends take three at most.
    spans = (points - 3) // 4
    # One microsecond more than the range divided by `spans`: a product of both wouldn't fit an int64 over ten years.
    width = int(instants[-1] - instants[0]) // spans + 1
    span = ((instants - instants[0]) // width)[known]
    ordered = np.lexsort((values[known], span))
    starts = np.flatnonzero(np.diff(span, prepend=-1))
    lasts = np.append(starts[1:], len(known)) - 1
    ends = np.array([0, len(instants) - 1])
    kept = np.unique(np.concatenate([known[ordered[starts]], known[ordered[lasts]], ends]))
    return np.union1d(kept, _find_separators(empty, kept))


def _find_separators(empty: npt.NDArray[np.bool_], kept: Places) -> Places:
    """The first null between two values that follow each other in `kept`, wherever there is one."""
    nulls = np.flatnonzero(empty)
    shown = kept[~empty[kept]]
    following = np.searchsorted(nulls, shown[:-1])
    parted = following < np.searchsorted(nulls, shown[1:])
    return nulls[following[parted]]
