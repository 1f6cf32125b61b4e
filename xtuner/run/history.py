"""The pasts of all files of a run, read in turn; in processes of their own where there is much to read."""

from itertools import count
from typing import TYPE_CHECKING

from xtuner.run.events import Event, Source, Steps
from xtuner.run.past import Past, PastSlice

if TYPE_CHECKING:
    from xtuner.run.past_process import PastProcess

# What is parsed between two looks at the clock: a few milliseconds.
SLICE_BYTES = 2**18
# A slice of a process costs the reader only what it does with the numbers.
_PROCESS_SLICE_BYTES = 2**20
# Less is read before a process has started.
_MANY_BYTES = 2**25
_AHEAD = 2  # wishes waiting at each process


class _Stretch:
    """What is still to be read of one file."""

    def __init__(self, number: int, source: Source, end: int, *, is_first: bool) -> None:
        self.number = number
        self.source = source
        self.end = end
        self.is_first = is_first
        self.offset = self.asked_until = 0
        self.num_asked = 0
        self.process: PastProcess | None = None
        self.past: Past | None = None


class History:
    """Reads forwards, a slice of each file at a time, those of the first rank before all others.

    Args:
        num_processes: how many may be started, once there is much to read; with 0, all is read here.
    """

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        self._numbers = count()
        self._stretches: list[_Stretch] = []
        self._processes: list[PastProcess] = []
        self._precise_ranks: set[int] = set()

    def add(self, source: Source, end: int, *, is_first: bool) -> None:
        """Read the file up to the offset `end`, which is where a line begins; `is_first` is for the first rank."""
        stretch = _Stretch(next(self._numbers), source, end, is_first=is_first)
        self._stretches.insert(0 if is_first else len(self._stretches), stretch)

    def drop(self, source: Source) -> None:
        """Read no more of this file."""
        self._stretches = [stretch for stretch in self._stretches if stretch.source != source]

    def know(self, rank: int) -> None:
        """The steps of this rank are told by its metrics: those of its text log are passed over."""
        self._precise_ranks.add(rank)

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to read."""
        return not self._stretches

    def read(self, timeout_s: float) -> list[Event]:
        """The next slice; none where no process has one within about `timeout_s` seconds."""
        if self._num_processes and sum(stretch.end - stretch.offset for stretch in self._stretches) >= _MANY_BYTES:
            self._start_processes()
        self._ask()
        events = self._take(timeout_s) if self._processes else []
        if not events:
            events = self._read_here()
        for event in events:
            if isinstance(event, Steps) and event.is_precise:
                self.know(event.block.rank)
        if not self._stretches:
            self.close()
        return events

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.close()
        self._processes.clear()

    def _start_processes(self) -> None:
        from xtuner.run.past_process import PastProcess  # multiprocessing's parts: only where there is much

        num_processes, self._num_processes = self._num_processes, 0
        try:
            for _ in range(min(num_processes, len(self._stretches))):
                self._processes.append(PastProcess())
        except OSError:  # no process or descriptor to be had: all is read here, later
            return

    def _ask(self) -> None:
        """Let each process have something to do."""
        for process in self._processes:
            while process.num_asked < _AHEAD and (stretch := self._next_for(process)) is not None:
                begin = stretch.offset if stretch.process is None else None
                skips_steps = stretch.source.rank in self._precise_ranks
                size = _PROCESS_SLICE_BYTES
                process.ask(stretch.number, stretch.source, begin, stretch.end, size, skips_steps=skips_steps)
                stretch.process = process
                stretch.num_asked += 1
                stretch.asked_until += _PROCESS_SLICE_BYTES
                self._pass_turn(stretch)

    def _next_for(self, process: "PastProcess") -> _Stretch | None:
        """A file stays with its process while that has slices of it to bring: they come in order."""
        for stretch in self._stretches:
            if stretch.process in (None, process) and stretch.past is None and stretch.asked_until < stretch.end:
                return stretch
        return None

    def _pass_turn(self, stretch: _Stretch) -> None:
        """The first rank's charts are whole before those of the others."""
        if not stretch.is_first:
            self._stretches.remove(stretch)
            self._stretches.append(stretch)

    def _take(self, timeout_s: float) -> list[Event]:
        from xtuner.run.past_process import wait

        for process in wait(self._processes, timeout_s):
            answer = process.take()
            if process.is_over:
                self._bring_home(process)
            elif answer is not None:
                return self._take_in(*answer)
        return []

    def _take_in(self, number: int, part: PastSlice) -> list[Event]:
        stretch = next((stretch for stretch in self._stretches if stretch.number == number), None)
        if stretch is None:
            return []  # it was dropped in the meantime
        stretch.num_asked -= 1
        has_moved = part.offset > stretch.offset
        stretch.offset = part.offset
        if part.is_last:
            self._stretches.remove(stretch)
        elif stretch.num_asked == 0:
            stretch.asked_until = part.offset
            if has_moved:  # else the process is in the middle of a long line
                stretch.process = None
        return part.events

    def _bring_home(self, process: "PastProcess") -> None:
        """A process died: what it had is read on here."""
        process.close()
        self._processes.remove(process)
        for stretch in self._stretches:
            if stretch.process is process:
                stretch.process = None
                stretch.past = Past(stretch.source, stretch.offset, stretch.end)

    def _read_here(self) -> list[Event]:
        """A slice of the file whose turn it is, of those that no process reads."""
        here = [stretch for stretch in self._stretches if not self._processes or stretch.past is not None]
        if not here:
            return []
        stretch = here[0]
        if stretch.past is None:
            stretch.past = Past(stretch.source, stretch.offset, stretch.end)
        part = stretch.past.read(SLICE_BYTES, skips_steps=stretch.source.rank in self._precise_ranks)
        stretch.offset = part.offset
        self._pass_turn(stretch)
        if part.is_last:
            self._stretches.remove(stretch)
        return part.events
