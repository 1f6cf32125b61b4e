"""Numbers over steps, as charts need them: millions of samples, and the extremes of any part of them at once.

A chart asks for columns, not for samples. `Series` keeps the minimum and maximum of each 16 samples, of each 256
and so on, so that a column costs O(log n) and a single spike among millions is always in one of them.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from math import inf, isfinite, nan
from typing import NamedTuple, Protocol
from weakref import WeakSet

_FANOUT = 16


class Column(NamedTuple):
    """What lies in one column of a chart; where no finite value does, low > high and last is NaN."""

    low: float
    high: float
    last: float
    num_bad: int  # NaN and infinities


class SeriesView(Protocol):
    """What a chart draws."""

    def __len__(self) -> int: ...

    def x_range(self) -> tuple[float, float] | None:
        """The first and the last x; None while empty."""

    def columns(self, begin: float, end: float, num_columns: int) -> list[Column]:
        """What lies in each of `num_columns` equal parts of [begin, end]; `end` itself belongs to the last."""

    def value_at(self, x: float) -> tuple[float, float] | None:
        """The newest sample at or before `x`."""


class Follower(Protocol):
    """What is computed from a series, and hears of samples that are taken back."""

    def cut(self, num_kept: int, last_x: float) -> None:
        """Only the first `num_kept` samples are still what they were, up to `last_x`; -inf where none is."""


class Series:
    """Samples (x, y) with x never decreasing: O(1) to append, O(log n) for the extremes of any part.

    Extremes of blocks are computed when they are first looked at: of a hundred series, a screen shows ten.
    """

    def __init__(self) -> None:
        self._x = array("d")
        self._y = array("d")
        self._bad = array("q")  # positions of NaN and infinities
        self._total = 0.0
        self._levels: list[tuple[array[float], array[float]]] = []  # low and high of each block, level by level
        self._followers: WeakSet[Follower] = WeakSet()

    def __len__(self) -> int:
        return len(self._x)

    @property
    def total(self) -> float:
        """The sum of all finite values."""
        return self._total

    def append(self, x: float, y: float) -> None:
        """Add a sample.

        Raises:
            ValueError: `x` is NaN or less than the last x; see `truncate_from`.
        """
        if not x >= (self._x[-1] if self._x else -inf):
            raise ValueError(f"x = {x} does not follow x = {self._x[-1] if self._x else '-inf'}")
        self._x.append(x)
        self._y.append(y)
        if isfinite(y):
            self._total += y
        else:
            self._bad.append(len(self._y) - 1)

    def extend(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        """Add samples, far faster than one by one.

        Raises:
            ValueError: an x is NaN or less than the one before it, or the lengths differ; nothing was added.
        """
        if len(xs) != len(ys):
            raise ValueError(f"{len(xs)} values of x, {len(ys)} of y")
        new_x, new_y = array("d", xs), array("d", ys)
        ordered = array("d", sorted(new_x))  # linear where it is in order already
        if new_x and (ordered != new_x or not new_x[0] >= (self._x[-1] if self._x else -inf)):
            raise ValueError("the values of x must not decrease")
        self._extend(new_x, new_y)

    def _extend(self, xs: "array[float]", ys: "array[float]") -> None:
        self._count(len(self._y), ys)
        self._x += xs
        self._y += ys

    def _count(self, begin: int, ys: "array[float]") -> None:
        """Take values into account that are put at `begin`, behind all bad ones."""
        total = sum(ys)
        if not isfinite(total):
            self._bad.extend(begin + index for index, y in enumerate(ys) if not isfinite(y))
            total = sum(filter(isfinite, ys))
        self._total += total

    def truncate_from(self, x: float) -> None:
        """Drop what lies at or after `x`: a run that went back to a checkpoint says these steps again."""
        num_kept = bisect_left(self._x, x)
        if num_kept < len(self._x):
            self._replace(num_kept, len(self._x), array("d"), array("d"))

    def splice(self, xs: "array[float]", ys: "array[float]", before: float | None = None) -> None:
        """Put samples between others: what lay in [xs[0], before) is replaced, what lies after stays.

        Without `before`, what lay up to xs[-1] is replaced. The values of `xs` must increase and be less than
        `before`, which is not checked: a reader of files puts the same steps into a dozen series.
        """
        if not xs:
            return
        if self._x and xs[0] <= self._x[-1]:
            begin = bisect_left(self._x, xs[0])
            end = bisect_right(self._x, xs[-1]) if before is None else bisect_left(self._x, before)
            self._replace(begin, max(begin, end), xs, ys)
        elif len(xs) == 1:
            self.append(xs[0], ys[0])
        else:
            self._extend(xs, ys)

    def _replace(self, begin: int, end: int, xs: "array[float]", ys: "array[float]") -> None:
        """Put samples in the place of those at [begin, end); what is known of blocks from there on is forgotten."""
        bad_after = [place - end + begin + len(ys) for place in self._bad[bisect_left(self._bad, end) :]]
        self._total -= sum(filter(isfinite, self._y[begin:end]))
        del self._bad[bisect_left(self._bad, begin) :]
        self._count(begin, ys)
        self._bad.extend(bad_after)
        self._x[begin:end], self._y[begin:end] = xs, ys
        num_blocks = begin
        for lows, highs in self._levels:
            num_blocks //= _FANOUT
            del lows[num_blocks:], highs[num_blocks:]
        last_x = self._x[begin - 1] if begin else -inf
        for follower in self._followers:
            follower.cut(begin, last_x)

    def x_range(self) -> tuple[float, float] | None:
        """The first and the last x; None while empty."""
        return (self._x[0], self._x[-1]) if self._x else None

    def columns(self, begin: float, end: float, num_columns: int) -> list[Column]:
        """What lies in each of `num_columns` equal parts of [begin, end]; `end` itself belongs to the last."""
        self._grow()
        x, width = self._x, (end - begin) / max(1, num_columns)
        columns = []
        low_edge = bisect_left(x, begin)
        for number in range(1, num_columns + 1):
            is_last = number == num_columns
            high_edge = bisect_right(x, end, low_edge) if is_last else bisect_left(x, begin + number * width, low_edge)
            columns.append(self._column(low_edge, high_edge))
            low_edge = high_edge
        return columns

    def value_at(self, x: float) -> tuple[float, float] | None:
        """The newest sample at or before `x`."""
        index = bisect_right(self._x, x) - 1
        return (self._x[index], self._y[index]) if index >= 0 else None

    def samples(self, begin: int = 0, end: int | None = None) -> "tuple[array[float], array[float]]":
        """A copy of the samples at these positions, which may be negative as those of a slice."""
        return self._x[begin:end], self._y[begin:end]

    def position(self, x: float) -> int:
        """How many samples lie before `x`."""
        return bisect_left(self._x, x)

    def num_bad_before(self, index: int) -> int:
        """How many of the first `index` samples are NaN or infinite."""
        return bisect_left(self._bad, index)

    def last_bad(self) -> tuple[float, float] | None:
        """The newest sample that is NaN or infinite."""
        return (self._x[self._bad[-1]], self._y[self._bad[-1]]) if self._bad else None

    def tell(self, follower: Follower) -> None:
        """Let `follower` hear of samples that are taken back, for as long as it lives."""
        self._followers.add(follower)

    def _column(self, begin: int, end: int) -> Column:
        num_bad = self.num_bad_before(end) - self.num_bad_before(begin) if self._bad else 0
        if end - begin == num_bad:
            return Column(inf, -inf, nan, num_bad)
        last = end - 1
        while not isfinite(self._y[last]):
            last -= 1
        return Column(*self._extremes(begin, end, has_bad=num_bad > 0), self._y[last], num_bad)

    def _extremes(self, begin: int, end: int, *, has_bad: bool) -> tuple[float, float]:
        """Ragged ends are looked at on each level, what lies between them on the level above."""
        lows: list[float] = []
        highs: list[float] = []
        low_source = high_source = self._y
        for level in range(len(self._levels) + 1):
            head, tail = -(-begin // _FANOUT) * _FANOUT, end // _FANOUT * _FANOUT
            if head >= tail or level == len(self._levels):
                head = tail = end
            low_part = low_source[begin:head] + low_source[tail:end]
            if level == 0:
                high_part = low_part = array("d", filter(isfinite, low_part)) if has_bad else low_part
            else:
                high_part = high_source[begin:head] + high_source[tail:end]
            lows += low_part
            highs += high_part
            if head == end:
                break
            begin, end = head // _FANOUT, tail // _FANOUT
            low_source, high_source = self._levels[level]
        return min(lows, default=inf), max(highs, default=-inf)

    def _grow(self) -> None:
        """Add the blocks that have become full, on each level."""
        lows = highs = self._y
        level = 0
        if self._levels and len(self._y) - len(self._levels[0][0]) * _FANOUT < _FANOUT:
            return
        while len(lows) >= _FANOUT:
            if level == len(self._levels):
                self._levels.append((array("d"), array("d")))
            block_lows, block_highs = self._levels[level]
            first, end = len(block_lows) * _FANOUT, len(lows) // _FANOUT * _FANOUT
            low_values = lows[first:end].tolist()
            high_values = low_values if level == 0 else highs[first:end].tolist()
            if level == 0 and self._bad:
                # An infinity of the right sign is no extreme.
                high_values = [y if isfinite(y) else -inf for y in low_values]
                low_values = [y if isfinite(y) else inf for y in low_values]
            block_lows.extend(map(min, _blocks(low_values)))
            block_highs.extend(map(max, _blocks(high_values)))
            lows, highs, level = block_lows, block_highs, level + 1


def _blocks(values: list[float]) -> "Iterator[tuple[float, ...]]":
    """Each sixteen values; half the time of slices."""
    return zip(*[iter(values)] * _FANOUT, strict=True)


def median_of(values: Iterable[float]) -> float:
    """The median of the finite `values`; NaN where there is none."""
    return middle_of(sorted(filter(isfinite, values)))


def middle_of(ordered: Sequence[float]) -> float:
    """The median of values that are in order, none of them NaN; NaN where there is none."""
    middle = len(ordered) // 2
    if not ordered:
        return nan
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
