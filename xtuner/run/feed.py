"""All files of a run as one stream of events: the newest part of each file first, then what came before.

Metrics files have the numbers with full precision; text logs have them at once where metrics are written out late,
and everything else that was said. A reader is told both, and which is which.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from xtuner.run.blocks import StepBlock, read_log, read_metrics_block, read_others
from xtuner.run.discover import RunFiles
from xtuner.run.logindex import Parts, parts_of
from xtuner.run.logline import LogLine
from xtuner.run.tail import BlockTail, TailBlock

# A step line has some 270 bytes: five hundred steps a rank are there at once, and less of each with many ranks.
_NEWEST_BYTES = 2**17
_NEWEST_BYTES_ALL = 2**26
_MIN_NEWEST_BYTES = 2**14
# What is parsed between two looks at the clock: a few milliseconds.
_SLICE_BYTES = 2**18
_LOOK_AGAIN_S = 5.0
_MAX_TEXT_CHARS = 4096
# Of more ranks, the newest part is kept, and the history of the first alone.
_MAX_RANKS_WITH_HISTORY = 64


class Steps(NamedTuple):
    """Steps of one rank.

    Attributes:
        block: the steps.
        is_precise: whether they are from the rank's metrics.
        is_history: whether they are from before what was read first.
        written_at: when the file was written last, for what was in it when it was first read; None for what came since.
    """

    block: StepBlock
    is_precise: bool
    is_history: bool
    written_at: float | None = None


class Said(NamedTuple):
    """A line that is no step line, and where it stands."""

    path: Path
    rank: int | None
    begin: int
    content: LogLine | str
    is_history: bool


class Read(NamedTuple):
    """A stretch of a text log was read."""

    path: Path
    parts: Parts


class Gap(NamedTuple):
    """A file was truncated or replaced: what was read of it is no longer there."""

    path: Path
    rank: int | None


class Found(NamedTuple):
    """The files of the run are others than before: ranks joined, an attempt began."""

    files: RunFiles


Event = Steps | Said | Read | Gap | Found


class Feed:
    """Follows the files of a run without a thread of its own; each `poll` does a little work.

    No file stays open between polls. A file that cannot be read is tried again at the next poll and stands in
    `unreadable` until it can be.

    Args:
        files: the run; looked at again every five seconds for files that come later.
        clock: seconds, for the budget of a poll.
    """

    def __init__(self, files: RunFiles, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.unreadable: dict[Path, str] = {}
        self._files = files
        self._clock = clock
        self._looked_at: float | None = None
        self._followed: dict[Path, _Followed] = {}
        self._queue: list[_Followed] = []  # whose newest lines are to be read in this round
        self._history: list[_Followed] = []  # whose past is to be read
        self._num_unread = 0  # files whose newest lines have never been looked for
        self._precise_ranks: set[int] = set()

    @property
    def files(self) -> RunFiles:
        """The files as they were last looked at."""
        return self._files

    @property
    def has_backlog(self) -> bool:
        """Whether there is more to read at once; else it is time to wait for the run."""
        return bool(self._queue or self._history)

    @property
    def is_whole(self) -> bool:
        """Whether the history was read, as far as it is going to be."""
        return (
            self._looked_at is not None
            and not self._history
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
        while self._history and self.has_newest:
            events += self._read_past()
            if self._clock() >= deadline:
                break
        return events

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
                self._followed[path] = followed = _Followed(path, rank, is_metrics, newest)
                self._queue.insert(0, followed)
                self._num_unread += 1
        return [Found(self._files)] if self._files != before else []

    def _read_newest(self, followed: "_Followed") -> list[Event]:
        tail = followed.newest
        num_restarts = tail.num_restarts
        events: list[Event] = []
        try:
            blocks = tail.read(_SLICE_BYTES)
            self.unreadable.pop(followed.path, None)
        except OSError as error:
            self.unreadable[followed.path] = error.strerror or str(error)
            blocks = []
        self._num_unread -= followed.num_rounds == 0
        followed.num_rounds += 1
        if tail.num_restarts > num_restarts:
            followed.past = None
            self._history = [other for other in self._history if other is not followed]
            events.append(Gap(followed.path, followed.rank))
        for block in blocks:
            if followed.begin is None:
                followed.begin = block.begin
                self._plan_past(followed, block.begin)
            events += self._events_of(followed, block, is_history=False)
        if tail.has_more:
            self._queue.insert(0, followed)
        return events

    def _plan_past(self, followed: "_Followed", end: int) -> None:
        is_first = followed.rank in (None, self._first_rank)
        if end > 0 and (is_first or len(self._files.logs) <= _MAX_RANKS_WITH_HISTORY):
            followed.past = BlockTail(followed.path, end=end)
            self._history.insert(0 if is_first else len(self._history), followed)

    @property
    def _first_rank(self) -> int:
        return min((rank for rank in self._files.logs if rank is not None), default=0)

    def _read_past(self) -> list[Event]:
        """The next slice of the file whose turn it is; the past is read forwards."""
        followed = self._history.pop(0)
        assert followed.past is not None
        try:
            blocks = followed.past.read(_SLICE_BYTES)
        except OSError:
            return []  # the newest lines cannot be read either, which is where it is said
        if followed.past.num_restarts:
            return []  # the newest lines tell of the gap
        if followed.past.has_more:
            # The first rank's charts are whole before those of the others.
            self._history.insert(0 if followed.rank in (None, self._first_rank) else len(self._history), followed)
        return [event for block in blocks for event in self._events_of(followed, block, is_history=True)]

    def _events_of(self, followed: "_Followed", block: TailBlock, *, is_history: bool) -> Iterator[Event]:
        path, rank = followed.path, followed.rank
        if followed.is_metrics:
            for steps in read_metrics_block(block.data, rank or 0):
                self._precise_ranks.add(steps.rank)
                yield Steps(steps, True, is_history, followed.written_at)
            return
        yield Read(path, parts_of(block))
        if is_history and rank in self._precise_ranks:
            others = read_others(block.data)
        else:
            found = read_log(block.data, rank)
            others = found.others
            for steps in found.steps:
                yield Steps(steps, False, is_history, followed.written_at)
        for line in others:
            content = line.content
            if isinstance(content, str):
                content = content[:_MAX_TEXT_CHARS]
            elif len(content.text) > _MAX_TEXT_CHARS:
                content = content._replace(text=content.text[:_MAX_TEXT_CHARS])
            yield Said(path, rank, block.begin + line.begin, content, is_history)


class _Followed:
    """A file, its newest lines, and what is still to be read of its past."""

    def __init__(self, path: Path, rank: int | None, is_metrics: bool, newest_bytes: int) -> None:
        self.path = path
        self.rank = rank
        self.is_metrics = is_metrics
        self.newest = BlockTail(path, last_bytes=newest_bytes)
        self.past: BlockTail | None = None
        self.begin: int | None = None  # of the first line that was read
        self.num_rounds = 0

    @property
    def written_at(self) -> float | None:
        """When the file was written last, in the round that reads it first."""
        return self.newest.modified_at if self.num_rounds <= 1 else None
