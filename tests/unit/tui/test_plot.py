"""Charts as rows of text, in every size."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_series import ListSeries
from rich.cells import cell_len

from xtuner.tui.widgets.braille import ASCII, BLOCK, BRAILLE, GLYPH_SETS
from xtuner.tui.widgets.picture import text_of
from xtuner.tui.widgets.plot import Band, Curve, Marker, Plot
from xtuner.tui.widgets.plot_drawing import draw_plot
from xtuner.tui.widgets.trace import Sample, find_extreme


def plot_of(*values, view=None, **more):
    curves = [Curve(f"run{place}", ListSeries(each)) for place, each in enumerate(values)]
    return Plot("loss", curves, view or (0, max(2, *map(len, values)) - 1), **more)


def text(plot, width=60, height=12, glyphs=BRAILLE):
    return text_of(draw_plot(plot, width, height, glyphs))


def cells_with(rows, look):
    """(row, column) of the cells in a look."""
    found = []
    for y, row in enumerate(rows):
        x = 0
        for run in row:
            if run.look == look:
                found += [(y, x + place) for place, character in enumerate(run.text) if character.strip()]
            x += cell_len(run.text)
    return found


@pytest.mark.parametrize("glyphs", GLYPH_SETS.values(), ids=lambda glyphs: glyphs.name)
def test_a_spike_of_one_sample_in_a_million_is_seen(glyphs):
    class Million:
        """Ones, with a spike; columns in constant time."""

        spike = 700_001

        def __len__(self):
            return 1_000_000

        def x_range(self):
            return 0, 999_999

        def columns(self, begin, end, num_columns):
            width = (end - begin) / num_columns
            edges = [begin + place * width for place in range(num_columns + 1)]
            return [self._column(low <= self.spike < high) for low, high in pairwise(edges)]

        def _column(self, has_spike):
            return ListSeries([1.0, 9.0 if has_spike else 1.0, 1.0]).columns(0, 2, 1)[0]

        def value_at(self, x):
            return int(x), 9.0 if int(x) == self.spike else 1.0

    rows = draw_plot(Plot("x", [Curve("a", Million())], (0, 999_999)), 80, 20, glyphs)
    top = {x for y, x in cells_with(rows, "line-0") if y == 1}
    assert len(top) == 1 and abs((top.pop() - 10 + 0.5) / (80 - 20) - 0.7) < 0.03


@pytest.mark.parametrize("glyphs", GLYPH_SETS.values(), ids=lambda glyphs: glyphs.name)
@pytest.mark.parametrize("place", [0, 1, 37, 98, 99])
def test_a_spike_is_seen_wherever_it_is_and_however_the_curve_is_dashed(glyphs, place):
    values = [[1.0] * 100 for _ in range(6)]
    for series in values:
        series[place] = 5.0
    for colour in range(6):
        curves = [*(Curve("empty", ListSeries([])) for _ in range(colour)), Curve("a", ListSeries(values[colour]))]
        rows = draw_plot(Plot("x", curves, (0, 99)), 80, 20, glyphs)
        body = [y for y, _ in cells_with(rows, f"line-{colour}") if y >= 2]
        assert min(body) == 2


def test_every_part_is_there():
    series = [4.0, 3.0, 2.5, 2.0, 2.2, 2.1]
    shown = text(plot_of(series, unit="nats", best=Sample(3, 2.0), markers=[Marker(1, "C"), Marker(4, "R")]), 80, 14)
    lines = shown.splitlines()
    assert lines[0].startswith("loss (nats)") and "◆ best 2 @ 3" in lines[0] and lines[0].rstrip().endswith("2.1")
    assert "◆" in "".join(lines[1:]) and "┊" in shown
    assert lines[-3].split() == ["│", "C", "R"] and "└" in lines[-2]
    assert lines[-1].split()[0] == "0" and lines[-1].rstrip().endswith("step")
    assert any(line.endswith(" 2.1") for line in map(str.rstrip, lines[1:]))
    assert any("4┤" in line for line in lines)


def test_last_values_of_curves_that_end_together_have_rows_of_their_own():
    lines = text(plot_of([1, 2], [3, 2], [2, 2]), 80, 14).splitlines()
    assert [sum(f" {letter} 2" in line for line in lines[2:]) for letter in "abc"] == [1, 1, 1]


def test_curves_are_told_apart_without_colour():
    level = [[value] * 200 for value in (1.0, 2.0, 3.0, 4.0)]
    shown = text(plot_of(*level), 80, 20).splitlines()
    assert shown[1].split() == ["a", "run0", "1", "b", "run1", "2", "c", "run2", "3", "d", "run3", "4"]
    drawn = {letter: next(line for line in shown[2:] if f"{letter} " in line[60:]) for letter in "abcd"}
    patterns = [{c for c in line[10:68] if "\u2800" < c <= "\u28ff"} for line in drawn.values()]
    assert len({frozenset(pattern) for pattern in patterns}) == 4
    assert all(letter in line[10:68] for letter, line in drawn.items())


def test_a_gap_and_a_mark_where_values_are_not_finite():
    rows = draw_plot(plot_of([1.0] * 10 + [math.nan] * 10 + [1.0] * 10), 80, 12, BRAILLE)
    bad = {x for _, x in cells_with(rows, "bad")}
    line = {x for y, x in cells_with(rows, "line-0") if 10 <= x < 70}
    assert bad and line and not bad & line
    assert 10 + 60 * 0.3 < min(bad) < 10 + 60 * 0.4 and 10 + 60 * 0.6 < max(bad) < 10 + 60 * 0.7


def test_the_cursor_shows_all_values():
    shown = text(plot_of([1, 2, 3], [7, 8, 9], cursor_x=1.2), 80, 12).splitlines()
    assert "step 1 " in shown[0] + " " and "a run0 2" in shown[1] and "b run1 8" in shown[1]
    assert all(line[10 + int(58 * 0.6)] != " " for line in shown[2:9])


def test_smoothed_over_envelope_and_median_in_a_band():
    seeded = random.Random(1)
    raw = [5 + seeded.gauss(0, 1) for _ in range(400)]
    rows = draw_plot(Plot("x", [Curve("a", ListSeries([5] * 400), ListSeries(raw))], (0, 399)), 80, 16, BRAILLE)
    line, cloud = cells_with(rows, "line-0"), cells_with(rows, "raw-0")
    assert len({y for y, x in line if 10 <= x < 70}) == 1 and len({y for y, _ in cloud}) > 5
    band = Band(ListSeries([4] * 400), ListSeries([6] * 400))
    rows = draw_plot(Plot("x", [Curve("a", ListSeries([5] * 400), band=band)], (0, 399)), 80, 16, BRAILLE)
    assert len(cells_with(rows, "band-0")) > 60 * 8


@pytest.mark.parametrize("glyphs", GLYPH_SETS.values(), ids=lambda glyphs: glyphs.name)
@pytest.mark.parametrize("num_samples", [100, 3000])
def test_a_spike_and_a_nan_are_seen_in_an_envelope_of_few_and_of_many(num_samples, glyphs):
    raw = [1.0] * num_samples
    raw[num_samples // 3], raw[num_samples // 2] = 9.0, math.nan
    curve = Curve("a", ListSeries([1.0] * num_samples), envelope=ListSeries(raw))
    rows = draw_plot(Plot("x", [curve], (0, num_samples - 1)), 80, 20, glyphs)
    [spike] = {x for y, x in cells_with(rows, "raw-0") if y == 1}
    [bad] = {x for _, x in cells_with(rows, "bad")}
    assert abs(spike - (10 + 60 / 3)) <= 1 and abs(bad - (10 + 60 / 2)) <= 1


def test_log_scale():
    shown = text(plot_of([1, 10, 100, 1000], is_log=True), 80, 17)
    assert "loss log" in shown and all(f"{label}┤" in shown for label in ("1,000", "100", "10"))
    assert "no value above 0" in text(plot_of([0, -1, -2], is_log=True))
    mixed = draw_plot(plot_of([-1, 0, 1, 10], is_log=True), 80, 12, BRAILLE)
    assert min(x for y, x in cells_with(mixed, "line-0") if y > 0) > 10 + 60 / 2


def test_no_values_are_said_to_be_none():
    assert "no values yet" in text(Plot("loss", [], (0, 1)))
    assert "no values yet" in text(plot_of([]))
    assert "no values here yet" in text(plot_of([1, 2], view=(50, 60)))


def test_deep_in_a_gap_the_line_between_is_seen():
    series = ListSeries([0.0, 100.0], [0, 100])
    with_scale = Curve("b", ListSeries([0.0, 100.0], [40, 60]))
    rows = draw_plot(Plot("x", [Curve("a", series), with_scale], (40, 60)), 80, 20, BRAILLE)
    assert len([x for y, x in cells_with(rows, "line-0") if y >= 2 and 10 <= x < 68]) >= 50


def test_ascii_is_ascii():
    plot = plot_of([1, 5, math.nan, 2] * 9, [2, 3] * 18, cursor_x=9, best=Sample(0, 1), markers=[Marker(3, "C")])
    assert text(plot, 80, 20, ASCII).isascii() and not text(plot, 80, 20, BLOCK).isascii()


SIZES = [(width, height) for width in (*range(1, 14), 29, 30, 43, 44, 80) for height in range(1, 14)]


@pytest.mark.parametrize("glyphs", GLYPH_SETS.values(), ids=lambda glyphs: glyphs.name)
def test_every_size(glyphs):
    plot = plot_of(
        [1, math.nan, 5, 2], [1e9, -1e-9], cursor_x=1, best=Sample(2, 5), markers=[Marker(1, "数"), Marker(1, "")]
    )
    for width, height in SIZES:
        rows = draw_plot(plot, width, height, glyphs)
        assert len(rows) == height and all(cell_len(text_of([row])) == width for row in rows), (width, height)


wild = st.lists(st.floats(), max_size=30)


@settings(max_examples=150)
@given(wild, wild, st.booleans(), st.integers(1, 90), st.integers(1, 20), st.floats(-5, 40), st.floats(1e-9, 50))
def test_any_values_in_any_view(first, second, is_log, width, height, begin, length):
    best = find_extreme(ListSeries(first), is_lowest=True)
    plot = plot_of(first, second, view=(begin, begin + length), is_log=is_log, cursor_x=begin, best=best)
    rows = draw_plot(plot, width, height, BRAILLE)
    assert len(rows) == height and all(cell_len(text_of([row])) == width for row in rows)
