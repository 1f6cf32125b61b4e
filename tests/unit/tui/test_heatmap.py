"""Ranks over time as shades."""

import math

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tui_pictures import show, text_on

from xtuner.tui.widgets.heatmap import (
    ASCII_SHADES,
    SHADES,
    Heat,
    HeatMap,
    draw_heat,
    rank_groups,
    shade,
    squeeze,
    worst,
)
from xtuner.tui.widgets.picture import text_of


def lines(heat, width=40, height=10, **more):
    return text_of(draw_heat(heat, width, height, **more)).splitlines()


def test_shades_by_value():
    assert "".join(shade(value, 0, 5).text for value in (0, 1, 2, 3, 4, 5)) == SHADES + SHADES[-1]
    assert [shade(value, 0, 5).text for value in (None, math.nan, math.inf, -9, 99)] == [" ", "✗", "✗", "·", "█"]
    assert shade(3, 3, 3).text == SHADES[0] and shade(math.nan, 0, 1, is_ascii=True).text == "x"
    assert len({run.look for run in (shade(place, 0, 5) for place in range(5))}) == 5


def test_the_worst_stands_for_several():
    assert worst([1, None, 3]) == 3 and worst([None]) is None and worst([]) is None
    assert math.isnan(worst([1, math.nan, 9]))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.integers(1, 60))
def test_a_slow_step_is_seen_however_many_share_a_cell(values, num_cells):
    squeezed = squeeze(values, num_cells)
    assert max(squeezed) == max(values) and len(squeezed) == min(len(values), num_cells)


@given(st.integers(1, 2000), st.integers(-1, 60))
def test_every_rank_has_a_row(num_ranks, num_rows):
    groups = rank_groups(num_ranks, num_rows)
    assert [rank for group in groups for rank in group] == list(range(num_ranks))
    assert len(groups) == max(1, min(num_rows, num_ranks))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_rows_with_labels_newest_at_the_right():
    shown = lines(Heat("time", ["rank 0", "rank 1"], [[1.0, 1.0, 5.0], [1.0]], "s"))
    assert shown[0].startswith("time") and shown[0].endswith("1 ·░▒▓█ 5 s")
    assert shown[1].startswith("rank 0 ") and shown[1].endswith("··█")
    assert shown[2].startswith("rank 1 ") and shown[2].endswith("  ·")


def test_many_ranks_share_rows_and_one_that_is_slow_is_still_seen():
    rows = [[1.0] * 20 for _ in range(1024)]
    rows[700][19] = 9.0
    shown = lines(Heat("time", [str(rank) for rank in range(1024)], rows), 60, 17)
    assert len(shown) == 17 and shown[1].startswith("0-63 ")
    assert [place for place, line in enumerate(shown[1:]) if "█" in line] == [700 // 64]


def test_bounds_narrow_places_and_ascii():
    assert lines(Heat("", ["a"], [[5.0, 9.0]], bounds=(0, 10)), 20)[1].endswith("▒█")
    assert len(lines(Heat("t", ["a"], [[1.0] * 90]), 5, 2)[1]) == 5
    shown = "".join(lines(Heat("t", ["a"], [[1.0, 2.0, math.nan]]), is_ascii=True, picked=0))
    assert shown.isascii() and ">" in shown and ASCII_SHADES in shown
    assert lines(Heat("t"))[1].strip() == "no ranks yet"


@given(st.lists(st.lists(st.one_of(st.none(), st.floats()), max_size=9), max_size=9), st.integers(1, 40))
def test_any_values(rows, width):
    for row in draw_heat(Heat("t", [], rows), width, 6)[1:]:
        assert cell_len(text_of([row])) <= width or not rows


def test_a_click_picks_a_rank():
    async def steps(app, pilot):
        widget = app.query_one(HeatMap)
        widget.heat = Heat("t", ["a", "b", "c"], [[1.0], [2.0], [3.0]])
        await pilot.click(HeatMap, offset=(3, 2))
        await pilot.pause()
        assert widget.picked == 1 and "b       >" in text_on(app)
        await pilot.click(HeatMap, offset=(3, 9))
        assert widget.picked == 1

    show(HeatMap, steps)
