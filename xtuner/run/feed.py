"""All files of a run as one stream of events: the newest part of each file first, then what came before.

Metrics files have the numbers with full precision; text logs have them at once where metrics are written out late,
and everything else that was said. A reader is told both, and which is which.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xtuner.run.discover import RunFiles
from xtuner.run.events import Event, Found, Gap, Source, Steps
from xtuner.run.history import SLICE_BYTES, History
from xtuner.run.tail import BlockTail, TailBlock

# A step line has some 270 bytes: five hundred steps a rank are there at once, and less of each with many ranks.
_NEWEST_BYTES = 2**17
_NEWEST_BYTES_ALL = 2**26
_MIN_NEWEST_BYTES = 2**14
_LOOK_AGAIN_S = 5.0
# Of more ranks, the newest part is kept, and the history of the first alone.
_MAX_RANKS_WITH_HISTORY = 64


class Feed:
    """Follows the files of a run without a thread of its own; each `poll` does a little work.

    No file stays open between polls. A file that cannot be read is tried again at the next poll and stands in
    `unreadable` until it can be.

    Args:
        files: the run; looked at again every five seconds for files that come later.
        clock: seconds, for the budget of a poll.
        num_processes: how many may be started to read a long past; then `close` ends them.
    """

    def __init__(self, files: RunFiles, *, clock: Callable[[], float] = time.monotonic, num_processes: int = 0) -> None:
        self.unreadable: dict[Path, str] = {}
        self._files = files
        self._clock = clock
        self._looked_at: float | None = None
        self._followed: dict[Path, _Followed] = {}
        self._queue: list[_Followed] = []  # whose newest lines are to be read in this round
        self._history = History(num_processes)
        self._num_unread = 0  # files whose newest lines have never been looked for

    @property
    def files(self) -> RunFiles:
        """The files as they were last looked at."""
        return self._files

    @property
    def has_backlog(self) -> bool:
        """Whether there is more to read at once; else it is time to wait for the run."""
        return bool(self._queue) or not self._history.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether the history was read, as far as it is going to be."""
        return (
            self._looked_at is not None
            and self._history.is_whole
            and not any(followed.num_rounds == 0 for followed in self._queue)
        )

    @property
    def has_newest(self) -> bool:
        """Whether the newest part of each file was read: where the run stands is known."""
        return self._looked_at is not None and self._num_unread == 0

    def poll(self, budget_s: float = 0.02) -> list[Event]:
        """What came since the last call, as far as can be read in about `budget_s` seconds.

        Each file's newest lines come before the past of any; then a bit of both is read at each call, however small
        the budget. A slice that was begun is finished: it takes a few milliseconds.
        """
        now = self._clock()
        deadline = now + budget_s
        events: list[Event] = []
        if self._looked_at is None or now - self._looked_at >= _LOOK_AGAIN_S:
            events += self._look_again(now)
        if not self._queue:
            self._queue = list(reversed(self._followed.values()))
        while self._queue:
            followed = self._queue.pop()
            events += self._read_newest(followed)
            if self._clock() >= deadline:
                break
        while not self._history.is_whole and self.has_newest:
            events += self._history.read(deadline - self._clock())
            if self._clock() >= deadline:
                break
        return events

    def close(self) -> None:
        """Read no further."""
        self._history.close()

    def _look_again(self, now: float) -> list[Event]:
        before = self._files
        if self._looked_at is not None:
            self._files = self._files.look_again()
        self._looked_at = now
        # Metrics come first, so that their text need not be taken for the truth for an instant.
        sources: list[tuple[Path, int | None, bool]]
        sources = [(path, rank, True) for rank, path in self._files.metrics.items()]
        sources += [(path, rank, False) for rank, path in self._files.logs.items()]
        newest = min(_NEWEST_BYTES, max(_MIN_NEWEST_BYTES, _NEWEST_BYTES_ALL // max(1, len(sources))))
        for path, rank, is_metrics in sources:
            if path not in self._followed:
                self._followed[path] = followed = _Followed(Source(path, rank, is_metrics), newest)
                self._queue.insert(0, followed)
                self._num_unread += 1
        return [Found(self._files)] if self._files != before else []

    def _read_newest(self, followed: "_Followed") -> list[Event]:
        tail = followed.newest
        num_restarts = tail.num_restarts
        events: list[Event] = []
        try:
            blocks = tail.read(SLICE_BYTES)
            self.unreadable.pop(followed.source.path, None)
        except OSError as error:
            self.unreadable[followed.source.path] = error.strerror or str(error)
            blocks = []
        self._num_unread -= followed.num_rounds == 0
        followed.num_rounds += 1
        if tail.num_restarts > num_restarts:
            self._history.drop(followed.source)
            events.append(Gap(followed.source.path, followed.source.rank))
        for block in blocks:
            if followed.begin is None:
                followed.begin = block.begin
                self._plan_past(followed, block.begin)
            events += self._events_of(followed, block)
        if tail.has_more:
            self._queue.insert(0, followed)
        return events

    def _plan_past(self, followed: "_Followed", end: int) -> None:
        is_first = followed.source.rank in (None, self._first_rank)
        if end > 0 and (is_first or len(self._files.logs) <= _MAX_RANKS_WITH_HISTORY):
            self._history.add(followed.source, end, is_first=is_first)

    @property
    def _first_rank(self) -> int:
        return min((rank for rank in self._files.logs if rank is not None), default=0)

    def _events_of(self, followed: "_Followed", block: TailBlock) -> Iterator[Event]:
        for event in followed.source.events_of(block, is_history=False, written_at=followed.written_at):
            if isinstance(event, Steps) and event.is_precise:
                self._history.know(event.block.rank)
            yield event


class _Followed:
    """A file and its newest lines."""

    def __init__(self, source: Source, newest_bytes: int) -> None:
        self.source = source
        self.newest = BlockTail(source.path, last_bytes=newest_bytes)
        self.begin: int | None = None  # of the first line that was read
        self.num_rounds = 0

    @property
    def written_at(self) -> float | None:
        """When the file was written last, in the round that reads it first."""
        return self.newest.modified_at if self.num_rounds <= 1 else None
