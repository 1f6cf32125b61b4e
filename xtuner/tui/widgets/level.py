"""A value to hold a curve against: the same at each x that the curve has."""

from collections.abc import Sequence
from typing import NamedTuple

from xtuner.tui.widgets.series_view import SeriesView


class _Column(NamedTuple):
    low: float
    high: float
    last: float
    num_bad: int = 0


_NOTHING = _Column(1.0, 0.0, 0.0)


class Level:
    """A `SeriesView` of one value, as long as another view is, and growing with it.

    Args:
        value: finite.
        beside: whose x it takes.
    """

    def __init__(self, value: float, beside: SeriesView) -> None:
        self._beside = beside
        self._value = value

    def __len__(self) -> int:
        return len(self._beside)

    def x_range(self) -> tuple[float, float] | None:
        """As of `SeriesView`."""
        return self._beside.x_range()

    def columns(self, begin: float, end: float, num_columns: int) -> Sequence[_Column]:
        """As of `SeriesView`."""
        bounds = self.x_range()
        if bounds is None:
            return [_NOTHING] * num_columns
        width = (end - begin) / num_columns
        here = _Column(self._value, self._value, self._value)
        return [
            here if begin + place * width <= bounds[1] and begin + (place + 1) * width >= bounds[0] else _NOTHING
            for place in range(num_columns)
        ]

    def value_at(self, x: float) -> tuple[float, float] | None:
        """As of `SeriesView`."""
        found = self._beside.value_at(x)
        return None if found is None else (found[0], self._value)
