"""Ranks that hang so hard that they cannot end themselves: stopped, or held by a call that keeps the interpreter.

The ranks watch themselves (`xtuner.v1.train.watchdog`), with whatever launched them. Here stands who is left when none
of them can run.
"""

import math
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import datetime

from xtuner.errors import TrainingFailed
from xtuner.run.hang import IdleTime, blame, hang_message, note_hang
from xtuner.run.layout import RunDir
from xtuner.run.logline import format_log
from xtuner.run.process import ProcessIdentity
from xtuner.run.pulse import Pulse, read_pulses
from xtuner.run.status import mark_ended

_LOOK_EVERY_S = 1.0
# A rank that can run has ended itself before so many beats beyond its patience.
_BEATS_MORE = 8
# Between two looks at who lives; meanwhile the stacks are written.
_GRACE_BEATS = 2.5


@dataclass
class _Watched:
    """A rank, and how long it has been where it is."""

    process: ProcessIdentity
    time: IdleTime = field(default_factory=lambda: IdleTime(_LOOK_EVERY_S))


class HangWatch:
    """Looks at the pulses of the ranks on this machine and ends those that hang, for torchrun to notice.

    Args:
        run_dir: of the run.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._watched: dict[int, _Watched] = {}
        self._looked_at = 0.0
        self._asked_at: float | None = None
        self._before: dict[int, Pulse] = {}

    def look(self) -> None:
        """Look, if it is time to; to be called again and again."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        pulses = read_pulses(self._run_dir)
        idle = {rank: self._idle_s(it, now) for rank, it in pulses.items() if it.process.is_here and it.patience_s}
        late = [rank for rank, idle_s in idle.items() if idle_s >= _limit_s(pulses[rank])]
        # Asked last, as it may cost a process each: a pulse outlives its rank.
        if not any(pulses[rank].process.is_alive for rank in late):
            self._asked_at = None
        elif self._asked_at is None:
            self._before, self._asked_at = pulses, now
            for rank in idle:
                pulses[rank].process.send(signal.SIGUSR2)  # writes stacks, see Watchdog
        elif now - self._asked_at >= _GRACE_BEATS * max(_beat_s(pulses[rank]) for rank in idle):
            self._end({rank: pulses[rank] for rank in idle}, max(idle[rank] for rank in late))
            self._asked_at = math.inf  # once; who cannot be killed is not asked again

    def _idle_s(self, pulse: Pulse, now: float) -> float:
        watched = self._watched.get(pulse.rank)
        if watched is None or watched.process != pulse.process:
            watched = self._watched[pulse.rank] = _Watched(pulse.process)
        return watched.time.look(pulse.progress, now)

    def _end(self, here: dict[int, Pulse], idle_s: float) -> None:
        found = blame(self._before, here)
        blamed = here[min(here) if found.rank is None else found.rank]
        message = hang_message(idle_s, found, self._run_dir)
        step = max(pulse.step for pulse in here.values())
        note_hang(self._run_dir, message, blamed, by=blamed, step=step)
        self._say(message, blamed.rank)
        for pulse in here.values():
            pulse.process.send(signal.SIGKILL)
        try:
            mark_ended(self._run_dir, message, TrainingFailed.exit_code)
        except OSError:
            pass

    def _say(self, text: str, rank: int) -> None:
        """Write into the log of a rank that cannot do it any more."""
        line = format_log(text, "ERROR", datetime.now(), rank) + "\n"
        try:
            descriptor = os.open(self._run_dir.rank_log(rank), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(descriptor, line.encode("utf-8", "backslashreplace"))
            finally:
                os.close(descriptor)
        except OSError:
            pass


def _limit_s(pulse: Pulse) -> float:
    return pulse.patience_s + _BEATS_MORE * _beat_s(pulse)


def _beat_s(pulse: Pulse) -> float:
    return max(_LOOK_EVERY_S, pulse.interval_s)
