"""What stands out in series: spikes, slow ranks, falling throughput, creeping memory. Pure functions."""

import math
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from xtuner.run.series import Series, median_of

NUM_RECENT = 20
_MIN_STEPS = 50
NUM_COMPARED = 200
_SPIKE_Z = 8.0
_EMA_WEIGHT = 0.9
_MAD_TO_SIGMA = 1.4826
_STRAGGLER_Z = 3.5
_STRAGGLER_RATIO = 1.1
_STRAGGLER_STEPS = 5
# A rank that waits a hundredth of a step longer is not worth a word.
_STRAGGLER_SHARE = 0.01
_STRAGGLER_KEYS = ("data_time", "time")
_DROP_RATIO = 0.8
_NUM_DROPPED = 10
_NUM_CREEP_PARTS = 4


class Samples(Protocol):
    """A series, or what is derived from one."""

    def samples(self, begin: int = 0, end: int | None = None) -> "tuple[array[float], array[float]]":
        """A copy of the samples at these positions."""


class Spike(NamedTuple):
    """A value far above the mean before it; `z` counts robust standard deviations."""

    step: float
    value: float
    mean: float
    z: float


class Straggler(NamedTuple):
    """A rank that was slower than the others in `num_slow` of the last `num_looked_at` steps."""

    rank: int
    key: str
    seconds: float
    median_s: float
    num_slow: int
    num_looked_at: int
    z: float

    @property
    def sentence(self) -> str:
        """Who is slow, and by how much."""
        return f"rank {self.rank}: {self.key} {self.seconds:.2f} s against a median of {self.median_s:.2f} s"


def find_spike(series: Samples) -> Spike | None:
    """The highest of the last 20 values, if it is far above the smoothed mean before it.

    Far is a robust z of 8: the residual against the mean, less the median residual, over 1.4826 times their median
    absolute deviation, which is taken to be no less than a hundredth of the mean. A loss that falls has no spikes.
    """
    xs, ys = series.samples(-NUM_COMPARED)
    residuals: list[tuple[float, float, float, float]] = []
    mean, weight = 0.0, 0.0
    for x, y in zip(xs, ys, strict=True):
        if not math.isfinite(y):
            continue
        if weight:
            residuals.append((y - mean / weight, x, y, mean / weight))
        mean, weight = _EMA_WEIGHT * mean + (1 - _EMA_WEIGHT) * y, _EMA_WEIGHT * weight + 1 - _EMA_WEIGHT
    if len(residuals) < _MIN_STEPS:
        return None
    middle = median_of(residual for residual, *_ in residuals)
    deviation = median_of(abs(residual - middle) for residual, *_ in residuals)
    residual, step, value, before = max(residuals[-NUM_RECENT:])
    z = (residual - middle) / max(_MAD_TO_SIGMA * deviation, 0.01 * abs(before), 1e-9)
    return Spike(step, value, before, z) if z > _SPIKE_Z else None


def find_stragglers(ranks: Mapping[int, Mapping[str, Series]]) -> list[Straggler]:
    """Ranks that were slow in at least 5 of the last 20 steps: robust z above 3.5 and more than 10 % above the median.

    Compared step by step, so that long steps are not held against anybody. Two ranks alone cannot be told apart.
    """
    found: dict[int, Straggler] = {}
    for key in _STRAGGLER_KEYS:
        columns = {number: _recent(series[key]) for number, series in ranks.items() if series.get(key)}
        for straggler in _slow_in(key, columns, _step_time_s(ranks)):
            found.setdefault(straggler.rank, straggler)
    return sorted(found.values(), key=lambda straggler: -straggler.z)


def _slow_in(key: str, columns: Mapping[int, Mapping[float, float]], step_time_s: float) -> list[Straggler]:
    if len(columns) < 3:
        return []
    steps = sorted({step for column in columns.values() for step in column})[-NUM_RECENT:]
    slow: dict[int, list[tuple[float, float, float]]] = {}
    for step in steps:
        values = {rank: column[step] for rank, column in columns.items() if step in column}
        median_s = median_of(values.values())
        deviation_s = median_of(abs(value - median_s) for value in values.values())
        sigma_s = max(_MAD_TO_SIGMA * deviation_s, 0.02 * median_s, 1e-6)
        limit_s = max(_STRAGGLER_RATIO * median_s, median_s + _STRAGGLER_SHARE * step_time_s)
        for rank, value in values.items():
            if value > limit_s and value - median_s > _STRAGGLER_Z * sigma_s:
                slow.setdefault(rank, []).append((value, median_s, (value - median_s) / sigma_s))
    found = []
    for rank, times in slow.items():
        if len(times) >= _STRAGGLER_STEPS:
            seconds, median_s, z = (median_of(column) for column in zip(*times, strict=True))
            found.append(Straggler(rank, key, seconds, median_s, len(times), len(steps), z))
    return found


def _recent(series: Series) -> dict[float, float]:
    xs, ys = series.samples(-2 * NUM_RECENT)
    return dict(zip(xs, ys, strict=True))


def _step_time_s(ranks: Mapping[int, Mapping[str, Series]]) -> float:
    """The median time of the last steps of one rank; 0 where there is none."""
    series = next((rank["time"] for rank in ranks.values() if "time" in rank), None)
    median_s = median_of(series.samples(-NUM_RECENT)[1]) if series else 0.0
    return 0.0 if math.isnan(median_s) else median_s


def find_drop(values: Sequence[float]) -> tuple[float, float] | None:
    """Median rate before, and of the last ten of `values`, if that is below four fifths of what it was."""
    if len(values) < _MIN_STEPS + _NUM_DROPPED:
        return None
    before, now = median_of(values[:-_NUM_DROPPED]), median_of(values[-_NUM_DROPPED:])
    return (before, now) if now < _DROP_RATIO * before else None


def find_creep(memory: Samples) -> float:
    """By how much memory grows a step, if it grew in each quarter of the last 200 steps, else 0."""
    values = memory.samples(-NUM_COMPARED)[1]
    if len(values) < NUM_COMPARED:
        return 0.0
    length = NUM_COMPARED // _NUM_CREEP_PARTS
    means = [sum(values[begin : begin + length]) / length for begin in range(0, NUM_COMPARED, length)]
    if not all(before < after for before, after in pairwise(means)):
        return 0.0
    return (means[-1] - means[0]) / (NUM_COMPARED - length)


def num_steps_until_limit(now: float, growth: float, limit: float) -> float:
    """Steps until `limit` is reached; infinite without growth."""
    return max(0.0, limit - now) / growth if growth > 0 else math.inf
