"""The columns of a series as JSON text: the same bytes as one by one."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.history.text import encode_instants, encode_millis, encode_values, pass_values
from app.instants import format_instant, from_microseconds
from tests.patience import PATIENT

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


@PATIENT
@given(st.lists(st.integers(FIRST, LAST)))
@example([FIRST, LAST, -1, 0, 1, 951_782_400_000_000, 1_769_860_800_000_000, 1_769_860_805_000_100])
def test_instants_are_written_as_each_one_would_be(instants: list[int]) -> None:
    column = np.array(instants, dtype=np.int64)
    assert json.loads(encode_instants(column)) == [format_instant(from_microseconds(each)) for each in instants]
    assert json.loads(encode_millis(column)) == [each // 1000 for each in instants]


@PATIENT
@given(st.lists(st.floats()))
@example([0.1, -0.0, 5e-324, 1.7e308, math.nan])
def test_values_come_back_to_the_last_bit_and_null_is_what_no_number_can_say(values: list[float]) -> None:
    read = json.loads(encode_values(np.array(values, dtype=np.float64)))
    assert read == [value if math.isfinite(value) else None for value in values]


@pytest.mark.parametrize("instant", [FIRST - 1, LAST + 1])
def test_an_instant_without_a_year_of_four_digits_is_refused(instant: int) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        encode_instants(np.array([0, instant], dtype=np.int64))


@pytest.mark.parametrize(
    ("written", "passed"),
    [
        ("1,-2.50,0.0000001,123456789012345", b"[1,-2.50,0.0000001,123456789012345]"),
        (
            "1,1234567890123456",
            None,
        ),  # sixteen digits: beyond 2 ** 53 a reader that knows whole numbers sees another one
        ("0.30000000000000004", None),
        ('1,"2"', None),
        ("null", None),
    ],
)
def test_stored_numbers_are_passed_on_only_where_every_reader_sees_the_same(written: str, passed: bytes | None) -> None:
    assert pass_values(written) == passed
