"""A histogram in text: bars of equal classes, with the limit that cuts them."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bars(values: ArrayLike, limit: int, width: int, *, num_classes: int = 10, is_ascii: bool = False) -> list[str]:
    """Lines such as `   512-1,023  ██████▌ 1,234`; classes beyond `limit` are marked.

    Args:
        values: whole numbers, at least one of them.
        limit: what is longer is marked with `>`.
        width: characters of the longest bar.
        num_classes: about how many lines.
        is_ascii: draw with `#` alone.
    """
    numbers = np.asarray(values, dtype=np.int64)
    step = _round_step(int(numbers.max()) + 1, num_classes)
    counts = np.bincount(numbers // step)
    labels = [f"{number * step:,}-{(number + 1) * step - 1:,}" for number in range(len(counts))]
    return list(_lines(labels, counts.tolist(), step, limit, width, is_ascii))


def _lines(
    labels: Sequence[str], counts: Sequence[int], step: int, limit: int, width: int, is_ascii: bool
) -> Iterator[str]:
    label_width, largest = max(map(len, labels)), max(counts)
    for number, (label, count) in enumerate(zip(labels, counts, strict=True)):
        mark = ">" if (number + 1) * step - 1 > limit else " "
        yield f"{mark}{label:>{label_width}}  {_bar(count / largest * width, is_ascii)} {count:,}".rstrip()


def _bar(length: float, is_ascii: bool) -> str:
    if is_ascii:
        return "#" * math.ceil(length)
    eighths = math.ceil(length * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _round_step(span: int, num_classes: int) -> int:
    """The smallest of 1, 2, 5 times a power of ten, or of a power of two from 64 on, with few enough classes."""
    candidates = [2**power for power in range(6, 40)] if span > 64 * num_classes else [1, 2, 5, 10, 20, 50, 64]
    return next(step for step in candidates if step * num_classes >= span)
