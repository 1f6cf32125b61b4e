"""A series in one row of cells, for cards and tables."""

from collections.abc import Sequence

from xtuner.tui.widgets.axis import Scale
from xtuner.tui.widgets.braille import BRAILLE, GlyphSet
from xtuner.tui.widgets.series_view import ColumnView, SeriesView

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-=+*%#"
BAD, ASCII_BAD = "✗", "x"


def sparkline(columns: Sequence[ColumnView], glyphs: GlyphSet = BRAILLE) -> str:
    """One character a column: its value furthest from the middle of all, so that a spike up or down is seen.

    Where both ends of the scale lie in one column, the end is shown that is further from most columns.
    A column without a finite value is a mark where it holds NaN or infinities, and blank where it holds nothing.
    """
    bars, bad = (ASCII_BARS, ASCII_BAD) if glyphs.is_ascii else (BARS, BAD)
    held = [column for column in columns if column.low <= column.high]
    low = min((column.low for column in held), default=0.0)
    high = max((column.high for column in held), default=0.0)
    to_bar = Scale(low, high).to_pixel(len(bars))
    # Halved, as the distance of two floats may be beyond all floats.
    middle = low * 0.25 + high * 0.25
    usual = sum(column.low * 0.25 + column.high * 0.25 for column in held) / max(1, len(held))
    ties_are_high = middle >= usual

    def character(column: ColumnView) -> str:
        if column.low > column.high:
            return bad if column.num_bad else " "
        if low == high:
            return bars[len(bars) // 2]
        above, below = column.high * 0.5 - middle, middle - column.low * 0.5
        is_high = above > below or (above == below and ties_are_high)
        return bars[to_bar(column.high if is_high else column.low)]

    return "".join(map(character, columns))


def sparkline_of(view: SeriesView, width: int, *, window: float | None = None, glyphs: GlyphSet = BRAILLE) -> str:
    """The series, or its newest `window` of x, in exactly `width` cells; the newest sample is in the last one."""
    bounds = view.x_range()
    if bounds is None or width < 1:
        return " " * max(0, width)
    begin, end = bounds
    if window is not None and end - begin > window > 0:
        begin = end - window
    if begin == end:
        return sparkline(view.columns(begin, begin + 1, 1), glyphs).rjust(width)
    return sparkline(view.columns(begin, end, width), glyphs)
