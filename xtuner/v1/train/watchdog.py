"""A rank that does not go on: it writes down where it is, says who holds it, and ends, so that the others can too."""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, NoReturn

from xtuner.errors import TrainingFailed
from xtuner.run.hang import Blame, IdleTime, blame, hang_message, note_hang
from xtuner.run.layout import RunDir
from xtuner.run.logline import format_log
from xtuner.run.pulse import Pulse, own_pulse, read_pulses, write_pulse
from xtuner.run.series import median_of
from xtuner.run.status import mark_ended

STARTING, EXPORTING, SAVING, REPLYING = "start", "export", "save", "replies"
FETCHING, COMPUTING, RECORDING = "waiting for its batch", "forward and backward pass", "after the update"
EVALUATING = "evaluation"

# What says nothing for long while all is well: reading and writing whole models, compiling in the first steps.
_LONG_PHASES = (STARTING, EXPORTING, SAVING, REPLYING)
_LONG = 6
_NUM_FIRST_STEPS = 2
# Beyond the timeout a step may take so many times as long as the last ones did.
_NUM_STEPS_MORE, _NUM_TIMES_KEPT = 5, 50
_LOOKS_A_TIMEOUT, _MAX_INTERVAL_S = 5, 5.0
# Between two looks at the pulses of the others, in beats: whoever lives has made one, on a network file system too.
_GRACE_BEATS = 2.5
_LET_DUMP_S = 1.0
_JOIN_S = 60.0
STACKS_SIGNAL = signal.SIGUSR2
_STDERR = 2


class _Place(NamedTuple):
    """Where the training is; replaced as a whole, as another thread reads it."""

    progress: int = 0
    step: int = 0
    phase: str = STARTING
    patience_s: float = 0.0


class Watchdog:
    """Watches the training of this rank from a thread beside it.

    SIGUSR2 writes the Python stacks of all threads into the rank's log, also while the interpreter is held by a call
    that does not return.

    Args:
        run_dir: of the run; takes the pulse.
        rank: of this process.
        timeout_s: how long the training may stay at one point, beyond five steps; None for ever.
        on_hang: is told why the rank ends, just before.
    """

    def __init__(self, run_dir: RunDir, rank: int, timeout_s: float | None, *, on_hang: Callable[[str], None]) -> None:
        self._run_dir = run_dir
        self._rank = rank
        self._timeout_s = timeout_s or 0.0
        self._on_hang = on_hang
        self._times: deque[float] = deque(maxlen=_NUM_TIMES_KEPT)
        self._num_steps = 0
        self._begun_at = 0.0
        self._place = _Place(patience_s=_LONG * self._timeout_s)
        self._main_thread = threading.get_ident()
        # Not the file object of the log: the training may hang while it holds that one's lock.
        self._log = os.open(run_dir.rank_log(rank), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        faulthandler.register(STACKS_SIGNAL, file=self._log, all_threads=True)
        self._is_over = threading.Event()
        self._interval_s = min(_MAX_INTERVAL_S, self._timeout_s / _LOOKS_A_TIMEOUT)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True) if timeout_s else None
        if self._thread:
            self._thread.start()

    def reach(self, phase: str, step: int | None = None) -> None:
        """The training has come to another point."""
        if phase == COMPUTING:
            self._begun_at = time.monotonic()
        elif phase == RECORDING:
            if self._num_steps >= _NUM_FIRST_STEPS:
                self._times.append(time.monotonic() - self._begun_at)
            self._num_steps += 1
        before = self._place
        patience_s = self._patience_s(phase)
        self._place = _Place(before.progress + 1, before.step if step is None else step, phase, patience_s)

    def tick(self) -> None:
        """The training goes on in the same phase."""
        self._place = self._place._replace(progress=self._place.progress + 1)

    def stop(self) -> None:
        """Watch no more, also not from outside.

        Does not return where a hang was found already: the process is being ended.
        """
        self._is_over.set()
        if self._thread:
            self._thread.join(_JOIN_S)  # a disk that hangs must not hold up the end

    def _patience_s(self, phase: str) -> float:
        is_long = phase in _LONG_PHASES or self._num_steps < _NUM_FIRST_STEPS
        median_s = median_of(self._times) if self._times else 0.0
        return (_LONG if is_long else 1) * self._timeout_s + _NUM_STEPS_MORE * median_s

    # --- The thread ---

    def _watch(self) -> None:
        pulse, idle = own_pulse(self._rank, self._interval_s), IdleTime(self._interval_s)
        while True:
            place = self._place
            idle_s = idle.look(place.progress, time.monotonic())
            pulse = self._beat(pulse, place)
            if idle_s >= place.patience_s:
                pulse = self._bark(pulse, place, idle_s)
            if self._is_over.wait(self._interval_s):
                self._beat(pulse, place._replace(patience_s=0.0))
                return

    def _beat(self, pulse: Pulse, place: _Place) -> Pulse:
        pulse = replace(pulse, num_beats=pulse.num_beats + 1, **place._asdict())
        try:
            write_pulse(self._run_dir, pulse)
        except OSError:  # a full disk; telling how a run goes must never end it
            pass
        return pulse

    def _bark(self, pulse: Pulse, place: _Place, idle_s: float) -> Pulse:
        """End the process, unless it goes on by itself while it is looked at."""
        self._say(f"no progress for {idle_s:.0f} s in {pulse.where}; the stacks of this rank:", "ERROR")
        faulthandler.dump_traceback(self._log, all_threads=True)
        before = read_pulses(self._run_dir)
        waited_until = time.monotonic() + _GRACE_BEATS * self._interval_s
        while time.monotonic() < waited_until:
            time.sleep(self._interval_s / 2)
            pulse = self._beat(pulse, place)
        if self._place.progress != place.progress:
            self._say("it goes on by itself", "WARNING")
            return pulse
        self._end(pulse, blame(before, read_pulses(self._run_dir)), idle_s)

    def _end(self, pulse: Pulse, found: Blame, idle_s: float) -> NoReturn:
        others = read_pulses(self._run_dir)
        for rank in found.silent:  # heard where a call that does not return holds the interpreter
            others[rank].process.send(STACKS_SIGNAL)
        time.sleep(_LET_DUMP_S if found.silent else 0.0)
        blamed = others.get(pulse.rank if found.rank is None else found.rank, pulse)
        message = hang_message(idle_s, found, self._run_dir)
        step = max(pulse.step, blamed.step)  # the pulse of who is silent is old
        stack = self._stack() if blamed.rank == self._rank else ""
        note_hang(self._run_dir, message, blamed, by=pulse, step=step, traceback=stack)
        self._say(message, "ERROR")
        self._on_hang(message)
        if 0 in found.silent:  # who would say it otherwise
            try:
                mark_ended(self._run_dir, message, TrainingFailed.exit_code)
            except OSError:
                pass
        os._exit(TrainingFailed.exit_code)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main_thread)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _say(self, text: str, level: str) -> None:
        line = (format_log(text, level, datetime.now(), self._rank) + "\n").encode("utf-8", "backslashreplace")
        for descriptor in (self._log, _STDERR):
            try:
                os.write(descriptor, line)
            except OSError:
                pass
