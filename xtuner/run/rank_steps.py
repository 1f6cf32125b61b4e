"""The steps of one rank, put together from what two files say, newest part first.

Three things are told apart. The past comes after what is newest and goes before it. A step at or before the last
one means that the run went back to a checkpoint: what followed is void. And a step of the metrics file takes the
place of the same step of the text log, which has fewer digits.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice, pairwise
from math import inf, isnan, nextafter
from operator import lt

from xtuner.run.blocks import StepBlock
from xtuner.run.series import Series


class RankSteps:
    """The series of one rank.

    Attributes:
        series: by key; `timestamp` is among them, in seconds since the epoch.
        last_step: the newest step, None before the first.
        last_heard: when the newest step was read, by the reader's clock.
        last_time: when the rank said it, by its own.
    """

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.last_step: float | None = None
        self.last_heard: float | None = None
        self.last_time: float | None = None
        self._precise_until = -inf  # the last step of the metrics file
        self._rough_until = -inf  # the last step of the text log
        # The past of a file ends before the first of its newest steps.
        self._precise_floor = self._rough_floor = inf
        self._past_until = -inf

    def add_past(self, block: StepBlock, *, is_precise: bool) -> list[tuple[float, float]]:
        """Steps from before those that were read first; returns where the run went back, as `add` does."""
        rewinds = []
        floor = self._precise_floor if is_precise else min(self._precise_floor, self._rough_floor)
        for begin, end in _runs(block.steps):
            if block.steps[begin] <= self._past_until:
                rewinds.append((self._past_until, block.steps[begin]))
            self._past_until = block.steps[end - 1]
            end = bisect_left(block.steps, floor, begin, end)
            if begin < end:
                for key, ys in _columns(block, begin, end):
                    self._of(key).splice(block.steps[begin:end], ys, before=floor)
        return rewinds

    def add(self, block: StepBlock, now: float, *, is_precise: bool) -> list[tuple[float, float]]:
        """New steps; returns where the run went back, as (from the last step, to this one)."""
        rewinds = []
        for begin, end in _runs(block.steps):
            rewinds += self._add_precise(block, begin, end) if is_precise else self._add_rough(block, begin, end)
            self.last_heard = now
            if not isnan(block.times[end - 1]):
                self.last_time = block.times[end - 1]
        return rewinds

    def _add_precise(self, block: StepBlock, begin: int, end: int) -> list[tuple[float, float]]:
        first, before = block.steps[begin], self._precise_until
        if first <= before:
            self._void_from(first)
        self._precise_until, self._precise_floor = block.steps[end - 1], min(self._precise_floor, first)
        self._put(block, begin, end)
        return [(before, first)] if first <= before else []

    def _add_rough(self, block: StepBlock, begin: int, end: int) -> list[tuple[float, float]]:
        first, before = block.steps[begin], self._rough_until
        if first <= before:
            # Only what the metrics file has not told: that tells by itself where the run went back.
            self._void_from(max(first, nextafter(self._precise_until, inf)))
        self._rough_until, self._rough_floor = block.steps[end - 1], min(self._rough_floor, first)
        begin = _skip(block.steps, begin, end, self._precise_until)
        if begin < end:
            self._put(block, begin, end)
        return [(before, first)] if first <= before and self._precise_until == -inf else []

    def _put(self, block: StepBlock, begin: int, end: int) -> None:
        steps = block.steps[begin:end]
        for key, ys in _columns(block, begin, end):
            # Behind steps that come in order may lie rough ones, which the metrics file has not told yet.
            self._of(key).splice(steps, ys, before=nextafter(steps[-1], inf))
        ends = [span[1] for key in block.values if (span := self.series[key].x_range())]
        self.last_step = max(ends, default=steps[-1])

    def _void_from(self, step: float) -> None:
        for series in self.series.values():
            series.truncate_from(step)

    def _of(self, key: str) -> Series:
        return self.series.setdefault(key, Series())


def _columns(block: StepBlock, begin: int, end: int) -> "Iterator[tuple[str, array[float]]]":
    for key, column in block.values.items():
        yield key, column[begin:end]
    times = block.times[begin:end]
    if not isnan(times[0]):
        yield "timestamp", times


def _runs(steps: "array[float]") -> list[tuple[int, int]]:
    """Where steps increase without interruption, as ranges of positions."""
    if all(map(lt, steps, islice(steps, 1, None))):  # nearly always; a fifth of the time of looking for breaks
        return [(0, len(steps))] if steps else []
    breaks = [index for index in range(1, len(steps)) if steps[index] <= steps[index - 1]]
    edges = [0, *breaks, len(steps)]
    return [(begin, end) for begin, end in pairwise(edges) if begin < end]


def _skip(steps: "array[float]", begin: int, end: int, until: float) -> int:
    """The first position behind the steps up to `until`."""
    while begin < end and steps[begin] <= until:
        begin += 1
    return begin
