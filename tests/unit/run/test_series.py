"""Series against brute force: no sample is lost, whatever is appended, taken back or put between."""

import math
from array import array
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.run import derived
from xtuner.run.derived import Band, Smoothed
from xtuner.run.series import Column, Series

values = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])
steps = st.lists(st.integers(0, 50), max_size=300).map(sorted)


def make(xs, ys):
    series = Series()
    series.extend(xs, ys)
    return series


def brute_columns(xs, ys, begin, end, num_columns):
    columns = []
    width = (end - begin) / num_columns
    for number in range(num_columns):
        low, high = begin + number * width, begin + (number + 1) * width
        is_last = number == num_columns - 1
        inside = [y for x, y in zip(xs, ys, strict=True) if low <= x and (x <= end if is_last else x < high)]
        finite = [y for y in inside if math.isfinite(y)]
        last = finite[-1] if finite else math.nan
        columns.append(
            Column(min(finite, default=math.inf), max(finite, default=-math.inf), last, len(inside) - len(finite))
        )
    return columns


def same(some, others):
    """Equal, where NaN equals NaN."""
    return list(map(repr, some)) == list(map(repr, others))


@st.composite
def samples(draw, max_size=300):
    xs = draw(st.lists(st.integers(0, 400), max_size=max_size).map(sorted))
    return [float(x) for x in xs], draw(st.lists(values, min_size=len(xs), max_size=len(xs)))


@given(samples(), st.integers(1, 40), st.integers(-10, 400), st.integers(1, 400))
def test_columns_are_those_of_brute_force(sample, num_columns, begin, width):
    xs, ys = sample
    expected = brute_columns(xs, ys, begin, begin + width, num_columns)
    one_by_one = Series()
    for x, y in zip(xs, ys, strict=True):
        one_by_one.append(x, y)
    for series in (make(xs, ys), one_by_one):
        assert same(series.columns(begin, begin + width, num_columns), expected)
        assert len(series) == len(xs) and series.x_range() == ((xs[0], xs[-1]) if xs else None)


@settings(max_examples=30)
@given(st.data())
def test_any_edits_leave_what_a_list_would_hold(data):
    series, smoothed, reference = Series(), None, []
    weight = data.draw(st.sampled_from([0.0, 0.6, 0.9]))
    smoothed = Smoothed(series, weight)
    for _ in range(data.draw(st.integers(1, 12))):
        edit = data.draw(st.sampled_from(["append", "extend", "truncate", "splice", "look"]))
        last = reference[-1][0] if reference else 0
        if edit == "append":
            sample = (last + data.draw(st.integers(0, 3)), data.draw(values))
            series.append(*sample)
            reference.append(sample)
        elif edit == "extend":
            new = [(last + number, y) for number, y in enumerate(data.draw(st.lists(values, max_size=70)))]
            series.extend([x for x, _ in new], [y for _, y in new])
            reference += new
        elif edit == "truncate":
            x = data.draw(st.integers(-1, 80))
            series.truncate_from(x)
            reference = [sample for sample in reference if sample[0] < x]
        elif edit == "splice":
            first = data.draw(st.integers(0, 80))
            new = [(first + number, y) for number, y in enumerate(data.draw(st.lists(values, max_size=40)))]
            series.splice(array("d", [x for x, _ in new]), array("d", [y for _, y in new]))
            if new:
                before = [sample for sample in reference if sample[0] < first]
                reference = before + new + [sample for sample in reference if sample[0] > new[-1][0]]
        else:
            len(smoothed), series.columns(0, 100, 3)
    xs, ys = [x for x, _ in reference], [y for _, y in reference]
    assert same(series.samples()[1], array("d", ys)) and list(series.samples()[0]) == xs
    assert same(series.columns(-1, 200, 17), brute_columns(xs, ys, -1, 200, 17))
    assert series.total == pytest.approx(sum(filter(math.isfinite, ys)), abs=1e-3)
    assert_smoothed(smoothed, reference, weight)


def assert_smoothed(smoothed, reference, weight):
    last, num, expected = 0.0, 0, []
    for x, y in reference:
        if math.isfinite(y):
            num += 1
            last = last * weight + (1 - weight) * y
            expected.append((x, last / (1 - weight**num)))
    assert len(smoothed) == len(expected)
    got = smoothed._series.samples()
    assert list(got[0]) == [x for x, _ in expected]
    assert list(got[1]) == pytest.approx([y for _, y in expected], rel=1e-9, abs=1e-6)


def test_smoothing_is_that_of_tensorboard():
    smoothed = Smoothed(make([1, 2, 3], [1.0, math.nan, 3.0]), 0.5)
    assert smoothed.value_at(1) == (1, 1) and smoothed.value_at(2) == (1, 1)
    assert smoothed.value_at(9) == (3, pytest.approx((0.25 + 1.5) / 0.75)) and smoothed.x_range() == (1, 3)
    assert Smoothed(Series(), 0.9).x_range() is None


@pytest.mark.parametrize("weight", [-0.1, 1, math.nan])
def test_a_weight_outside_of_its_range_is_refused(weight):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Smoothed(Series(), weight)


def test_a_spike_among_a_million_is_seen():
    ys = array("d", [1.0]) * 1_000_000
    ys[777_777] = 1e9
    series = make(range(1_000_000), ys)
    columns = series.columns(0, 999_999, 100)
    assert [number for number, column in enumerate(columns) if column.high == 1e9] == [77]
    assert sum(column.low for column in columns) == 100


@pytest.mark.parametrize(("x", "found"), [(0, None), (1, (1, 5)), (1.5, (1, 5)), (2, (2, 7)), (99, (2, 7))])
def test_value_at_is_the_newest_at_or_before(x, found):
    assert make([1, 2, 2], [5.0, 6.0, 7.0]).value_at(x) == found


def test_x_never_decreases():
    series = make([3], [1.0])
    for x in (2, math.nan):
        with pytest.raises(ValueError):
            series.append(x, 0)
        with pytest.raises(ValueError):
            series.extend([x], [0.0])
    for xs, ys in (([5, 4], [0.0, 0.0]), ([math.nan], [0.0]), ([4], [])):
        with pytest.raises(ValueError):
            series.extend(xs, ys)
    series.append(3, 2.0)
    assert len(series) == 2


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.integers(0, 200), values, max_size=60), min_size=1, max_size=4), st.data())
def test_a_band_is_the_extremes_and_the_median_of_all_ranks(ranks, data):
    """Ranks say their steps in any order of arrival; who is far behind may be left out, nobody is here."""
    series = [Series() for _ in ranks]
    band = Band(series)
    todo = [sorted(rank.items()) for rank in ranks]
    while any(todo):
        number = data.draw(st.sampled_from([number for number, rest in enumerate(todo) if rest]))
        count = data.draw(st.integers(1, 20))
        for x, y in todo[number][:count]:
            series[number].append(x, y)
        del todo[number][:count]
        looks = data.draw(st.sampled_from([lambda: None, lambda: len(band.median), band.advance]))
        with patch.object(derived, "_SLICE", 3):
            looks()
    assert_band(band, ranks)


def test_a_long_band_is_taken_in_by_slices():
    ranks = [{x: x * (number + 1.0) for x in range(1 + number, 700)} for number in range(3)]
    band = Band([make(list(rank), list(rank.values())) for rank in ranks])
    with patch.object(derived, "_SLICE", 100):
        sizes = []
        while not band.is_near:
            band.advance()
            sizes.append(len(band._edges[0]))
        assert len(sizes) >= 6 and all(after - before < 100 for before, after in pairwise([0, *sizes]))
        band._ranks[0].truncate_from(50)
        assert not band.is_near, "most of it is to be taken in once more"
        while not band.is_near:
            band.advance()
    assert_band(band, [{x: y for x, y in ranks[0].items() if x < 50}, *ranks[1:]])


def assert_band(band, ranks):
    xs = sorted({x for rank in ranks for x in rank})
    for edge, pick in ((band.low, 0), (band.high, -1)):
        finite = {x: sorted(rank[x] for rank in ranks if x in rank and math.isfinite(rank[x])) for x in xs}
        assert len(edge) == len(xs)
        assert all(repr(edge.value_at(x)[1]) == repr(float(finite[x][pick] if finite[x] else math.nan)) for x in xs)


def test_a_band_follows_ranks_that_go_back_and_histories_that_come_late():
    ranks = [make([5, 6], [1.0, 2.0]), make([5, 6], [3.0, 4.0])]
    band = Band(ranks)
    assert band.median.value_at(6) == (6, 3) and band.low.x_range() == (5, 6)
    ranks[0].splice(array("d", [1, 2]), array("d", [10, 20]))
    assert [band.high.value_at(x)[1] for x in (1, 2, 5)] == [10, 20, 3]
    for series in ranks:
        series.truncate_from(6)
    assert band.high.x_range() == (1, 5)
    for series in ranks:
        series.truncate_from(0)
    assert len(band.low) == 0


def test_a_dead_rank_does_not_keep_the_band_open():
    ranks = [make(range(1000), [1.0] * 1000), make(range(10), [9.0] * 10)]
    band = Band(ranks)
    assert band.high.value_at(5)[1] == 9 and band.high.value_at(500)[1] == 1
    assert band._stable_until == 1000 - 64
