"""Series in one row, and the cards around them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_series import ListSeries, column_of
from rich.cells import cell_len

from xtuner.tui.widgets.braille import ASCII, BRAILLE
from xtuner.tui.widgets.card import Reading, draw_card
from xtuner.tui.widgets.picture import text_of
from xtuner.tui.widgets.sparkline import BARS, sparkline, sparkline_of


def line(*values, **more):
    return sparkline([column_of(each if isinstance(each, list) else [each]) for each in values], **more)


def test_bars_by_value():
    assert line(0, 1, 2, 3, 4, 5, 6, 7) == BARS
    assert line(0, 7, glyphs=ASCII) == "_#"
    assert line(5, 5, 5) == "▅▅▅"
    assert line() == ""


def test_what_is_missing_and_what_is_bad():
    assert line(0, [], [math.nan], [math.inf, 1.0], 1) == "▁ ✗██"
    assert line([math.nan], glyphs=ASCII) == "x"


def test_a_spike_wins_its_column_up_and_down():
    assert line([5, 5], [5, 9, 5], [5, 0]) == "▅█▁"


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=80), st.integers(1, 40))
def test_any_split_keeps_the_extremes(values, width):
    columns = ListSeries(values).columns(0, len(values) - 1, width)
    shown = sparkline(columns)
    low, high = min(values), max(values)
    if low < high:
        assert BARS[0] in shown or BARS[-1] in shown
    if low < high and not any(column.low == low and column.high == high for column in columns):
        assert BARS[0] in shown and BARS[-1] in shown


def test_a_spike_that_shares_its_column_with_usual_values_is_seen():
    assert line([0, 0], [0, -1, 0]) == "█▁" and line([0, 0], [0, 0], [0, 9]) == "▁▁█"


@given(st.lists(st.floats(), max_size=30), st.integers(0, 30))
def test_any_values_in_any_width(values, width):
    assert len(sparkline_of(ListSeries(values), width)) == width


def test_one_sample_is_at_the_right_end_and_a_window_is_its_newest_part():
    assert sparkline_of(ListSeries([3.0]), 4) == "   ▅"
    assert sparkline_of(ListSeries([9.0, 0.0, 1.0]), 2, window=1) == "▁█"


FULL = Reading("1.684", "-0.012/100", "good", "of 4")


def card(height, width=30, reading=FULL, glyphs=BRAILLE, series=None):
    rows = draw_card("loss", reading, series or ListSeries([3.0, 2.0, 1.0]), width, height, glyphs)
    return [line.rstrip() for line in text_of(rows).splitlines()]


def test_a_card_uses_the_rows_it_has():
    assert card(1) == ["loss 1.684        -0.012/100 ✓"]
    assert [row.split() for row in card(2)[:1]] == [["loss", "-0.012/100", "✓"]]
    assert card(2)[1].startswith("1.684 ") and card(2)[1].endswith("▁")
    assert card(3)[:2] == ["loss", "1.684 of 4        -0.012/100 ✓"]
    assert card(3)[2][0] == "█" and card(3)[2][-1] == "▁"


def test_good_and_bad_are_told_without_colour():
    marks = {mood: card(1, reading=Reading("1", "+1", mood))[0][-1] for mood in ("good", "bad", "")}
    assert marks == {"good": "✓", "bad": "!", "": "1"}
    assert text_of(draw_card("x", FULL, ListSeries([1.0, 2.0]), 30, 3, ASCII)).isascii()


def test_no_value_is_a_dash():
    assert card(1, reading=Reading())[0] == "loss –"


@pytest.mark.parametrize("width", range(1, 24))
@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_no_row_is_wider_than_the_card(width, height):
    rows = draw_card("数据", Reading("数据集", "+1", "bad", "of 80 GB"), ListSeries([1.0, 2.0]), width, height, BRAILLE)
    assert all(cell_len(text_of([row])) <= width for row in rows) and len(rows) <= height
