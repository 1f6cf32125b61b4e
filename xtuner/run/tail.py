"""Following a text file that another process writes."""

import os
import stat
from pathlib import Path

MAX_LINE_BYTES = 2**20
_CUT_MARK = " …[cut]"
_FINGERPRINT_BYTES = 64


class FileTail:
    """New whole lines of a file, call by call.

    The file may not exist yet, may be truncated or replaced (reading starts over), may hold bytes that are not
    UTF-8 (they become escapes). An unfinished last line is kept until its line end comes. No file stays open
    between calls: a thousand ranks need no thousand descriptors, and NFS shows a file's growth when it is opened.

    Args:
        path: the file.
        last_bytes: where the file is longer than this when it is first seen, begin with the first whole line of
            its last `last_bytes`.
    """

    def __init__(self, path: Path, *, last_bytes: int | None = None) -> None:
        self._path = path
        self._last_bytes = last_bytes
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        # The bytes just before the offset: a new file can have the old one's inode and be longer than it.
        self._fingerprint = b""
        self._rest = b""
        self._skips_line = False

    def read_lines(self, max_bytes: int = 2**20) -> list[str]:
        """The lines that ended since the last call, without their line ends; reads at most `max_bytes`.

        An empty list may also mean that a line longer than `max_bytes` has not ended yet.
        """
        try:
            chunk = self._read_chunk(max_bytes)
        except OSError:
            return []
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._skips_line and lines:
            lines, self._skips_line = lines[1:], False
        if len(self._rest) > MAX_LINE_BYTES:
            # Keep one byte more than the limit, which marks the line as cut when its end comes.
            self._rest = self._rest[: MAX_LINE_BYTES + 1]
        return [_finish(line) for line in lines]

    def _read_chunk(self, max_bytes: int) -> bytes:
        # Without O_NONBLOCK, a pipe of the log's name would hold the reader forever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return b""
            if self._identity is None:
                self._begin(descriptor, status)
            elif (status.st_dev, status.st_ino) != self._identity or not self._is_same_text(descriptor):
                self._last_bytes = None  # what replaced the file is new to the caller, all of it
                self._begin(descriptor, status)
            chunk = os.pread(descriptor, max_bytes, self._offset)
        finally:
            os.close(descriptor)
        self._offset += len(chunk)
        self._fingerprint = (self._fingerprint + chunk[-_FINGERPRINT_BYTES:])[-_FINGERPRINT_BYTES:]
        return chunk

    def _begin(self, descriptor: int, status: os.stat_result) -> None:
        skipped = max(0, status.st_size - self._last_bytes) if self._last_bytes is not None else 0
        self._identity = (status.st_dev, status.st_ino)
        self._offset, self._fingerprint, self._rest = skipped, b"", b""
        self._skips_line = skipped > 0 and os.pread(descriptor, 1, skipped - 1) != b"\n"

    def _is_same_text(self, descriptor: int) -> bool:
        """Whether the bytes before the offset are still those that were read; after a truncation they are not."""
        num_bytes = len(self._fingerprint)
        return os.pread(descriptor, num_bytes, self._offset - num_bytes) == self._fingerprint


def _finish(line: bytes) -> str:
    if len(line) <= MAX_LINE_BYTES:
        return line.rstrip(b"\r").decode("utf-8", "backslashreplace")
    end = MAX_LINE_BYTES
    while end > MAX_LINE_BYTES - 4 and line[end] & 0xC0 == 0x80:  # not in the middle of a character
        end -= 1
    return line[:end].decode("utf-8", "backslashreplace") + _CUT_MARK
