"""The lines of all ranks in the order of their times, from the newest backwards as far as someone looks."""

import os
import re
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from xtuner.run.tail import BlockTail
from xtuner.tui.widgets.file_lines import MAX_LINE_BYTES, to_text

_NEWEST_BYTES = 2**16
_NEWEST_BYTES_ALL = 2**24
_PAST_BYTES = 2**17
_MAX_PAST_BYTES = 2**25  # where no line says a time
# 16 bytes are kept of a line; older ones are in the logs of the single ranks.
_MAX_LINES = 2_000_000
_TIME = re.compile(rb"\[XTuner\](?:\[RANK \d{1,7}\])?\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\]")

_HEAD = re.compile(b"^" + _TIME.pattern, re.MULTILINE)


class _Line(NamedTuple):
    """In the order of the merged log."""

    time: bytes
    place: int  # of its file
    begin: int
    length: int


class MergedLines:
    """A `LineSource` over several logs; one thread may look for lines while another one reads them.

    A line without a time belongs to the one before it. Lines that are written later come after those that are shown
    already, also where a rank says an earlier time: what is on the screen does not move.

    Args:
        files: logs by rank.
    """

    def __init__(self, files: Mapping[int | None, Path]) -> None:
        newest_bytes = max(2**12, min(_NEWEST_BYTES, _NEWEST_BYTES_ALL // max(1, len(files))))
        self._files = [_File(place, rank, path, newest_bytes) for place, (rank, path) in enumerate(files.items())]
        self._lock = threading.Lock()
        self._after, self._before = _Lines(), _Lines()
        self._has_begun = False

    def close(self) -> None:
        """Nothing stays open."""

    @property
    def is_complete(self) -> bool:
        """Whether the oldest line, or the oldest that will be looked for, is known."""
        is_full = len(self._before) + len(self._after) >= _MAX_LINES
        return self._has_begun and (is_full or not any(file.has_past for file in self._files))

    def bounds(self) -> tuple[int, int]:
        """The lines that are known: from the first, a negative number, to before the second."""
        with self._lock:
            return -len(self._before), len(self._after)

    def grow(self) -> bool:
        """Look for newer lines; whether there are any."""
        found = [line for file in self._files for line in file.read_newest()]
        if not self._has_begun:
            self._has_begun = True
            border = self._border()
            for line in found:
                if not _is_due(line, border):
                    self._files[line.place].past.append(line)
            found = [line for line in found if _is_due(line, border)]
        self._add(self._after, sorted(found))
        return bool(found)

    def extend_back(self) -> bool:
        """Look for older lines; whether there may be more before those."""
        border = self._border()
        for file in self._files:
            if file.begin > 0 and file.oldest_time >= border:
                file.read_past()
        border = self._border()
        found: list[_Line] = []
        for file in self._files:
            found += [line for line in file.past if _is_due(line, border)]
            file.past = [line for line in file.past if not _is_due(line, border)]
        self._add(self._before, sorted(found, reverse=True))
        return not self.is_complete

    def _border(self) -> bytes:
        """Up to this time, some file may have lines that were not read; empty where none has."""
        return max((file.oldest_time for file in self._files if file.begin > 0), default=b"")

    def read(self, number: int) -> str:
        """The text of a line; without a rank of its own, the rank of its file stands before it.

        Raises:
            OSError: the file cannot be read.
            IndexError: there is no such line.
        """
        [text] = self.read_many(number, number + 1)
        return text

    def read_many(self, begin: int, stop: int) -> list[str]:
        """The texts of the lines from `begin` to before `stop`.

        Raises:
            OSError: a file cannot be read.
            IndexError: there is no such line.
        """
        with self._lock:
            entries = [self._entry(number) for number in range(begin, stop)]
        descriptors: dict[int, int] = {}
        try:
            return [self._text(descriptors, *entry) for entry in entries]
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def _text(self, descriptors: dict[int, int], place: int, begin: int, length: int) -> str:
        file = self._files[place]
        if place not in descriptors:
            if len(descriptors) >= 32:
                os.close(descriptors.pop(next(iter(descriptors))))
            descriptors[place] = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        line = os.pread(descriptors[place], min(length, MAX_LINE_BYTES), begin)
        text = to_text(line, length)
        return text if b"[RANK " in line[:16] or file.rank is None else f"[RANK {file.rank}] {text}"

    def _entry(self, number: int) -> tuple[int, int, int]:
        return self._after.entry(number) if number >= 0 else self._before.entry(-number - 1)

    def _add(self, lines: "_Lines", found: list[_Line]) -> None:
        with self._lock:
            for line in found:
                lines.add(line)


def _is_due(line: _Line, border: bytes) -> bool:
    """Whether no line that was not read yet can belong after it."""
    return not border or line.time > border


class _Lines:
    """Where lines are, in 16 bytes each."""

    def __init__(self) -> None:
        self._places, self._begins, self._lengths = array("i"), array("q"), array("i")

    def __len__(self) -> int:
        return len(self._begins)

    def add(self, line: _Line) -> None:
        self._places.append(line.place)
        self._begins.append(line.begin)
        self._lengths.append(min(line.length, 2**31 - 1))

    def entry(self, index: int) -> tuple[int, int, int]:
        return self._places[index], self._begins[index], self._lengths[index]


class _File:
    """A log: what was written since, and what lies before what is known."""

    def __init__(self, place: int, rank: int | None, path: Path, newest_bytes: int) -> None:
        self.rank = rank
        self.path = path
        self.past: list[_Line] = []  # read, and not merged yet
        self.begin = 0  # nothing before is known
        self.oldest_time = b""
        self._place = place
        self._time = b""  # of the newest line
        self._tail = BlockTail(path, last_bytes=newest_bytes)
        self._has_begun = False
        self._is_broken = False

    @property
    def has_past(self) -> bool:
        return bool(self.past) or (self.begin > 0 and not self._is_broken)

    def read_newest(self) -> list[_Line]:
        try:
            blocks = self._tail.read()
        except OSError:
            return []
        found: list[_Line] = []
        for block in blocks:
            data, begin = block
            if not self._has_begun:
                data, begin = _from_head(data, begin)
                self._has_begun, self.begin = True, begin
            lines = list(self._lines_of(data, begin, self._time))
            self.oldest_time = self.oldest_time or lines[0].time
            self._time = lines[-1].time
            found += lines
        return found

    def read_past(self) -> None:
        """Read a stretch before what is known."""
        num_bytes = _PAST_BYTES
        data = b""
        while self.begin > 0 and not data and not self._is_broken:
            begin = max(0, self.begin - num_bytes)
            try:
                chunk = self._read(begin, self.begin - begin)
            except OSError:
                chunk = b""
            if len(chunk) < self.begin - begin:  # it is gone, or was cut
                self._is_broken, self.begin = True, 0
                return
            first = chunk.find(b"\n") + 1 if begin else 0  # the beginning of the first line is not known
            data, begin = _from_head(chunk[first:], begin + first)
            is_enough = begin == 0 or _TIME.match(data) or num_bytes >= _MAX_PAST_BYTES
            if data and is_enough:
                lines = list(self._lines_of(data, begin, b""))
                self.past = [*lines, *self.past]
                self.begin, self.oldest_time = begin, lines[0].time
            else:
                data = b""
            num_bytes *= 4

    def _read(self, begin: int, num_bytes: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, num_bytes, begin)
        finally:
            os.close(descriptor)

    def _lines_of(self, data: bytes, begin: int, time: bytes) -> Iterator[_Line]:
        for line in data.split(b"\n")[:-1]:
            match = _TIME.match(line)
            time = match[1] if match else time
            yield _Line(time, self._place, begin, len(line))
            begin += len(line) + 1


def _from_head(data: bytes, begin: int) -> tuple[bytes, int]:
    """The lines from the first on that says its time: those before it belong to one further up.

    At the beginning of a file, or where no line says a time, all of them.
    """
    found = _HEAD.search(data) if begin > 0 else None
    return (data[found.start() :], begin + found.start()) if found else (data, begin)
