"""How numbers are shown."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.report.kit import formats


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.score(0.82249), "0.822"),
        (formats.interval(0.8, 0.75, 0.85), "0.800 [0.750, 0.850]"),
        (formats.interval(0.8, None, 0.85), "0.800"),
        (formats.spread(0.0063, 3), "0.006 (3)"),
        (formats.spread(None, 1), formats.MISSING),
        (formats.signed(0.0234), "+0.023"),
        (formats.signed(-0.0234), "\N{MINUS SIGN}0.023"),
        (formats.p_value(0.0002), "< 0.001"),
        (formats.count(1234567), "1,234,567"),
        (formats.percent(0.669), "66.9 %"),
        (formats.duration(12.4), "12 s"),
        (formats.duration(200), "3 min 20 s"),
        (formats.duration(3900), "1 h 5 min"),
    ],
)
def test_numbers_are_shown_as_a_person_writes_them(shown, expected):
    assert shown == expected


@pytest.mark.parametrize("show", [formats.score, formats.signed, formats.p_value, formats.count, formats.percent])
@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_number_is_a_dash(show, missing):
    assert show(missing) == formats.MISSING


@given(st.floats(0, 1e7))
def test_a_duration_is_right_to_the_last_unit_it_shows(seconds):
    units = {"h": 3600, "min": 60, "s": 1}
    words = formats.duration(seconds).split()
    parts = list(zip(map(int, words[::2]), words[1::2], strict=True))
    shown = sum(number * units[unit] for number, unit in parts)
    assert abs(shown - seconds) <= units[parts[-1][1]]
    assert all(number < 60 for number, unit in parts if unit != "h")
