"""Filling empty buckets and marking gaps between readings: nothing invented, nothing drawn over."""

from __future__ import annotations

import math

import numpy as np
import pytest

from app.history.columns import Fill, Instants, Values, fill_buckets, mark_gaps

NAN = math.nan


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


def test_a_line_between_values_beyond_the_middle_of_double_precision_stays_finite() -> None:
    grid = make_instants(*range(0, 5_000_000_000_000_000, 1_000_000_000_000_000))
    for left, right, middle in ((1.6e308, -1.6e308, 0.0), (1.6e308, 1.6e308, 1.6e308), (-1.6e308, 0, -0.8e308)):
        filled = fill_buckets(grid[[0, 4]], make_values(left, right), grid, Fill.LINEAR)[1]
        assert filled[2] == middle
        assert np.isfinite(filled).all()


def test_a_null_stands_in_a_gap_where_the_next_reading_was_due() -> None:
    instants = make_instants(*range(0, 100, 10), *range(500, 600, 10), 1000)
    marked, values = mark_gaps(instants, np.arange(21, dtype=np.float64))
    assert marked.tolist() == [*range(0, 110, 10), *range(500, 610, 10), 1000]
    assert np.flatnonzero(np.isnan(values)).tolist() == [10, 21]


def test_a_reading_that_is_late_by_no_more_than_three_others_leaves_no_gap() -> None:
    instants = make_instants(0, 10, 20, 30, 70, 80)
    assert mark_gaps(instants, np.zeros(6))[0].tolist() == instants.tolist()
    assert mark_gaps(make_instants(0, 10, 20, 30, 71, 81), np.zeros(6))[0].tolist() == [0, 10, 20, 30, 40, 71, 81]


@pytest.mark.parametrize("instants", [[], [5], [0, 10], [0, 1, 2, 1000], [0, 1, 1000, 1001, 2000, 2001]])
def test_where_nothing_is_usual_there_is_no_gap(instants: list[int]) -> None:
    marked, values = mark_gaps(make_instants(*instants), np.zeros(len(instants)))
    assert (marked.tolist(), values.tolist()) == (instants, [0.0] * len(instants))


def test_a_stretch_of_slower_readings_is_no_gap_and_one_within_it_is() -> None:
    fast, slow = np.arange(600) * 100, 60_000 + np.arange(30) * 1_000
    instants = np.concatenate([fast, slow]).astype(np.int64)
    assert mark_gaps(instants, np.zeros(630))[0].tolist() == instants.tolist()
    marked, _ = mark_gaps(np.delete(instants, range(610, 615)), np.zeros(625))
    assert np.setdiff1d(marked, np.delete(instants, range(610, 615))).tolist() == [70_000]


def test_one_reading_in_the_midst_of_an_outage_has_a_gap_on_both_sides() -> None:
    instants = make_instants(*range(0, 1000, 10), 5000, *range(9000, 10_000, 10))
    marked, _ = mark_gaps(instants, np.zeros(201))
    assert np.setdiff1d(marked, instants).tolist() == [1000, 5010]
