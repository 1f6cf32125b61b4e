"""Axes: which values are labelled, how numbers are written, and where a value lies among so many pixels."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SUFFIXES_FROM = 1e4  # below, all digits are shorter and exact
_SCIENTIFIC_BELOW = 1e-3
_SCIENTIFIC_FROM = 1e15
_MAX_DECIMALS = 6
_MAX_FLOAT = sys.float_info.max
# The end of a growing axis is a multiple of a nice part of it: what is drawn stays where it is for a while.
_PARTS_OF_GROWTH = 25


class Tick(NamedTuple):
    """A value with its label."""

    value: float
    label: str


def format_value(value: float) -> str:
    """A number in about four digits: `1.684`, `1,234`, `805.3k`, `2e-05`, `nan`."""
    size = abs(value)
    if not math.isfinite(value) or size >= _SCIENTIFIC_FROM:
        return f"{value:.4g}"
    if size >= _SUFFIXES_FROM:
        unit, suffix = next(pair for pair in _SUFFIXES if size >= pair[0])
        return f"{value / unit:.4g}{suffix}" if size < 999.95 * unit else f"{value / unit:.0f}{suffix}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def format_count(value: float) -> str:
    """A step, or another whole number: `1,234`; beyond a million shorter: `1.25M`."""
    if not math.isfinite(value) or abs(value) >= 1e6:
        return format_value(value)
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:,.4g}"


def nice_step(size: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least `size`; 1 where there is none."""
    if not 0 < size < math.inf:
        return 1.0
    power = _power_of_ten(math.floor(math.log10(size)))
    if power == 0:
        return size
    return next((power * factor for factor in (1, 2, 5) if power * factor >= size * (1 - 1e-9)), power * 10)


def linear_ticks(low: float, high: float, max_ticks: int) -> list[Tick]:
    """At most `max_ticks` round values in `[low, high]`, no two with the same label."""
    if max_ticks < 1 or not low < high or not math.isfinite(high - low):
        return []
    step = nice_step((high - low) / max_ticks)
    first = math.ceil(low / step - 1e-9)
    values = [(first + place) * step for place in range(max_ticks + 2)]
    inside = [value for value in values if value <= high + step * 1e-9 and math.isfinite(value)]
    if len(inside) > max_ticks:
        inside = inside[::2]
    return _labelled(inside, step) if inside else []


def log_ticks(low: float, high: float, max_ticks: int) -> list[Tick]:
    """Powers of ten in `[low, high]`, both above 0; where few lie there, also 2 and 5 times one, or round values."""
    if max_ticks < 1 or not 0 < low <= high < math.inf:
        return []
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / max_ticks))
    values = [_power_of_ten(power) for power in range(first, last + 1, stride)]
    if len(values) < 3:
        finer = [_power_of_ten(power) * factor for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
        finer = [value for value in finer if low <= value <= high]
        values = finer if len(values) < len(finer) <= max_ticks else values
    if len(values) < 2:
        return linear_ticks(low, high, max_ticks)
    return [Tick(value, format_value(value)) for value in values if 0 < value < math.inf]


def _power_of_ten(power: int) -> float:
    return float(f"1e{power}")  # exact, where 10.0 ** power is not, and 0 or inf beyond the range of floats


def _labelled(values: list[float], step: float) -> list[Tick]:
    """Labels with as many digits as tell `values` apart, and all with the same suffix."""
    biggest = max((abs(value) for value in values), default=0.0)
    if biggest >= _SCIENTIFIC_FROM or 0 < biggest < _SCIENTIFIC_BELOW:
        digits = max(0, math.floor(math.log10(biggest)) - math.floor(math.log10(step) + 1e-9))
        labels = [f"{value:.{min(digits, _MAX_DECIMALS)}e}" if value else "0" for value in values]
    else:
        fits = (pair for pair in _SUFFIXES if biggest >= max(pair[0], _SUFFIXES_FROM))
        unit, suffix = next(fits, (1.0, ""))
        decimals = min(_MAX_DECIMALS, max(0, -math.floor(math.log10(step / unit) + 1e-9)))
        labels = [f"{value / unit:,.{decimals}f}{suffix}" if value else "0" for value in values]
    seen: dict[str, float] = {}
    for value, label in zip(values, labels, strict=True):
        seen.setdefault(label, value)
    return [Tick(value, label) for label, value in seen.items()]


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high`, which is larger; both above 0 where it is logarithmic."""

    low: float
    high: float
    is_log: bool = False

    def to_pixel(self, num_pixels: int) -> Callable[[float], int]:
        """A function from a finite value to its pixel, from 0; what lies outside gets the nearest one."""
        top = num_pixels - 1
        if self.is_log:
            log_low = math.log10(self.low)
            per_decade = _ratio(top, math.log10(self.high) - log_low)
            low = self.low

            def log_pixel(value: float) -> int:
                if value <= low:
                    return 0
                return min(top, int((math.log10(value) - log_low) * per_decade + 0.5))

            return log_pixel
        # Halved, as the difference of two floats may be beyond all floats.
        half_low = self.low * 0.5
        per_half = _ratio(top, self.high * 0.5 - half_low)

        def pixel(value: float) -> int:
            place = (value * 0.5 - half_low) * per_half + 0.5
            if place < 0:
                return 0
            return int(place) if place < num_pixels else top

        return pixel

    def ticks(self, max_ticks: int) -> list[Tick]:
        """Labelled values of the scale."""
        return (log_ticks if self.is_log else linear_ticks)(self.low, self.high, max_ticks)


def _ratio(numerator: float, denominator: float) -> float:
    ratio = numerator / denominator if denominator > 0 else 0.0
    return ratio if math.isfinite(ratio) else 0.0


def scale_for(values: Sequence[tuple[float, float]], *, is_log: bool = False) -> Scale | None:
    """The scale that shows all `(low, high)`, a little rounded outwards; None where there is nothing to show.

    On a logarithmic scale only what is above 0 counts.
    """
    if is_log:
        values = [(low if low > 0 else high, high) for low, high in values if high > 0]
    if not values:
        return None
    low, high = min(low for low, _ in values), max(high for _, high in values)
    if is_log:
        return Scale(low, high, True) if low < high else Scale(low / 2 or low, min(high * 2, _MAX_FLOAT), True)
    return _rounded(low, high)


def _rounded(low: float, high: float) -> Scale:
    if low == high:
        margin = abs(low) * 0.05 or 1.0
        return Scale(max(low - margin, -_MAX_FLOAT), min(high + margin, _MAX_FLOAT))
    step = nice_step((high * 0.5 - low * 0.5) / 8)
    rounded = Scale(math.floor(low / step) * step, math.ceil(high / step) * step)
    is_sound = math.isfinite(rounded.high - rounded.low) and rounded.low <= low < high <= rounded.high
    return rounded if is_sound else Scale(low, high)


def growing_range(begin: float, end: float) -> tuple[float, float]:
    """`[begin, end]` with its end rounded up, so that columns do not move with each new sample."""
    if not math.isfinite(end - begin):
        return begin, end
    if end <= begin:
        return begin, begin + 1
    step = nice_step((end - begin) / _PARTS_OF_GROWTH)
    rounded = begin + math.ceil((end - begin) / step - 1e-9) * step
    return begin, max(end, rounded)
