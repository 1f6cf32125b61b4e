"""Text in cells: safe, one line, and as wide as it says."""

import pytest
from hostile import CONTROLS, STRINGS, WIDTHLESS
from rich.cells import cell_len

from xtuner.tui.widgets.cells import crop, crop_left, fit, num_cells, one_line
from xtuner.tui.widgets.picture import Run, fit_row, justify, text_of


def test_there_are_300_hostile_strings():
    assert len(STRINGS) == len(set(STRINGS)) == 300
    assert any(CONTROLS & set(text) for text in STRINGS) and any(WIDTHLESS & set(text) for text in STRINGS)


@pytest.mark.parametrize("width", [0, 1, 2, 7, 40])
def test_hostile_text_fits_exactly_and_holds_no_control(width):
    for text in STRINGS:
        for is_right in (False, True):
            shown = fit(text, width, is_right=is_right)
            assert cell_len(shown) == sum(map(cell_len, shown)) == width, ascii(text)
            assert not (CONTROLS | WIDTHLESS) & set(shown), ascii(text)


def test_what_is_plain_stays_as_it_is():
    assert one_line("loss: 1.684 [x]") == "loss: 1.684 [x]"
    assert one_line("数据集 é ⠋") == "数据集 é ⠋"


def test_line_ends_tabs_and_controls_are_shown():
    assert one_line("a\nb\tc\x1b[0m") == "a⏎b  c\\x1b[0m"


def test_stacked_marks_are_four_at_most():
    assert one_line("e" + "\u0301" * 1000) == "e" + "\u0301" * 4


@pytest.mark.parametrize(
    ("text", "width", "cropped"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abcdef", 1, "…"),
        ("abcdef", 0, ""),
        ("数据集", 6, "数据集"),
        ("数据集", 5, "数据…"),
        ("数据集", 4, "数…"),
        ("数据集", 2, "…"),
        ("a数b", 3, "a…"),
        ("é" * 4, 4, "éééé"),
    ],
)
def test_crop(text, width, cropped):
    assert crop(text, width) == cropped and num_cells(cropped) <= width


def test_crop_left_keeps_the_end():
    assert crop_left("/a/long/path/x.log", 8) == "…h/x.log"


def test_fit_reads_only_the_beginning_of_a_huge_text():
    assert fit("x" * 10**7, 5) == "xxxx…"


def test_a_row_is_cut_once_and_filled():
    assert fit_row([Run("ab", "x"), Run("cdef", "y"), Run("gh")], 5) == [Run("ab", "x"), Run("cd…", "y")]
    assert fit_row([Run("ab", "x")], 4, "fill") == [Run("ab", "x"), Run("  ", "fill")]
    assert fit_row([], 0) == []


@pytest.mark.parametrize("width", range(30))
def test_both_ends_of_a_row_share_it(width):
    shown = text_of([justify([Run("left part")], [Run("right")], width)])
    assert cell_len(shown) == width
    assert width < 15 or (shown.startswith("left part") and shown.endswith("right"))
