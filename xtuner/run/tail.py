"""Following a text file that another process writes."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

MAX_LINE_BYTES = 2**20
_CUT_MARK = " …[cut]"
_FINGERPRINT_BYTES = 64
# A file that looks as before is opened only at each so many looks: NFS shows a file's growth when it is opened.
_OPEN_AT_EACH = 8


class TailBlock(NamedTuple):
    """Whole lines as they stand in the file, and where in it they begin."""

    data: bytes
    begin: int


class BlockTail:
    """New whole lines of a file in one piece, call by call.

    The file may not exist yet, may be truncated or replaced (reading starts over, `num_restarts` tells). An
    unfinished last line is kept until its line end comes; of a line longer than `MAX_LINE_BYTES`, one byte more than
    that is kept. No file stays open between calls: a thousand ranks need no thousand descriptors.

    Args:
        path: the file.
        last_bytes: where the file is longer than this when it is first seen, begin with the first whole line of
            its last `last_bytes`.
        begin: begin at this offset, where a line must begin, instead of at 0.
        end: read up to this offset, not further.
    """

    def __init__(self, path: Path, *, last_bytes: int | None = None, begin: int = 0, end: int | None = None) -> None:
        self.num_restarts = 0
        self.has_more = False  # whether the last call found more than it might read
        self.offset = 0
        self.modified_at = 0.0  # of the file, when it was last read
        self._path = path
        self._last_bytes = last_bytes
        self._first_offset = begin
        self._end = end
        self._identity: tuple[int, int] | None = None
        # The bytes just before the offset: a new file can have the old one's inode and be longer than it.
        self._fingerprint = b""
        self._rest = b""
        self._rest_begin = 0
        self._skips_line = False
        self._look: tuple[int, int, int, int] | None = None
        self._num_same_looks = 0

    def read(self, max_bytes: int = 2**20) -> list[TailBlock]:
        """The lines that ended since the last call; reads at most `max_bytes`. A line that was cut stands alone.

        An empty list may also mean that a line longer than `max_bytes` has not ended yet.

        Raises:
            OSError: the file cannot be read now; the next call tries again.
        """
        chunk = self._read_chunk(max_bytes)
        if not chunk:
            return []
        is_cut = len(self._rest) > MAX_LINE_BYTES
        data, begin = self._rest + chunk, self._rest_begin
        blocks = []
        if self._skips_line or is_cut:
            line, newline, data = data.partition(b"\n")
            if not newline:
                self._keep(line, begin)
                return []
            if not self._skips_line:
                blocks.append(TailBlock(line[: MAX_LINE_BYTES + 1] + b"\n", begin))
            self._skips_line, begin = False, self.offset - len(data)
        length = data.rfind(b"\n") + 1
        self._keep(data[length:], begin + length)
        return blocks + ([TailBlock(data[:length], begin)] if length else [])

    def _keep(self, rest: bytes, begin: int) -> None:
        # One byte more than the limit marks the line as cut when its end comes; of one to skip nothing is needed.
        self._rest = b"" if self._skips_line else rest[: MAX_LINE_BYTES + 1]
        self._rest_begin = begin

    def _read_chunk(self, max_bytes: int) -> bytes:
        if self._looks_as_before():
            return b""
        # Without O_NONBLOCK, a pipe of the log's name would hold the reader forever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return b""
            if self._identity is None:
                self._begin(descriptor, status)
            elif (status.st_dev, status.st_ino) != self._identity or not self._is_same_text(descriptor):
                self._last_bytes, self._first_offset = None, 0  # what replaced the file is new to the caller, all of it
                self.num_restarts += 1
                self._begin(descriptor, status)
            wanted = max_bytes if self._end is None else max(0, min(max_bytes, self._end - self.offset))
            chunk = os.pread(descriptor, wanted, self.offset)
        finally:
            os.close(descriptor)
        self.offset += len(chunk)
        self.modified_at = status.st_mtime
        self.has_more = len(chunk) == wanted > 0
        self._look = None if self.has_more else (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        self._fingerprint = (self._fingerprint + chunk[-_FINGERPRINT_BYTES:])[-_FINGERPRINT_BYTES:]
        return chunk

    def _looks_as_before(self) -> bool:
        """Whether nothing was written, as far as one system call can tell; now and then it is looked at closely."""
        self._num_same_looks += 1
        if self._look is None or self._num_same_looks % _OPEN_AT_EACH == 0:
            return False
        status = os.stat(self._path)
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) == self._look

    def _begin(self, descriptor: int, status: os.stat_result) -> None:
        skipped = self._first_offset
        if self._last_bytes is not None:
            skipped = max(skipped, status.st_size - self._last_bytes)
        self._identity = (status.st_dev, status.st_ino)
        self.offset, self._fingerprint, self._rest, self._rest_begin = skipped, b"", b"", skipped
        self._skips_line = skipped > 0 and os.pread(descriptor, 1, skipped - 1) != b"\n"

    def _is_same_text(self, descriptor: int) -> bool:
        """Whether the bytes before the offset are still those that were read; after a truncation they are not."""
        num_bytes = len(self._fingerprint)
        return os.pread(descriptor, num_bytes, self.offset - num_bytes) == self._fingerprint


class FileTail:
    """New whole lines of a file, call by call, as text: bytes that are not UTF-8 become escapes.

    Args:
        path: the file; see `BlockTail` for all that may happen to it.
        last_bytes: where the file is longer than this when it is first seen, begin with the first whole line of
            its last `last_bytes`.
    """

    def __init__(self, path: Path, *, last_bytes: int | None = None) -> None:
        self._tail = BlockTail(path, last_bytes=last_bytes)

    def read_lines(self, max_bytes: int = 2**20) -> list[str]:
        """The lines that ended since the last call, without their line ends; reads at most `max_bytes`.

        An empty list may also mean that a line longer than `max_bytes` has not ended yet.
        """
        try:
            blocks = self._tail.read(max_bytes)
        except OSError:
            return []
        return [_finish(line) for block in blocks for line in block.data[:-1].split(b"\n")]


def _finish(line: bytes) -> str:
    if len(line) <= MAX_LINE_BYTES:
        return line.rstrip(b"\r").decode("utf-8", "backslashreplace")
    end = MAX_LINE_BYTES
    while end > MAX_LINE_BYTES - 4 and line[end] & 0xC0 == 0x80:  # not in the middle of a character
        end -= 1
    return line[:end].decode("utf-8", "backslashreplace") + _CUT_MARK
