"""What stands in a file before its newest lines: read forwards, slice by slice."""

from typing import NamedTuple

from xtuner.run.events import Event, Source
from xtuner.run.tail import BlockTail


class PastSlice(NamedTuple):
    """One slice of a past.

    Attributes:
        events: what stands in it.
        offset: where the next one begins.
        is_last: whether nothing follows, be it that the file can no longer be read.
    """

    events: list[Event]
    offset: int
    is_last: bool


class Past:
    """The lines of a file that begin in [begin, end).

    Args:
        source: the file.
        begin: where a line begins.
        end: where a line begins, or the file ends.
    """

    def __init__(self, source: Source, begin: int, end: int) -> None:
        self._source = source
        self._offset, self._end = begin, end
        self._tail = BlockTail(source.path, begin=begin, end=end)

    def read(self, max_bytes: int, *, skips_steps: bool) -> PastSlice:
        """The next slice, of at most about `max_bytes`; `skips_steps` is that of `Source.events_of`."""
        try:
            blocks = self._tail.read(max_bytes)
        except OSError:
            # The newest lines cannot be read either, which is where it is said; those of a gap are told there too.
            return PastSlice([], self._offset, is_last=True)
        if self._tail.num_restarts:
            return PastSlice([], self._offset, is_last=True)
        events: list[Event] = []
        for block in blocks:
            self._offset = block.begin + len(block.data)
            events += self._source.events_of(block, is_history=True, skips_steps=skips_steps)
        return PastSlice(events, self._offset, is_last=not self._tail.has_more or self._offset >= self._end)
