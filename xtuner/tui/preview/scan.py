"""Going through all rows for those that are looked for: text, or rows in error."""

import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from xtuner.data.options import FormatName
from xtuner.data.text_search import TextPattern
from xtuner.tui.preview.background import IsStale
from xtuner.tui.preview.index import RowIndex
from xtuner.tui.preview.summary import error_of

_POLL_S = 0.05  # how often to look for new rows while the file is still being read
_REPORT_S = 0.1

Step = tuple[list[int], int, bool]  # rows found, where the scan stands, whether it is past the end of the file


def search(index: RowIndex, text: str, origin: int, is_stale: IsStale) -> Iterator[Step]:
    """Rows that hold `text`: from `origin` to the end, then from the beginning to `origin`."""
    pattern = TextPattern(text)
    for first, stop, is_wrapped in _ranges(index, origin, is_stale):
        for block in index.blocks(first, stop):
            if is_stale():
                return
            found = dict.fromkeys(map(block.row_at, pattern.places(block.data)))
            yield list(found), block.stop, is_wrapped


def find_error(
    index: RowIndex, format: FormatName, origin: int, known: frozenset[int], is_stale: IsStale
) -> Iterator[Step]:
    """Rows in error: those `known`, and what can be seen without a tokenizer; after `origin`, wrapping to it."""
    for first, stop, is_wrapped in _ranges(index, origin + 1, is_stale):
        for row in range(first, stop):
            if is_stale():
                return
            is_error = row in known or error_of(index, row, format)
            yield [row] if is_error else [], row + 1, is_wrapped


def _ranges(index: RowIndex, origin: int, is_stale: IsStale) -> Iterator[tuple[int, int, bool]]:
    """All rows from `origin` as they are found, then those before it."""
    row = origin
    while not is_stale():
        is_done, stop = index.is_done, len(index)  # in this order: the last rows come before the flag
        if row < stop:
            yield row, stop, False
            row = stop
        elif is_done:
            yield 0, min(origin, stop), True
            return
        else:
            time.sleep(_POLL_S)


def batched(steps: Iterator[Step], send: Callable[[Step, bool], object], is_stale: IsStale) -> None:
    """Send steps on, not more than some each second, but the first find at once; the last one with True."""
    rows: list[int] = []
    position, was_wrapped, has_sent, sent = 0, False, False, time.monotonic()
    for found, until, is_wrapped in steps:
        if is_wrapped and not was_wrapped:
            send((rows, position, False), False)
            rows = []
        rows, position, was_wrapped = rows + found, until, is_wrapped
        if (rows and not has_sent) or time.monotonic() - sent > _REPORT_S:
            has_sent = has_sent or bool(rows)
            send((rows, position, is_wrapped), False)
            rows, sent = [], time.monotonic()
    if not is_stale():
        send((rows, position, was_wrapped), True)


@dataclass
class Matches:
    """Rows found so far, on their way around the file from `origin`; 8 bytes each."""

    text: str
    origin: int
    is_done: bool = False
    _after: "array[int]" = field(default_factory=lambda: array("Q"))
    _before: "array[int]" = field(default_factory=lambda: array("Q"))
    _after_until: int = 0
    _before_until: int = 0

    def __len__(self) -> int:
        return len(self._after) + len(self._before)

    def __contains__(self, row: int) -> bool:
        rows = self._before if row < self.origin else self._after
        place = bisect_left(rows, row)
        return place < len(rows) and rows[place] == row

    @property
    def num_scanned(self) -> int:
        """Rows looked at."""
        return max(0, self._after_until - self.origin) + self._before_until

    def add(self, step: Step, is_done: bool) -> None:
        """What the scan found next."""
        rows, until, is_wrapped = step
        for row in rows:
            (self._before if row < self.origin else self._after).append(row)
        if is_wrapped:
            self._before_until = until
        else:
            self._after_until = until
        self.is_done = is_done

    def place_of(self, row: int) -> int:
        """Which match the row is, from 1; only what is found counts."""
        if row < self.origin:
            return bisect_left(self._before, row) + 1
        return len(self._before) + bisect_left(self._after, row) + 1

    def next(self, row: int, *, direction: int) -> int | None:
        """The match after or before `row`, around the file; None while it cannot be told, or when there is none."""
        found = self._after_row(row) if direction > 0 else self._before_row(row)
        if found is not None and self._is_scanned(min(row, found), max(row, found)):
            return found
        if not self.is_done or not len(self):
            return None
        return found if found is not None else self._at(0 if direction > 0 else -1)

    def _at(self, place: int) -> int:
        rows = [*self._before[:1], *self._after[:1]] if place == 0 else [*self._after[-1:], *self._before[-1:]]
        return rows[0]

    def _after_row(self, row: int) -> int | None:
        for rows in (self._before, self._after):
            place = bisect_right(rows, row)
            if place < len(rows):
                return rows[place]
        return None

    def _before_row(self, row: int) -> int | None:
        for rows in (self._after, self._before):
            place = bisect_left(rows, row)
            if place:
                return rows[place - 1]
        return None

    def _is_scanned(self, low: int, high: int) -> bool:
        """Whether all rows between the two were looked at; one of them was, being a match."""
        if self.is_done:
            return True
        if low >= self.origin - 1:
            return high <= self._after_until
        return high < self.origin and high <= self._before_until
