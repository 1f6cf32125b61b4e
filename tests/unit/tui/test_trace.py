"""From columns to pixels, and single samples found through a view."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_series import ListSeries, column_of

from xtuner.tui.widgets.trace import Sample, find_extreme, is_extreme, sample_after, spans_of

NOTHING = column_of([])
BAD = column_of([math.nan])


def spans(columns, **more):
    return spans_of(columns, round, **more)


def test_a_column_covers_its_extremes():
    assert spans([column_of([1, 7, 3])]) == [(1, 7)]


def test_between_samples_the_curve_is_straight():
    columns = [column_of([0]), NOTHING, NOTHING, NOTHING, column_of([8])]
    assert spans(columns) == [(0, 0), (2, 2), (4, 4), (6, 6), (8, 8)]


def test_nothing_is_drawn_before_the_first_and_after_the_last():
    assert spans([NOTHING, column_of([3]), NOTHING]) == [None, (3, 3), None]


def test_what_is_not_finite_breaks_the_curve():
    assert spans([column_of([1]), BAD, column_of([3])]) == [(1, 1), None, (3, 3)]
    assert spans([column_of([1]), NOTHING, BAD, NOTHING, column_of([3])]) == [(1, 1), None, None, None, (3, 3)]
    assert spans([column_of([1, math.inf, 2])]) == [(1, 2)]


def test_values_a_log_scale_cannot_show_break_it_too():
    assert spans([column_of([4]), column_of([-1]), column_of([2])], above=0) == [(4, 4), None, (2, 2)]


def test_the_curve_comes_from_before_and_goes_on_after():
    columns = [NOTHING] * 4
    assert spans([NOTHING, NOTHING, column_of([6])], entry=Sample(-1, 0)) == [(2, 2), (4, 4), (6, 6)]
    assert spans(columns, entry=Sample(-1, 0), leaving=Sample(4, 10)) == [(2, 2), (4, 4), (6, 6), (8, 8)]
    assert spans(columns, entry=Sample(-1, math.nan), leaving=Sample(4, 10)) == [None] * 4


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60), st.integers(1, 80))
def test_any_split_into_columns_keeps_the_extremes(values, num_columns):
    series = ListSeries(values)
    columns = series.columns(0, max(1, len(values) - 1), num_columns)
    drawn = [span for span in spans(columns) if span is not None]
    assert min(low for low, _ in drawn) == round(min(values))
    assert max(high for _, high in drawn) == round(max(values))


values_and_gaps = st.lists(st.one_of(st.floats(-50, 50), st.sampled_from([math.nan, math.inf])), max_size=120)


@given(values_and_gaps, st.booleans())
def test_the_extreme_is_found_with_its_place(values, is_lowest):
    found = find_extreme(ListSeries(values), is_lowest=is_lowest)
    held = [value for value in values if math.isfinite(value)]
    if not held:
        assert found is None
        return
    assert found.y == (min if is_lowest else max)(held) and values[int(found.x)] == found.y
    assert is_extreme(ListSeries(values), found, is_lowest=is_lowest)


def test_what_is_no_longer_extreme_is_seen():
    series = ListSeries([3, 1, 2])
    assert is_extreme(series, Sample(1, 1), is_lowest=True)
    assert not is_extreme(ListSeries([3, 1, 2, 0]), Sample(1, 1), is_lowest=True)
    assert not is_extreme(ListSeries([3, 9, 2]), Sample(1, 1), is_lowest=True)
    assert not is_extreme(ListSeries([]), Sample(1, 1), is_lowest=True)


@pytest.mark.parametrize(("x", "after"), [(-5, 0), (0, 10), (9, 10), (10, 25), (24.5, 25), (25, None), (99, None)])
def test_the_sample_after(x, after):
    series = ListSeries([1.0, 2.0, 3.0], [0, 10, 25])
    assert sample_after(series, x) == (None if after is None else Sample(after, {0: 1.0, 10: 2.0, 25: 3.0}[after]))


def test_no_sample_after_nothing():
    assert sample_after(ListSeries([]), 0) is None
