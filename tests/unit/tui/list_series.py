"""A series of a few samples, looked at the plain way: what the fast ones are held against."""

import math
from bisect import bisect_right
from typing import NamedTuple


class Column(NamedTuple):
    low: float
    high: float
    last: float
    num_bad: int


def column_of(values):
    finite = [value for value in values if math.isfinite(value)]
    num_bad = len(values) - len(finite)
    return Column(min(finite), max(finite), finite[-1], num_bad) if finite else Column(1.0, 0.0, math.nan, num_bad)


class ListSeries:
    """A `SeriesView` over lists."""

    def __init__(self, y, x=None):
        self.y = list(y)
        self.x = list(range(len(self.y))) if x is None else list(x)

    def __len__(self):
        return len(self.x)

    def x_range(self):
        return (self.x[0], self.x[-1]) if self.x else None

    def columns(self, begin, end, num_columns):
        held = [[] for _ in range(num_columns)]
        for x, y in zip(self.x, self.y, strict=True):
            if begin <= x <= end:
                held[min(num_columns - 1, int((x - begin) / (end - begin) * num_columns))].append(y)
        return [column_of(values) for values in held]

    def value_at(self, x):
        place = bisect_right(self.x, x)
        return (self.x[place - 1], self.y[place - 1]) if place else None
