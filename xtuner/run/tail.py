"""Following a text file that another process writes."""

import os
from pathlib import Path

MAX_LINE_BYTES = 2**20
_CUT_MARK = " …[cut]"


class FileTail:
    """New whole lines of a file, call by call.

    The file may not exist yet, may be truncated or replaced (reading starts over), may hold bytes that are not
    UTF-8 (they become escapes). An unfinished last line is kept until its line end comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._rest = b""

    def read_lines(self, max_bytes: int = 2**20) -> list[str]:
        """The lines that ended since the last call, without their line ends; reads at most `max_bytes`."""
        try:
            with self._path.open("rb") as file:
                self._notice_new_file(os.fstat(file.fileno()))
                file.seek(self._offset)
                chunk = file.read(max_bytes)
        except OSError:
            return []
        self._offset += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        shown = [self._finish(line) for line in lines]
        if len(self._rest) > MAX_LINE_BYTES:
            # Keep one byte more than the limit, which marks the line as cut when its end comes.
            self._rest = self._rest[: MAX_LINE_BYTES + 1]
        return shown

    def _notice_new_file(self, stat: os.stat_result) -> None:
        identity = (stat.st_dev, stat.st_ino)
        if identity != self._identity or stat.st_size < self._offset:
            self._identity, self._offset, self._rest = identity, 0, b""

    def _finish(self, line: bytes) -> str:
        mark = _CUT_MARK if len(line) > MAX_LINE_BYTES else ""
        return line[:MAX_LINE_BYTES].rstrip(b"\r").decode("utf-8", "backslashreplace") + mark
