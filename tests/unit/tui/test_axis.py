"""Ticks, labels, scales: numbers of every size."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.tui.widgets.axis import (
    Scale,
    format_count,
    format_value,
    growing_range,
    linear_ticks,
    log_ticks,
    nice_step,
    scale_for,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.6843, "1.684"),
        (0.05, "0.05"),
        (0.00002, "2e-05"),
        (6e-5, "6e-05"),
        (123.456, "123.5"),
        (1234, "1,234"),
        (9999.4, "9,999"),
        (12345, "12.35k"),
        (805_300, "805.3k"),
        (999_990, "1000k"),
        (2.5e9, "2.5G"),
        (-1.5, "-1.5"),
        (1e20, "1e+20"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_values(value, text):
    assert format_value(value) == text


@given(st.floats())
def test_values_are_short_and_nearly_right(value):
    text = format_value(value)
    assert len(text) <= 11
    if abs(value) < 1.7e308:  # beyond, four digits may be rounded to more than there is
        for suffix, power in (("k", "e3"), ("M", "e6"), ("G", "e9"), ("T", "e12")):
            text = text.replace(suffix, power)
        assert float(text.replace(",", "")) == pytest.approx(value, rel=2e-3, abs=1e-320)


def test_counts():
    assert [format_count(n) for n in (0, 1234, 2_500_000, 0.5)] == ["0", "1,234", "2.5M", "0.5"]


@pytest.mark.parametrize(("size", "step"), [(0.9, 1), (1, 1), (1.1, 2), (3, 5), (5.1, 10), (0.0012, 0.002), (0, 1)])
def test_nice_steps(size, step):
    assert nice_step(size) == step


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (1.1, 1.5, ["1.1", "1.2", "1.3", "1.4", "1.5"]),
        (800, 801, ["800.0", "800.2", "800.4", "800.6", "800.8", "801.0"]),
        (0, 1_000_000, ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]),
        (0, 6e-5, ["0", "1e-05", "2e-05", "3e-05", "4e-05", "5e-05", "6e-05"]),
        (-1, 1, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
    ],
)
def test_linear_ticks(low, high, labels):
    assert [tick.label for tick in linear_ticks(low, high, 7)] == labels


@given(finite, finite, st.integers(0, 12))
def test_linear_ticks_lie_inside_with_labels_of_their_own(low, high, max_ticks):
    ticks = linear_ticks(low, high, max_ticks)
    assert len(ticks) <= max_ticks and len({tick.label for tick in ticks}) == len(ticks)
    slack = abs(high - low) * 1e-6 + 1e-300
    assert all(low - slack <= tick.value <= high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1, 1000, ["1", "10", "100", "1,000"]),
        (0.9, 5.5, ["1", "2", "5"]),
        (1e-6, 1e-4, ["1e-06", "1e-05", "1e-04"]),
        (1e-300, 1e300, None),
        (1.61, 1.68, None),
    ],
)
def test_log_ticks(low, high, labels):
    ticks = log_ticks(low, high, 6)
    assert 2 <= len(ticks) <= 6 and all(low * 0.999 <= tick.value <= high * 1.001 for tick in ticks)
    if labels is not None:
        assert [tick.label.replace("0.0001", "1e-04") for tick in ticks] == labels


@given(st.floats(min_value=5e-324, allow_infinity=False), st.floats(min_value=5e-324, allow_infinity=False))
def test_log_ticks_never_fail(low, high):
    assert len(log_ticks(low, high, 6)) <= 6


@given(finite, finite, st.integers(1, 500), st.lists(finite))
def test_pixels_are_in_order_and_inside(low, high, num_pixels, values):
    scale = scale_for([(min(low, high), max(low, high))])
    to_pixel = scale.to_pixel(num_pixels)
    pixels = [to_pixel(value) for value in sorted(values)]
    assert pixels == sorted(pixels) and all(0 <= pixel < num_pixels for pixel in pixels)
    assert scale.low <= min(low, high) and max(low, high) <= scale.high and scale.low < scale.high


@given(st.floats(min_value=5e-324, allow_infinity=False), st.floats(min_value=5e-324, allow_infinity=False), finite)
def test_log_pixels_are_inside(low, high, value):
    scale = scale_for([(min(low, high), max(low, high))], is_log=True)
    assert 0 <= scale.to_pixel(40)(value) < 40


def test_ends_of_a_scale_are_its_first_and_last_pixel():
    assert [Scale(1, 3).to_pixel(5)(value) for value in (1, 2, 3, -9, 99)] == [0, 2, 4, 0, 4]
    assert [Scale(1, 100, True).to_pixel(5)(value) for value in (1, 10, 100, 0, -3)] == [0, 2, 4, 0, 0]
    whole = Scale(-sys.float_info.max, sys.float_info.max)
    assert [whole.to_pixel(5)(value) for value in (whole.low, 0, whole.high)] == [0, 2, 4]


def test_a_constant_has_room_on_both_sides():
    scale = scale_for([(2.0, 2.0)])
    assert scale.low < 2 < scale.high
    assert scale_for([(0.0, 0.0)]) == Scale(-1.0, 1.0)


def test_a_log_scale_leaves_out_what_is_not_above_0():
    assert scale_for([(-1, 0), (0, 0)], is_log=True) is None
    assert scale_for([(-5, 10), (1, 3)], is_log=True) == Scale(1, 10, True)
    assert scale_for([]) is None


def test_a_growing_axis_stands_still_for_a_while():
    ends = [growing_range(0, end)[1] for end in range(1000, 1200)]
    assert len(set(ends)) <= 6 and all(end >= shown for shown, end in enumerate(ends, 1000))
    assert growing_range(5, 5) == (5, 6)


@given(finite, finite)
def test_a_growing_axis_holds_all(begin, end):
    shown = growing_range(begin, end)
    assert shown[0] == begin and shown[1] >= end
