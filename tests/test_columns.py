"""Filling empty buckets and thinning out for a chart: nothing invented, no spike and no gap lost."""

from __future__ import annotations

import math
import random
from datetime import timedelta

import numpy as np
import pytest

from app.history.columns import Fill, Instants, Values, fill_buckets, thin_out

NAN = math.nan
DAY = timedelta(days=1) // timedelta(microseconds=1)


def make_instants(*instants: int) -> Instants:
    return np.array(instants, dtype=np.int64)


def make_values(*values: float) -> Values:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        (Fill.NULL, [NAN, 1.0, NAN, NAN, 4.0, NAN]),
        (Fill.LOCF, [NAN, 1.0, 1.0, 1.0, 4.0, 4.0]),
        (Fill.LINEAR, [NAN, 1.0, 2.0, 3.0, 4.0, NAN]),
    ],
)
def test_empty_buckets_are_filled_and_nothing_is_invented_before_the_first(fill: Fill, expected: list[float]) -> None:
    grid = make_instants(0, 10, 20, 30, 40, 50)
    instants, values = fill_buckets(make_instants(10, 40), make_values(1, 4), grid, fill)
    np.testing.assert_array_equal(instants, grid)
    np.testing.assert_array_equal(values, expected)


def test_without_filling_the_buckets_stay_as_they_were() -> None:
    instants, values = fill_buckets(make_instants(10, 40), make_values(1, 4), make_instants(), Fill.NONE)
    assert (instants.tolist(), values.tolist()) == ([10, 40], [1.0, 4.0])


@pytest.mark.parametrize("fill", [Fill.NULL, Fill.LOCF, Fill.LINEAR])
def test_where_nothing_was_measured_every_bucket_is_null(fill: Fill) -> None:
    grid = make_instants(0, 10, 20)
    for instants, values in ((make_instants(), make_values()), (make_instants(0, 20), make_values(NAN, NAN))):
        filled = fill_buckets(instants, values, grid, fill)
        np.testing.assert_array_equal(filled[0], grid)
        np.testing.assert_array_equal(filled[1], [NAN, NAN, NAN])


def test_a_bucket_without_a_value_is_filled_like_an_empty_one() -> None:
    # STDDEV of one value is null.
    grid = make_instants(0, 10, 20)
    for fill, expected in ((Fill.LOCF, [1.0, 1.0, 3.0]), (Fill.LINEAR, [1.0, 2.0, 3.0])):
        np.testing.assert_array_equal(fill_buckets(grid, make_values(1, NAN, 3), grid, fill)[1], expected)


def test_a_full_grid_needs_no_filling() -> None:
    grid = make_instants(0, 10, 20)
    for fill in Fill:
        np.testing.assert_array_equal(fill_buckets(grid, make_values(3, 1, 2), grid, fill)[1], [3.0, 1.0, 2.0])


def test_lines_are_exact_at_the_microseconds_of_today() -> None:
    start = 1_769_860_800_000_000
    grid = make_instants(*range(start, start + 5))
    filled = fill_buckets(grid[[0, 4]], make_values(0, 4), grid, Fill.LINEAR)[1]
    assert filled.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def make_series(seed: int) -> tuple[Instants, Values]:
    """A noisy series at uneven instants, with spikes of a single point and stretches of nulls."""
    chance = random.Random(seed)
    size = chance.randint(200, 5000)
    instants = np.cumsum([chance.choice([1, 1000, 10_000_000]) for _ in range(size)], dtype=np.int64)
    values = np.array([chance.gauss(0, 1) for _ in range(size)])
    for _ in range(5):
        values[chance.randrange(size)] = chance.choice([-1, 1]) * chance.uniform(100, 1000)
    for _ in range(chance.randint(0, 4)):
        start = chance.randrange(size)
        values[start : start + chance.randint(1, size // 5)] = NAN
    return instants + 1_769_860_800_000_000, values


def find_span(instants: Instants, points: int, each: int) -> list[int]:
    """The stretch of time of each point, in Python's integers; a third point of each is for a null, if there is any."""
    spans = (points - 2) // each
    first, last = int(instants[0]), int(instants[-1])
    return [(int(instant) - first) // ((last - first) // spans + 1) for instant in instants]


@pytest.mark.parametrize("points", [8, 9, 50, 199])
@pytest.mark.parametrize("seed", range(8))
def test_thinning_out_keeps_ends_and_extremes_and_gaps(seed: int, points: int) -> None:
    instants, values = make_series(seed)
    kept, thinned = thin_out(instants, values, points)
    assert 2 < len(kept) == len(thinned) <= points
    assert (kept[0], kept[-1]) == (instants[0], instants[-1])
    assert np.all(np.diff(kept) > 0)
    places = np.searchsorted(instants, kept)
    np.testing.assert_array_equal(instants[places], kept)
    np.testing.assert_array_equal(values[places], thinned)
    if not np.isnan(values).all():
        assert (np.nanmin(thinned), np.nanmax(thinned)) == (np.nanmin(values), np.nanmax(values))
    before: dict[int, list[float]] = {}
    after: dict[int, list[float]] = {}
    each = 3 if np.isnan(values).any() else 2
    spans = find_span(instants, points, each)
    for span, value in zip(spans, values.tolist(), strict=True):
        before.setdefault(span, []).append(value)
    for place in places.tolist():
        after.setdefault(spans[place], []).append(values[place].item())
    assert before.keys() == after.keys()
    assert max(before) < (points - 2) // each
    for span, stretch in before.items():
        known = [value for value in stretch if not math.isnan(value)]
        shown = [value for value in after[span] if not math.isnan(value)]
        assert (min(shown, default=None), max(shown, default=None)) == (
            min(known, default=None),
            max(known, default=None),
        )
        assert any(map(math.isnan, stretch)) == any(map(math.isnan, after[span]))


def test_nearly_all_the_points_that_are_asked_for_are_given() -> None:
    instants = np.arange(10_000, dtype=np.int64)
    for points in (8, 99, 100, 1000):
        assert points * 0.9 - 2 <= len(thin_out(instants, np.sin(instants * 1.0), points)[0]) <= points


def test_one_spike_among_a_hundred_thousand_points_is_seen() -> None:
    values = np.zeros(100_000)
    values[77_777] = 9.0
    kept, thinned = thin_out(np.arange(100_000, dtype=np.int64), values, 100)
    assert len(kept) <= 100
    assert [pair for pair in zip(kept.tolist(), thinned.tolist(), strict=True) if pair[1] != 0] == [(77_777, 9.0)]


def test_a_gap_that_is_longer_than_a_stretch_has_no_value_in_it() -> None:
    values = np.ones(9000)
    values[3000:6000] = NAN
    kept, thinned = thin_out(np.arange(9000, dtype=np.int64), values, 100)
    inside = (kept >= 3000) & (kept < 6000)
    assert np.isnan(thinned[inside]).all()
    assert int(inside.sum()) >= 10
    assert not np.isnan(thinned[~inside]).any()


def test_nulls_alone_are_thinned_out_to_nulls() -> None:
    kept, thinned = thin_out(np.arange(1000, dtype=np.int64), np.full(1000, NAN), 20)
    # One of each of the 6 stretches, and the last point.
    assert kept.tolist() == [0, 167, 334, 501, 668, 835, 999]
    assert np.isnan(thinned).all()


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_what_fits_is_left_alone(size: int) -> None:
    instants, values = np.arange(size, dtype=np.int64), np.arange(size, dtype=np.float64)
    kept, thinned = thin_out(instants, values, 8)
    assert (kept.tolist(), thinned.tolist()) == (instants.tolist(), values.tolist())


def test_points_at_one_instant_are_one_stretch() -> None:
    values = make_values(5, 5, 1, 5, 5, 9, 5, 5, NAN, 5)
    kept, thinned = thin_out(np.full(10, 1_769_860_800_000_000, dtype=np.int64), values, 8)
    assert set(kept.tolist()) == {1_769_860_800_000_000}
    np.testing.assert_array_equal(thinned, [5, 1, 9, NAN, 5])


def test_more_stretches_than_microseconds_do_no_harm() -> None:
    values = np.arange(30, dtype=np.float64)
    kept, thinned = thin_out(np.sort(np.arange(30, dtype=np.int64) % 3), values, 20)
    assert kept.tolist() == [0, 0, 1, 1, 2, 2]
    assert thinned.tolist() == [0, 9, 10, 19, 20, 29]


@pytest.mark.parametrize("years", [10, 8000])
def test_ranges_of_years_keep_their_extremes_at_the_finest_resolution(years: int) -> None:
    size = 200_000
    instants = np.linspace(0, years * 365 * DAY, size).astype(np.int64)
    values = np.tile([0.5, -0.5, NAN], size)[:size]  # so that every stretch gives all three of its points
    spikes = [5, 60_000, 123_456, 199_990]
    values[spikes] = [-7, 8, -9, 10]
    kept, thinned = thin_out(instants, values, 100_000)
    assert 99_990 <= len(kept) <= 100_000
    assert np.all(np.diff(kept) > 0)
    assert (kept[0], kept[-1]) == (0, years * 365 * DAY)
    assert kept[np.abs(thinned) > 1].tolist() == instants[spikes].tolist()
    # No stretch is left out: between two that follow each other there's less than twice a stretch.
    assert int(np.diff(kept).max()) <= 2 * (years * 365 * DAY // 33_332 + 1)


def test_the_whole_of_time_is_no_overflow() -> None:
    instants = np.linspace(-62_000_000_000_000_000, 253_000_000_000_000_000, 1000).astype(np.int64)
    kept, _ = thin_out(instants, np.arange(1000, dtype=np.float64), 500)
    assert 330 <= len(kept) <= 500
    assert np.all(np.diff(kept) > 0)


def test_too_few_points_show_nothing() -> None:
    with pytest.raises(ValueError, match=r"\Afewer than 8 points show nothing\Z"):
        thin_out(make_instants(1), make_values(1), 7)
