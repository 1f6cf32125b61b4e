"""Where the rows of a file are, found by one thread and read by others.

A `.jsonl` file costs 8 bytes a row, however large it is: the offsets of its lines. Of other kinds (compressed, one
JSON array, parquet), which cannot be read in the middle, the lines themselves are held, up to a limit that is said.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from xtuner.data.finder import RawRow
from xtuner.data.jsonl import MAX_LINE_BYTES
from xtuner.data.lines import LineReader, require_unchanged
from xtuner.data.sources import DataFile
from xtuner.tui.preview.offsets import LineScanner

HELD_ROWS = 100_000
HELD_BYTES = 512 * 2**20
SCAN_BYTES = 2**20
BLOCK_BYTES = 2**18  # searched at once: a few ms during which Python can do nothing else

_READ_LIMIT = MAX_LINE_BYTES + 1  # a line that is read so far is known to be too long


@dataclass(frozen=True)
class Block:
    """Consecutive rows as bytes; `row_at` tells the row of a position in them."""

    first: int
    stop: int
    data: bytes
    row_at: Callable[[int], int]


class RowIndex(Protocol):
    """The rows of one file. One thread may `build` while others read what is there."""

    counts_lines: bool  # whether rows go by their line in the file, or by their place
    is_done: bool  # whether no more rows will come
    is_limited: bool  # whether there are more rows than are held

    def __len__(self) -> int: ...

    @property
    def share_read(self) -> float:
        """How much of the file was looked through, 0 to 1."""

    def build(self, is_stale: Callable[[], bool], on_growth: Callable[[], object]) -> None:
        """Find all rows.

        Raises:
            DataError: the file cannot be read, is broken, or changed meanwhile.
            OSError: the disk fails.
        """

    def size_of(self, row: int) -> int:
        """Bytes of a row, with blank lines that follow it."""

    def read(self, row: int, limit: int = _READ_LIMIT) -> RawRow:
        """A row, at most `limit` bytes of it.

        Raises:
            OSError: the disk fails.
        """

    def number_of(self, row: int) -> int:
        """The number that a person knows the row by, from 1."""

    def row_at(self, number: int) -> int:
        """The first row with this number or a higher one; the length when there is none yet."""

    def blocks(self, first: int, stop: int) -> Iterator[Block]:
        """The rows from `first` up to `stop`, many at once."""

    def close(self) -> None:
        """Give the file back."""


def open_index(file: DataFile) -> RowIndex:
    """The index of `file`, empty until it is built.

    Raises:
        OSError: the file cannot be opened.
    """
    return OffsetIndex(file) if file.kind == "jsonl" else HeldRows(file)


class OffsetIndex:
    """A `.jsonl` file: only offsets are kept, rows are read when they are looked at."""

    counts_lines = True
    is_limited = False

    def __init__(self, file: DataFile) -> None:
        self._file = file
        self._descriptor = os.open(file.path, os.O_RDONLY)
        self._lines = LineScanner(lambda size, at: os.pread(self._descriptor, size, at))
        self.is_done = False

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def share_read(self) -> float:
        """How much of the file was looked through, 0 to 1."""
        return min(1.0, self._lines.position / max(1, self._file.state.size))

    def build(self, is_stale: Callable[[], bool], on_growth: Callable[[], object]) -> None:
        """Find all rows; see `RowIndex`."""
        try:
            while not is_stale() and self._lines.scan(SCAN_BYTES):
                on_growth()
            if not is_stale():
                require_unchanged(self._file)
        finally:
            self.is_done = True

    def size_of(self, row: int) -> int:
        """Bytes of a row, with blank lines that follow it."""
        return self._lines.end_of(row) - self._lines.starts[row]

    def read(self, row: int, limit: int = _READ_LIMIT) -> RawRow:
        """A row, at most `limit` bytes of it."""
        line = os.pread(self._descriptor, min(self.size_of(row), limit), self._lines.starts[row])
        line = line[: line.find(b"\n") + 1 or len(line)]
        return RawRow(self.number_of(row), line, is_last=not line.endswith(b"\n"))

    def number_of(self, row: int) -> int:
        """The row's line in the file."""
        return row + 1 + self._lines.skipped_before(row)

    def row_at(self, number: int) -> int:
        """The first row on this line or a later one."""
        low, high = max(0, number - 1 - self._lines.num_blank), max(0, number - 1)
        high = min(high, len(self))
        return bisect_left(range(min(low, high), high), number, key=self.number_of) + min(low, high)

    def blocks(self, first: int, stop: int) -> Iterator[Block]:
        """The rows from `first` up to `stop`, many at once."""
        starts = self._lines.starts
        while first < stop:
            begin = starts[first]
            end_row = max(first + 1, bisect_right(starts, begin + BLOCK_BYTES, first, stop) - 1)
            size = min(self._lines.end_of(end_row - 1) - begin, _READ_LIMIT)
            data = os.pread(self._descriptor, size, begin)
            yield Block(first, end_row, data, _row_finder(starts, begin, first, end_row))
            first = end_row

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


def _row_finder(starts: "array[int]", begin: int, first: int, stop: int) -> Callable[[int], int]:
    return lambda position: bisect_right(starts, begin + position, first, stop) - 1


class HeldRows:
    """Any other kind of file: its first rows, held in memory."""

    def __init__(self, file: DataFile, max_rows: int = HELD_ROWS, max_bytes: int = HELD_BYTES) -> None:
        self._file = file
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._rows: list[bytes] = []
        self._numbers = array("Q")
        self._read_bytes = 0
        self.counts_lines = file.kind != "array"  # of an array, all rows may stand on one line
        self.is_done = self.is_limited = False

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def share_read(self) -> float:
        """How much of the file was looked through, 0 to 1."""
        return 1.0 if self.is_done else min(1.0, self._read_bytes / max(1, self._file.state.size))

    def build(self, is_stale: Callable[[], bool], on_growth: Callable[[], object]) -> None:
        """Read rows up to the limit; see `RowIndex`."""
        num_bytes = 0
        try:
            for chunk in LineReader(self._file).chunks():
                if is_stale():
                    return
                room = self._max_rows - len(self._rows)
                if not room or num_bytes > self._max_bytes:
                    self.is_limited = True
                    return
                self._numbers.extend(chunk.numbers[:room])
                self._rows += chunk.lines[:room]
                num_bytes += sum(map(len, chunk.lines))
                self._read_bytes = chunk.read_bytes
                self.is_limited = len(chunk.lines) > room
                on_growth()
                if self.is_limited:
                    return
        finally:
            self.is_done = True

    def size_of(self, row: int) -> int:
        """Bytes of a row."""
        return len(self._rows[row])

    def read(self, row: int, limit: int = _READ_LIMIT) -> RawRow:
        """A row, at most `limit` bytes of it."""
        line = self._rows[row][:limit]
        is_cut = self.counts_lines and not line.endswith(b"\n")
        return RawRow(self._numbers[row], line, is_last=is_cut)

    def number_of(self, row: int) -> int:
        """The row's line in the unpacked file; of an array, its place."""
        return self._numbers[row] if self.counts_lines else row + 1

    def row_at(self, number: int) -> int:
        """The first row with this number or a higher one."""
        if self.counts_lines:
            return bisect_left(self._numbers, number, 0, len(self._rows))
        return min(max(0, number - 1), len(self._rows))

    def blocks(self, first: int, stop: int) -> Iterator[Block]:
        """The rows from `first` up to `stop`, one by one."""
        for row in range(first, stop):
            yield Block(row, row + 1, self._rows[row], lambda _, row=row: row)  # type: ignore[misc]

    def close(self) -> None:
        """Nothing is open."""
