"""Offsets of the lines of a file: 8 bytes each, blank lines left out, found at the speed of the disk.

A thread scans while others read: arrays only ever grow, and what is said about a row is there before the row is.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xtuner.data.jsonl import MAX_LINE_BYTES

_BOM = b"\xef\xbb\xbf"
_NEWLINE = ord("\n")
_IS_SPACE = np.zeros(256, np.bool_)
_IS_SPACE[list(b" \t\n\r\x0b\x0c")] = True  # as `bytes.isspace` has it


class LineScanner:
    """Takes a file block by block through `pread(size, offset)`.

    Attributes:
        starts: uint64 [rows + 1], where each line that is not blank begins; the last is where the scan goes on.
        position: bytes scanned.
        num_blank: blank lines so far.
    """

    def __init__(self, pread: Callable[[int, int], bytes]) -> None:
        self._pread = pread
        self.starts = array("Q", [0])
        self.position = 0
        self.num_blank = 0
        self._line_start = 0  # of the line that the next block goes on with
        # Blank lines before a row, noted where the number changes.
        self._change_rows = array("Q")
        self._change_skipped = array("Q")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def scan(self, size: int) -> bool:
        """Take the next block; False at the end of the file."""
        block = self._pread(size, self.position)
        if not block:
            self._finish()
            return False
        if not self.position and block.startswith(_BOM):
            self._line_start = len(_BOM)
        codes = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(codes == _NEWLINE) + (self.position + 1)
        if len(ends):
            starts = np.concatenate([np.array([self._line_start], np.int64), ends[:-1]])
            self._add(starts, ends, self._find_blank(starts, ends, codes, block))
            self._line_start = int(ends[-1])
        self.position += len(block)
        return True

    def end_of(self, row: int) -> int:
        """Where the row ends; blank lines after it may be taken in."""
        return self.starts[row + 1]

    def skipped_before(self, row: int) -> int:
        """Blank lines before the row."""
        place = bisect_right(self._change_rows, row)
        return self._change_skipped[place - 1] if place else 0

    def _find_blank(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64], codes: NDArray[np.uint8], block: bytes
    ) -> NDArray[np.bool_]:
        blank = np.zeros(len(starts), np.bool_)
        blank[0] = self._is_blank(int(starts[0]), int(ends[0]))  # it may have begun in an earlier block
        inner = starts[1:] - self.position
        for index in np.flatnonzero(_IS_SPACE[codes[inner]]) + 1:
            blank[index] = block[starts[index] - self.position : ends[index] - self.position].isspace()
        return blank

    def _is_blank(self, start: int, end: int) -> bool:
        if start == end:
            return True
        return self._pread(1, start).isspace() and self._pread(min(end - start, MAX_LINE_BYTES), start).isspace()

    def _add(self, starts: NDArray[np.int64], ends: NDArray[np.int64], blank: NDArray[np.bool_]) -> None:
        kept = starts[~blank]
        if blank.any():
            skipped = (np.cumsum(blank) + self.num_blank)[~blank]
            self._note_changes(skipped)
            self.num_blank += int(blank.sum())
        elif len(kept):
            self._note_changes(np.full(1, self.num_blank))
        bounds = np.append(kept, ends[-1]).astype(np.uint64)
        self.starts[-1] = int(bounds[0])
        self.starts.frombytes(bounds[1:].tobytes())

    def _note_changes(self, skipped: NDArray[np.int64]) -> None:
        """`skipped`: blank lines before each of the rows that come next."""
        before = self._change_skipped[-1] if self._change_skipped else 0
        changed = np.flatnonzero(np.diff(skipped, prepend=before))
        self._change_skipped.frombytes(skipped[changed].astype(np.uint64).tobytes())
        self._change_rows.frombytes((changed + len(self)).astype(np.uint64).tobytes())

    def _finish(self) -> None:
        """The last line, when the file does not end with a line end."""
        start, end = self._line_start, self.position
        if start < end and not self._is_blank(start, end):
            self._add(np.array([start]), np.array([end]), np.zeros(1, np.bool_))
        self._line_start = end
