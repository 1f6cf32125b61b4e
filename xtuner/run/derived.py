"""Views that follow series: smoothed ones, and the band of all ranks. Each sample is taken in once."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, compress
from math import inf, isfinite, nan
from typing import Protocol

from xtuner.run.series import Column, Follower, Series, middle_of

# A rank that is this many samples behind the fastest no longer keeps the band of the others open.
_BAND_LAG = 64
_SLICE = 2048  # samples of each rank that a band takes in at a time: some milliseconds


class Source(Protocol):
    """What can be smoothed: a series, or an edge of a band."""

    def __len__(self) -> int: ...

    def samples(self, begin: int = 0, end: int | None = None) -> "tuple[array[float], array[float]]":
        """As of `Series`."""

    def num_bad_before(self, index: int) -> int:
        """As of `Series`."""

    def tell(self, follower: Follower) -> None:
        """As of `Series`."""


class DerivedView:
    """A view of a series that is brought up to date before each look at it."""

    def __init__(self, series: Series, update: Callable[[], None]) -> None:
        self._series = series
        self._update = update

    def __len__(self) -> int:
        self._update()
        return len(self._series)

    def x_range(self) -> tuple[float, float] | None:
        """As of `SeriesView`."""
        self._update()
        return self._series.x_range()

    def columns(self, begin: float, end: float, num_columns: int) -> list[Column]:
        """As of `SeriesView`."""
        self._update()
        return self._series.columns(begin, end, num_columns)

    def value_at(self, x: float) -> tuple[float, float] | None:
        """As of `SeriesView`."""
        self._update()
        return self._series.value_at(x)

    def samples(self, begin: int = 0, end: int | None = None) -> "tuple[array[float], array[float]]":
        """As of `Series`."""
        self._update()
        return self._series.samples(begin, end)

    def num_bad_before(self, index: int) -> int:
        """As of `Series`."""
        self._update()
        return self._series.num_bad_before(index)

    def tell(self, follower: Follower) -> None:
        """As of `Series`."""
        self._series.tell(follower)


class Smoothed(DerivedView):
    """The exponential mean of a series without its bias towards 0, as TensorBoard draws it; a `SeriesView`.

    `last = last * weight + (1 - weight) * y`, shown is `last / (1 - weight**n)`. NaN and infinities are skipped.
    Samples are taken in as they come, each once.

    Args:
        series: what is smoothed.
        weight: 0 for no smoothing, up to (not including) 1.

    Raises:
        ValueError: `weight` is outside of [0, 1).
    """

    def __init__(self, series: Source, weight: float) -> None:
        if not 0 <= weight < 1:
            raise ValueError(f"a smoothing weight is in [0, 1), not {weight}")
        super().__init__(Series(), self._take_in)
        self._source = series
        self._weight = weight
        self._num_read = 0
        self._last = 0.0
        self._bias = 1.0  # weight ** n
        series.tell(self)

    def cut(self, num_kept: int, last_x: float) -> None:
        """Go back to where the mean was after the first `num_kept` samples of the source."""
        if num_kept >= self._num_read:
            return
        num_finite = num_kept - self._source.num_bad_before(num_kept)
        if num_finite < len(self._series):
            self._series.truncate_from(self._series.samples(num_finite, num_finite + 1)[0][0])
        # Equal x are cut together: what was cut too much is taken in again.
        assert len(self._series) <= num_finite
        self._restart(num_kept if len(self._series) == num_finite else 0)

    def _restart(self, num_read: int) -> None:
        if num_read == 0:
            self._series.truncate_from(-inf)
        self._num_read = num_read
        self._bias = self._weight ** len(self._series)
        self._last = self._series.samples(-1)[1][0] * (1 - self._bias) if len(self._series) else 0.0

    def _take_in(self) -> None:
        num_samples = len(self._source)  # first: a band that is brought up to date takes samples back
        if self._num_read == num_samples:
            return
        xs, ys = self._source.samples(self._num_read)
        self._num_read += len(xs)
        if self._source.num_bad_before(num_samples) > self._source.num_bad_before(num_samples - len(xs)):
            finite = list(map(isfinite, ys))
            xs, ys = array("d", compress(xs, finite)), array("d", compress(ys, finite))
        self._series.extend(xs, self._smooth(ys))

    def _smooth(self, ys: "array[float]") -> "array[float]":
        weight, bias = self._weight, self._bias
        share = 1 - weight
        means = array("d", accumulate(ys, lambda last, y: last * weight + share * y, initial=self._last))[1:]
        self._last = means[-1] if means else self._last
        shown = array("d")
        for mean in means:
            bias *= weight
            if 1 - bias == 1:  # soon there is no bias left
                break
            shown.append(mean / (1 - bias))
        self._bias = bias if len(shown) == len(means) else 0.0
        return shown + means[len(shown) :]


class Band:
    """What all ranks together did in each step: three series views, of the minimum, median and maximum.

    NaN and infinities are left out; a step without any other value has none in the band. A step is taken up as soon
    as one rank has said it, and corrected when others follow.
    """

    def __init__(self, ranks: Iterable[Series]) -> None:
        self._ranks = tuple(ranks)
        self._edges = (Series(), Series(), Series())
        self._stable_until = -inf  # what lies before is not looked at again
        for series in self._ranks:
            series.tell(self)
        self._num_seen = [0] * len(self._ranks)
        self.low, self.median, self.high = (DerivedView(edge, self._take_in) for edge in self._edges)

    def cut(self, num_kept: int, last_x: float) -> None:
        """A rank took samples back: all from there on are looked at again."""
        self._stable_until = min(self._stable_until, last_x)
        self._num_seen = []

    @property
    def is_near(self) -> bool:
        """Whether so little is left to take in that a look may as well do it."""
        first = self._stable_until
        return all(len(series) - series.position(first) <= _SLICE for series in self._ranks)

    def advance(self) -> None:
        """Take in a part of what is left, which takes some milliseconds; a look takes in all of it."""
        begin = self._stable_until
        ahead = [
            series.samples(place, place + _SLICE)[0] for series in self._ranks for place in [series.position(begin)]
        ]
        ends = [xs[-1] for xs in ahead if len(xs) == _SLICE]
        self._take_in_until(min(ends, default=inf))

    def _take_in(self) -> None:
        if [len(series) for series in self._ranks] != self._num_seen:
            self._num_seen = [len(series) for series in self._ranks]
            self._take_in_until(inf)

    def _take_in_until(self, end: float) -> None:
        begin = self._stable_until
        parts = [series.samples(series.position(begin), series.position(end)) for series in self._ranks]
        xs, *edges = low_median_high(parts)
        for edge, ys in zip(self._edges, edges, strict=True):
            edge.truncate_from(begin)
            edge.extend(xs, ys)
        self._stable_until = min(end, self._find_stable())

    def _find_stable(self) -> float:
        """The last step of the slowest rank, or that some samples before the end of the fastest."""
        ends = [span[1] if (span := series.x_range()) else -inf for series in self._ranks]
        fastest = self._ranks[ends.index(max(ends))]
        lagging = fastest.samples(-_BAND_LAG)[0]
        return max(min(ends), lagging[0] if len(lagging) == _BAND_LAG else -inf)


def low_median_high(parts: "Iterable[tuple[array[float], array[float]]]") -> "tuple[Sequence[float], ...]":
    """All x of some series in order, and the minimum, median and maximum of their finite values at each.

    Where there is none, all three are NaN.
    """
    parts = [part for part in parts if part[0]]
    xs: Sequence[float] = parts[0][0] if parts else ()
    rows: Iterable[Sequence[float]] = zip(*(ys for _, ys in parts), strict=True)
    if any(other != xs for other, _ in parts):
        steps: dict[float, list[float]] = {}
        for x, y in (pair for part in parts for pair in zip(*part, strict=True)):
            steps.setdefault(x, []).append(y)
        xs = sorted(steps)
        rows = map(steps.__getitem__, xs)
    if not all(isfinite(sum(ys)) for _, ys in parts):  # NaN cannot be sorted
        rows = (list(filter(isfinite, row)) or [nan] for row in rows)
    ordered = list(map(sorted, rows))
    return xs, [row[0] for row in ordered], list(map(middle_of, ordered)), [row[-1] for row in ordered]
