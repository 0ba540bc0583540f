"""Thinning out for a chart: no extreme and no gap is lost, whatever the series is like."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.history.columns import Instants, Values
from app.history.thinning import thin_out
from tests.patience import PATIENT

NAN = math.nan
DAY = timedelta(days=1) // timedelta(microseconds=1)
START = 1_769_860_800_000_000


@st.composite
def any_series(draw: st.DrawFn) -> tuple[Instants, Values]:
    """Uneven instants over seconds or centuries; values of every size, nulls alone, in runs or not at all."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 3000))
    steps = draw(st.sampled_from([1, 1000, 10_000_000, 80_000_000_000_000]))
    instants = START + np.cumsum(chance.integers(1, steps + 1, size))
    scale = draw(st.sampled_from([0.0, 1.0, 5e-324, 1e300, 1.7e308]))
    values = chance.uniform(-1, 1, size) * scale
    if draw(st.booleans()):
        values = np.round(values)
    for _ in range(draw(st.integers(0, 5))):
        values[chance.integers(size)] = draw(st.floats(allow_nan=False, allow_infinity=False))
    nulls = draw(st.sampled_from([0.0, 0.0, 0.001, 0.1, 0.5, 0.99, 1.0]))
    values[chance.random(size) < nulls] = NAN
    for _ in range(draw(st.integers(0, 4))):
        begin = chance.integers(size)
        values[begin : begin + chance.integers(1, size + 1)] = NAN
    return instants.astype(np.int64), values


@given(any_series(), st.integers(8, 500))
@settings(PATIENT, max_examples=400)
def test_whatever_the_series_no_extreme_and_no_gap_is_lost(series: tuple[Instants, Values], points: int) -> None:
    instants, values = series
    kept, thinned = thin_out(instants, values, points)
    assert len(kept) == len(thinned) <= points
    # They are points of the series, in its order, and the ends are among them.
    assert np.all(np.diff(kept) > 0)
    places = np.searchsorted(instants, kept)
    np.testing.assert_array_equal(instants[places], kept)
    np.testing.assert_array_equal(values[places], thinned)
    assert (places[0], places[-1]) == (0, len(instants) - 1)
    known = values[~np.isnan(values)]
    if len(known):
        assert (np.nanmin(thinned), np.nanmax(thinned)) == (known.min(), known.max())
    # A line goes from one value to the next: never over a null.
    nulls_before = np.cumsum(np.isnan(values))
    for left, right in pairwise(places.tolist()):
        if not math.isnan(values[left]) and not math.isnan(values[right]):
            assert nulls_before[left] == nulls_before[right]


def test_nearly_all_the_points_that_are_asked_for_are_given() -> None:
    instants = np.arange(10_000, dtype=np.int64)
    for points in (8, 99, 100, 1000):
        assert points - 2 <= len(thin_out(instants, np.sin(instants * 1.0), points)[0]) <= points


def test_of_many_spikes_most_are_seen() -> None:
    instants = np.arange(100_000, dtype=np.int64)
    values = np.sin(instants / 9000) * 10
    spikes = np.random.default_rng(1).choice(len(instants), 150, replace=False)
    values[spikes] += 3
    kept, _ = thin_out(instants, values, 500)
    assert len(np.intersect1d(kept, spikes)) >= 110


def test_one_spike_among_a_hundred_thousand_points_is_seen() -> None:
    values = np.zeros(100_000)
    values[77_777] = 9.0
    kept, thinned = thin_out(np.arange(100_000, dtype=np.int64), values, 100)
    assert len(kept) <= 100
    assert [pair for pair in zip(kept.tolist(), thinned.tolist(), strict=True) if pair[1] != 0] == [(77_777, 9.0)]


def test_a_gap_begins_and_ends_where_it_did() -> None:
    values = np.ones(9000)
    values[3000:6000] = NAN
    kept, thinned = thin_out(np.arange(9000, dtype=np.int64), values, 100)
    (null,) = np.flatnonzero(np.isnan(thinned))
    assert kept[null - 1 : null + 2].tolist() == [2999, 3000, 6000]


def test_where_gaps_are_more_than_points_no_span_of_time_is_left_out() -> None:
    values = np.arange(30_000, dtype=np.float64) % 7
    values[::3] = NAN
    values[20_000] = 99.0
    kept, thinned = thin_out(np.arange(30_000, dtype=np.int64), values, 100)
    assert len(kept) <= 100
    assert np.nanmax(thinned) == 99.0
    assert int(np.diff(kept[~np.isnan(thinned)]).max()) <= 2 * (30_000 // 24 + 1)


def test_of_nulls_alone_the_ends_are_left() -> None:
    kept, thinned = thin_out(np.arange(1000, dtype=np.int64), np.full(1000, NAN), 20)
    assert kept.tolist() == [0, 999]
    assert np.isnan(thinned).all()


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_what_fits_is_left_alone(size: int) -> None:
    instants, values = np.arange(size, dtype=np.int64), np.arange(size, dtype=np.float64)
    kept, thinned = thin_out(instants, values, 8)
    assert (kept.tolist(), thinned.tolist()) == (instants.tolist(), values.tolist())


@pytest.mark.parametrize("years", [10, 8000])
@pytest.mark.parametrize("gaps", [False, True])
def test_ranges_of_years_keep_their_extremes_at_the_finest_resolution(years: int, gaps: bool) -> None:
    size = 200_000
    instants = np.linspace(0, years * 365 * DAY, size).astype(np.int64)
    values = np.tile([0.5, -0.5, NAN if gaps else 0.0], size)[:size]
    values[[60_000, 123_456]] = [8, -9]
    kept, thinned = thin_out(instants, values, 100_000)
    assert len(kept) <= 100_000
    assert (kept[0], kept[-1]) == (0, years * 365 * DAY)
    assert kept[np.abs(thinned) > 1].tolist() == instants[[60_000, 123_456]].tolist()


def test_too_few_points_show_nothing() -> None:
    with pytest.raises(ValueError, match=r"\Afewer than 8 points show nothing\Z"):
        thin_out(np.array([1], dtype=np.int64), np.array([1.0]), 7)
