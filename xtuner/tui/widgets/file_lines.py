"""The lines of a file by number, read when they are asked for: a file of 10 GB opens as fast as one of 10 kB.

Of each block of the file only the number of its line ends is kept. Counting begins in the last block and goes on to
both sides, so that the end of a long file can be shown before its beginning is known. Lines are therefore numbered
from the first line end of that block on; those before have negative numbers, and numbers never change.
"""

import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path

MAX_LINE_BYTES = 2**16  # of a line, what is read to be shown
CUT_MARK = " …[cut]"
_BLOCK_BYTES = 2**18
_MAX_READ_BYTES = 2**23
_BLOCKS_KEPT = 16


def to_text(line: bytes, num_bytes: int) -> str:
    """A line of so many bytes, of which `line` was read: of a very long one the beginning, and a mark."""
    text = line[:MAX_LINE_BYTES].rstrip(b"\r").decode("utf-8", "backslashreplace")
    return text + CUT_MARK if num_bytes > MAX_LINE_BYTES else text


class FileLines:
    """The whole lines of a file that may grow; one thread may count while another one reads.

    Args:
        path: of the file.
        block_bytes: counted at a time; what is kept of a block are two numbers.

    Raises:
        OSError: the file cannot be opened, or is none.
    """

    def __init__(self, path: Path, *, block_bytes: int = _BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._lock = threading.Lock()
        # Without O_NONBLOCK, a pipe of the log's name would hold the reader forever.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise OSError(f"{path} is not a file")
        self._first_block = max(0, status.st_size - 1) // block_bytes
        self._end = self._first_block * block_bytes  # bytes up to here are counted
        # Line ends before each block, in both directions from the one that was the last.
        self._sums_after: list[int] = [0]
        self._sums_before: list[int] = [0]
        self._positions: OrderedDict[int, list[int]] = OrderedDict()
        self.grow()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def is_complete(self) -> bool:
        """Whether the beginning of the file is known."""
        return len(self._sums_before) > self._first_block

    def bounds(self) -> tuple[int, int]:
        """The lines that are known: from the first to before the second; an unfinished last line is not one."""
        with self._lock:
            # The line up to the first line end that is known began in a block that is not, but at the file's begin.
            return -self._sums_before[-1] + (0 if self.is_complete else 1), max(self._sums_after[-1], self._lowest())

    def _lowest(self) -> int:
        return -self._sums_before[-1] + (0 if self.is_complete else 1)

    def grow(self, max_bytes: int = 2**26) -> bool:
        """Count what was written since, at most so many bytes; whether there was any.

        Raises:
            OSError: the disk fails.
        """
        begin = self._end
        while self._end - begin < max_bytes:
            room = self._block_bytes - self._end % self._block_bytes
            chunk = os.pread(self._descriptor, room, self._end)
            if not chunk:
                break
            with self._lock:
                self._positions.pop(self._end // self._block_bytes, None)
                self._sums_after[-1] += chunk.count(b"\n")
                self._end += len(chunk)
                if self._end % self._block_bytes == 0:
                    self._sums_after.append(self._sums_after[-1])
        return self._end > begin

    def extend_back(self, max_bytes: int = 2**24) -> bool:
        """Count what lies before, about so many bytes; whether there is more before that.

        Raises:
            OSError: the disk fails.
        """
        for _ in range(max(1, max_bytes // self._block_bytes)):
            if self.is_complete:
                return False
            block = self._first_block - len(self._sums_before)
            chunk = self._read_block(block)
            with self._lock:
                self._sums_before.append(self._sums_before[-1] + chunk.count(b"\n"))
        return not self.is_complete

    def read(self, number: int) -> str:
        """The text of a line, without its line end; of a very long one the beginning, and a mark.

        Raises:
            OSError: the disk fails, or the file was cut meanwhile.
            IndexError: there is no such line.
        """
        first, stop = self.bounds()
        if not first <= number < stop:
            raise IndexError(f"line {number} is not one of {first} to {stop - 1}")
        begin = 0 if self.is_complete and number == first else self._line_end(number - 1) + 1
        end = self._line_end(number)
        line = os.pread(self._descriptor, min(end - begin, MAX_LINE_BYTES), begin)
        return to_text(line, end - begin)

    def read_many(self, begin: int, stop: int) -> list[str]:
        """The texts of the lines from `begin` to before `stop`, far faster than one by one.

        Raises:
            OSError: the disk fails, or the file was cut meanwhile.
            IndexError: there is no such line.
        """
        first, last = self.bounds()
        if not first <= begin < stop <= last:
            raise IndexError(f"lines {begin} to {stop - 1} are not among {first} to {last - 1}")
        start = 0 if self.is_complete and begin == first else self._line_end(begin - 1) + 1
        end = self._line_end(stop - 1)
        if end - start > _MAX_READ_BYTES:
            return [self.read(number) for number in range(begin, stop)]
        lines = os.pread(self._descriptor, end - start, start).split(b"\n")
        if len(lines) != stop - begin:
            raise OSError("the file was changed while it was read")
        return [to_text(line, len(line)) for line in lines]

    def _line_end(self, number: int) -> int:
        """Where in the file the line ends."""
        with self._lock:
            if number >= 0:
                after = bisect_right(self._sums_after, number)
                block = self._first_block + after
                place = number - (self._sums_after[after - 1] if after else 0)
            else:
                # Sums grow backwards: the block is the first whose sum reaches the line.
                back = bisect_right(self._sums_before, -number - 1)
                block = self._first_block - back
                place = self._sums_before[back] + number
        positions = self._positions_of(block)
        if place >= len(positions):
            raise OSError("the file was changed while it was read")
        return block * self._block_bytes + positions[place]

    def _positions_of(self, block: int) -> list[int]:
        with self._lock:
            if (known := self._positions.get(block)) is not None:
                self._positions.move_to_end(block)
                return known
        chunk = self._read_block(block)
        positions, place = [], chunk.find(b"\n")
        while place >= 0:
            positions.append(place)
            place = chunk.find(b"\n", place + 1)
        with self._lock:
            if len(chunk) == self._block_bytes:  # the last one grows
                self._positions[block] = positions
            while len(self._positions) > _BLOCKS_KEPT:
                self._positions.popitem(last=False)
        return positions

    def _read_block(self, block: int) -> bytes:
        return os.pread(self._descriptor, self._block_bytes, block * self._block_bytes)
