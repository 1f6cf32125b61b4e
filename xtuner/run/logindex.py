"""Lines of text logs of any size by their place in the file, without reading the rest."""

import os
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from xtuner.run.tail import TailBlock

_PART_BYTES = 2**14
_MAX_READ_BYTES = 2**20


class PlacedLine(NamedTuple):
    """A line, and where in the file it begins."""

    begin: int
    text: str


class Parts(NamedTuple):
    """A stretch of a file in parts of some 16 KiB: where each begins and how many lines it has."""

    begins: "array[int]"
    nums_lines: "array[int]"
    end: int


def parts_of(block: TailBlock) -> Parts:
    """The parts of a block of whole lines."""
    data, begins, nums_lines = block.data, array("q"), array("q")
    begin = 0
    while begin < len(data):
        end = data.find(b"\n", begin + _PART_BYTES - 1) + 1 or len(data)
        begins.append(block.begin + begin)
        nums_lines.append(data.count(b"\n", begin, end))
        begin = end
    return Parts(begins, nums_lines, block.begin + len(data))


class LogIndex:
    """How many lines a log has and where they are: 16 bytes for each 16 KiB of it, 10 MB for 10 GB.

    Its parts may come from the middle first, as a feed reads them.
    """

    def __init__(self) -> None:
        self._begins = array("q")
        self._nums_lines = array("q")
        self._numbers: list[int] | None = None  # of the first line of each part
        self.end = 0

    @property
    def num_lines(self) -> int:
        """Lines of the parts that are known."""
        return self._first_numbers()[-1]

    def add(self, parts: Parts) -> None:
        """Take in a stretch that was not known."""
        if not parts.begins:
            return
        at = bisect_left(self._begins, parts.begins[0])
        self._begins[at:at] = parts.begins
        self._nums_lines[at:at] = parts.nums_lines
        self._numbers = None
        self.end = max(self.end, parts.end)

    def number_at(self, offset: int) -> int:
        """The number, from 0, of the first line of the part that holds `offset`."""
        return self._first_numbers()[max(0, bisect_right(self._begins, offset) - 1)]

    def place_of(self, number: int) -> tuple[int, int]:
        """Where to begin to read for line `number`, and how many lines to skip there."""
        numbers = self._first_numbers()
        part = min(max(0, bisect_right(numbers, number) - 1), len(self._begins) - 1)
        return (self._begins[part], max(0, number - numbers[part])) if part >= 0 else (0, 0)

    def _first_numbers(self) -> list[int]:
        if self._numbers is None:
            self._numbers = [0, *accumulate(self._nums_lines)]
        return self._numbers


def lines_from(path: Path, begin: int, num_lines: int) -> list[PlacedLine]:
    """Up to `num_lines` whole lines from offset `begin`, a line's beginning; at most a megabyte is read.

    Raises:
        OSError: the file cannot be read.
    """
    data = _read(path, begin, _MAX_READ_BYTES)
    return _place(data[: data.rfind(b"\n") + 1], begin)[:num_lines]


def lines_before(path: Path, end: int, num_lines: int) -> list[PlacedLine]:
    """Up to `num_lines` whole lines that end at or before offset `end`; at most a megabyte is read.

    Raises:
        OSError: the file cannot be read.
    """
    num_bytes = min(end, 2**14)
    while True:
        begin = end - num_bytes
        data = _read(path, begin, num_bytes)
        data = data[: data.rfind(b"\n") + 1]
        first = data.find(b"\n") + 1 if begin else 0  # the beginning of the first line is not known
        lines = _place(data[first:], begin + first)
        if len(lines) >= num_lines or begin == 0 or num_bytes >= _MAX_READ_BYTES:
            return lines[-num_lines:]
        num_bytes = min(end, 4 * num_bytes)


def _place(data: bytes, begin: int) -> list[PlacedLine]:
    lines = []
    for line in data.split(b"\n")[:-1]:
        lines.append(PlacedLine(begin, line.rstrip(b"\r").decode("utf-8", "backslashreplace")))
        begin += len(line) + 1
    return lines


def _read(path: Path, begin: int, num_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, num_bytes, begin)
    finally:
        os.close(descriptor)
