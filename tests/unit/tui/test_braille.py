"""Pixels as text: tables, spans, dashes, layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.tui.widgets.braille import (
    ASCII,
    BLOCK,
    BRAILLE,
    GLYPH_SETS,
    Canvas,
    Layer,
    dashed,
    glyphs_for,
    join,
    mask_of,
)


def drawn(canvas):
    return ["".join(row) for row in zip(*canvas.characters, strict=True)]


def looks(canvas):
    return [list(row) for row in zip(*canvas.looks, strict=True)]


@pytest.mark.parametrize(
    ("glyphs", "masks", "text"),
    [
        (BRAILLE, [0b0001, 0], "⡀"),
        (BRAILLE, [0b1000, 0], "⠁"),
        (BRAILLE, [0, 0b0001], "⢀"),
        (BRAILLE, [0, 0b1000], "⠈"),
        (BRAILLE, [0b1111, 0b1111], "⣿"),
        (BLOCK, [0b01, 0b10], "▞"),
        (BLOCK, [0b11, 0], "▌"),
        (BLOCK, [0, 0b11], "▐"),
        (BLOCK, [0b10, 0b10], "▀"),
        (BLOCK, [0b01, 0b01], "▄"),
        (ASCII, [0b01], "."),
        (ASCII, [0b10], "'"),
        (ASCII, [0b11], ":"),
        (ASCII, [0], " "),
    ],
)
def test_one_cell(glyphs, masks, text):
    canvas = Canvas(1, 1, glyphs)
    canvas.draw([Layer(masks, "x")])
    assert drawn(canvas) == [text]


@pytest.mark.parametrize("glyphs", GLYPH_SETS.values(), ids=lambda glyphs: glyphs.name)
def test_tables_are_whole(glyphs):
    assert len(glyphs.table) == len(set(glyphs.table)) == 2 ** (glyphs.dots_wide * glyphs.dots_high)
    assert glyphs.table[0] == " " and glyphs.is_ascii == glyphs.table.isascii()


@given(st.sampled_from(list(GLYPH_SETS.values())), st.integers(1, 4), st.integers(1, 4), st.data())
def test_every_pixel_is_drawn_and_no_other(glyphs, width, height, data):
    """Pixel by pixel against the table's bits."""
    top = glyphs.dots_high * height
    spans = st.tuples(st.integers(0, top - 1), st.integers(0, top - 1)).map(sorted)
    masks = [mask_of(tuple(data.draw(spans))) for _ in range(width * glyphs.dots_wide)]
    canvas = Canvas(width, height, glyphs)
    canvas.draw([Layer(masks, "x")])
    for x, column in enumerate(masks):
        for y in range(top):
            bits = glyphs.table.index(canvas.characters[x // glyphs.dots_wide][height - 1 - y // glyphs.dots_high])
            is_set = bits >> (y % glyphs.dots_high + x % glyphs.dots_wide * glyphs.dots_high) & 1
            assert is_set == column >> y & 1


def test_spans_are_inclusive():
    assert mask_of((0, 0)) == 1 and mask_of((2, 4)) == 0b11100


def test_join_leaves_no_hole_and_bridges_no_gap():
    assert join([(0, 0), (5, 5), (1, 2)]) == [(0, 0), (1, 5), (1, 4)]
    assert join([(0, 0), None, (5, 5)]) == [(0, 0), None, (5, 5)]
    assert join([(0, 3), (4, 4), (2, 9)]) == [(0, 3), (4, 4), (2, 9)]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple), min_size=1))
def test_joined_neighbours_touch_and_hold_what_they_held(spans):
    joined = join(spans)
    for (low, high), (joined_low, joined_high) in zip(spans, joined, strict=True):
        assert joined_low <= low <= high <= joined_high
    for (_, high), (low, _), (below, _), (_, above) in zip(joined, joined[1:], joined, joined[1:], strict=False):
        assert low <= high + 1 and above >= below - 1


def test_dashes_break_level_parts_alone():
    level = [(3, 3)] * 6
    assert dashed(level, "1") == [8] * 6
    assert dashed(level, "10") == [8, 0, 8, 0, 8, 8]  # the last has no neighbour
    spike = join([(3, 3), (9, 9), (3, 3), (3, 3)])
    assert dashed(spike, "10")[1] == mask_of((4, 9))
    assert dashed([None, (3, 3), None], "0") == [0, 8, 0]


def test_layers_drawn_together_share_cells_and_the_last_gives_the_look():
    canvas = Canvas(2, 1, BRAILLE)
    canvas.draw([Layer([1, 1, 1, 1], "first"), Layer([8, 8, 0, 0], "second")])
    assert drawn(canvas) == ["⣉⣀"] and looks(canvas) == [["second", "first"]]


def test_a_later_draw_replaces_the_cells_it_touches():
    canvas = Canvas(2, 1, BRAILLE)
    canvas.draw([Layer([15, 15, 15, 15], "cloud")])
    canvas.draw([Layer([1, 1, 0, 0], "line")])
    assert drawn(canvas) == ["⣀⣿"] and looks(canvas) == [["line", "cloud"]]


def test_put_stays_inside_and_behind():
    canvas = Canvas(2, 2, ASCII)
    canvas.put(0, 0, "a", "x")
    canvas.put(0, 0, "b", "y", is_behind=True)
    canvas.put(1, 1, "c", "z", is_behind=True)
    for x, y in ((2, 0), (-1, 0), (0, 2), (0, -1)):
        canvas.put(x, y, "!", "out")
    assert drawn(canvas) == ["a ", " c"] and looks(canvas) == [["x", ""], ["", "z"]]


@pytest.mark.parametrize(
    ("environ", "glyphs"),
    [
        ({}, BRAILLE),
        ({"LANG": "en_US.UTF-8", "TERM": "xterm-256color"}, BRAILLE),
        ({"LANG": "C.utf8"}, BRAILLE),
        ({"LANG": "en_US.UTF-8", "TERM": "linux"}, BLOCK),
        ({"LANG": "C"}, ASCII),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, ASCII),
        ({"LC_CTYPE": "zh_CN.GB18030"}, ASCII),
    ],
)
def test_what_a_terminal_is_given(environ, glyphs):
    assert glyphs_for(environ) is glyphs
