"""From the columns of a series to the pixels of its curve, and single samples found through the same view."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from xtuner.tui.widgets.braille import Span
from xtuner.tui.widgets.series_view import ColumnView, SeriesView

_SEARCH_COLUMNS = 9  # three of them are searched again: about the least columns in all
_MAX_ROUNDS = 64  # halving a range of floats ends sooner


class Sample(NamedTuple):
    """One value of a series."""

    x: float
    y: float


def spans_of(
    columns: Sequence[ColumnView],
    to_pixel: Callable[[float], int],
    *,
    above: float = float("-inf"),
    entry: Sample | None = None,
    leaving: Sample | None = None,
) -> list[Span | None]:
    """The pixels that a curve covers in each column; None where it has a gap.

    Between samples the curve is straight; columns that hold nothing but NaN or infinities break it, and so do values
    that are not larger than `above`, which a logarithmic scale cannot show.

    Args:
        columns: of the view.
        to_pixel: from a value to its pixel.
        above: smaller values and this one are not shown.
        entry: the sample before the view, its x in columns from the view's begin.
        leaving: the sample after the view, likewise.
    """
    spans: list[Span | None] = [None] * len(columns)
    before = entry if entry is not None and entry.y > above and entry.y - entry.y == 0 else None
    for place, column in enumerate(columns):
        low, high, last, num_bad = column.low, column.high, column.last, column.num_bad
        if low > high or high <= above:
            if num_bad or low <= high:
                before = None
            continue
        low_pixel, high_pixel = to_pixel(low), to_pixel(high)
        if before is not None and place - before.x > 1:
            target = min(max(to_pixel(before.y), low_pixel), high_pixel)
            _connect(spans, before.x, to_pixel(before.y), place, target)
        spans[place] = (low_pixel, high_pixel)
        before = Sample(place, last if last > above else high)
    if before is not None and leaving is not None and leaving.y > above and leaving.y - leaving.y == 0:
        _connect(spans, before.x, to_pixel(before.y), leaving.x, to_pixel(leaving.y))
    return spans


def _connect(spans: list[Span | None], begin: float, begin_pixel: int, end: float, end_pixel: int) -> None:
    """Set the columns strictly between two places to the straight line between them."""
    slope = (end_pixel - begin_pixel) / (end - begin)
    for place in range(max(0, int(begin) + 1 if begin >= 0 else 0), len(spans)):
        if place >= end:
            break
        pixel = round(begin_pixel + slope * (place - begin))
        spans[place] = (pixel, pixel)


def sample_after(view: SeriesView, x: float) -> Sample | None:
    """The first sample after `x`, found by halving; the newest of those that share its x."""
    bounds = view.x_range()
    if bounds is None or bounds[1] <= x:
        return None
    low, high = x, bounds[1]
    for _ in range(_MAX_ROUNDS):
        middle = low + (high - low) / 2
        if not low < middle < high:
            break
        found = view.value_at(middle)
        if found is None or found[0] <= x:
            low = middle
        else:
            high = found[0]
    found = view.value_at(high)
    return None if found is None else Sample(*found)


def find_extreme(view: SeriesView, *, is_lowest: bool) -> Sample | None:
    """The lowest (or highest) finite value of all, with its place; None where there is no finite value."""
    bounds = view.x_range()
    if bounds is None:
        return None
    begin, end = bounds
    best: float | None = None
    for _ in range(_MAX_ROUNDS):
        columns = view.columns(begin, end, _SEARCH_COLUMNS) if end > begin else view.columns(begin, begin + 1, 1)
        held = [(place, column) for place, column in enumerate(columns) if column.low <= column.high]
        if not held:
            break
        if is_lowest:
            place, column = min(held, key=lambda pair: pair[1].low)
            best = column.low if best is None else min(best, column.low)
        else:
            place, column = max(held, key=lambda pair: pair[1].high)
            best = column.high if best is None else max(best, column.high)
        part = (end - begin) / _SEARCH_COLUMNS
        found = view.value_at(begin + (place + 1) * part)
        if found is not None and found[1] == best:
            return Sample(*found)
        # A column more on either side: a sample on the border may be counted to the other one.
        narrower = max(begin, begin + (place - 1) * part), min(end, begin + (place + 2) * part)
        if narrower == (begin, end):
            break
        begin, end = narrower
    return None if best is None else Sample((begin + end) / 2, best)


def is_extreme(view: SeriesView, sample: Sample, *, is_lowest: bool) -> bool:
    """Whether `sample` is in the view, and none of its values is lower (or higher): cheaper than to look for it."""
    bounds = view.x_range()
    if bounds is None or view.value_at(sample.x) != sample:
        return False
    begin, end = bounds
    [column] = view.columns(begin, end if end > begin else begin + 1, 1)
    return sample.y <= column.low if is_lowest else sample.y >= column.high
