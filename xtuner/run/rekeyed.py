"""A series over something else than steps: tokens trained, or hours since the first step."""

from array import array
from bisect import bisect_left
from collections.abc import Callable
from math import inf

from xtuner.run.derived import DerivedView, Source
from xtuner.run.series import Series

XsOfSteps = Callable[[], "tuple[array[float], array[float]]"]


class Rekeyed(DerivedView):
    """The samples of `source`, each at the x that belongs to its step; a `SeriesView` that can be smoothed.

    Samples before the first step that has an x, and behind the last one, are left out.

    Args:
        source: by step.
        axis: steps in order, and the x of each, which never decrease; asked again whenever the source has changed.
    """

    def __init__(self, source: Source, axis: XsOfSteps) -> None:
        super().__init__(Series(), self._take_in)
        self._source = source
        self._axis = axis
        self._num_read = 0
        self._lengths = array("q")  # of this series, behind each sample of the source
        source.tell(self)

    def cut(self, num_kept: int, last_x: float) -> None:
        """Go back to what came of the first `num_kept` samples of the source."""
        if num_kept >= self._num_read:
            return
        length = self._lengths[num_kept - 1] if num_kept else 0
        if length < len(self._series):
            self._series.truncate_from(self._series.samples(length, length + 1)[0][0])
        if len(self._series) != length:  # equal x are cut together: begin again
            self._series.truncate_from(-inf)
            num_kept = 0
        self._num_read = num_kept
        del self._lengths[num_kept:]

    def _take_in(self) -> None:
        if self._num_read == len(self._source):
            return
        steps, ys = self._source.samples(self._num_read)
        known, xs = self._axis()
        new_x, new_y = array("d"), array("d")
        length = len(self._series)
        for step, y in zip(steps, ys, strict=True):
            place = bisect_left(known, step)
            if place == len(known):
                break  # its x comes with the next look
            self._num_read += 1
            if known[place] == step:
                new_x.append(xs[place])
                new_y.append(y)
                length += 1
            self._lengths.append(length)
        self._series.extend(new_x, new_y)
