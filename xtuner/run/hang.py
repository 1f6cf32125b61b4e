"""When a rank is taken for hung, and which one holds the others."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xtuner.errors import TrainingFailed
from xtuner.run.failure import RankFailure, leave_note
from xtuner.run.layout import RunDir
from xtuner.run.process import state_of
from xtuner.run.pulse import Pulse

HANG_HINT = (
    "the stacks show what each rank waits for; --hang-timeout says how long it may, --max-restarts starts ranks again"
)
_MAX_NAMED = 8
_REASONS = {
    "T": "its process is stopped (SIGSTOP)",
    "t": "its process is stopped by a debugger",
    "D": "its process waits inside the kernel, uninterruptibly: a disk, a file system or a driver does not answer",
}


class IdleTime:
    """How long a value has been the same, in seconds during which the one who looks could look.

    A machine that sleeps, or a job whose processes are all stopped for a while, costs the watched rank its time and
    the watcher too: a look that comes late counts as one that came in time.

    Args:
        interval_s: seconds between two looks.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._value: object = None
        self._looked_at: float | None = None
        self.idle_s = 0.0

    def look(self, value: object, now: float) -> float:
        """Take note of the value at `now`, by a clock that never goes back; the time it has been the same."""
        since_last_s = 0.0 if self._looked_at is None else now - self._looked_at
        self.idle_s = self.idle_s + min(since_last_s, 2 * self._interval_s) if value == self._value else 0.0
        self._value, self._looked_at = value, now
        return self.idle_s


@dataclass(frozen=True)
class Blame:
    """Who holds the others.

    Attributes:
        rank: the first of those; None where all wait at the same point.
        silent: ranks whose process does not run any thread, the first of which is `rank`.
        text: it in words.
    """

    rank: int | None
    silent: tuple[int, ...]
    text: str


def hang_message(idle_s: float, found: Blame, run_dir: RunDir) -> str:
    """What the error of a hang says."""
    return f"hung: no progress for {idle_s:.0f} s; {found.text}; the stacks of the ranks are in {run_dir.logs}"


def note_hang(run_dir: RunDir, message: str, blamed: Pulse, *, by: Pulse, step: int, traceback: str = "") -> None:
    """Leave the note of a hang as that of a rank that failed; the rest as in `RankFailure`.

    Args:
        run_dir: of the run.
        message: see `hang_message`.
        blamed: the rank that the note is about.
        by: the rank in whose place it is left, which ends by it.
        step: at which the run hangs.
        traceback: where the blamed rank is, if it could say it.
    """
    code = TrainingFailed.exit_code
    failure = RankFailure(blamed.rank, step, time.time(), code, message, HANG_HINT, traceback, blamed.host)
    of_torchrun = [Path(by.error_file)] if by.error_file else []
    leave_note(failure, TrainingFailed.__name__, *of_torchrun, run_dir.failure_note(by.rank))


def blame(before: Mapping[int, Pulse], after: Mapping[int, Pulse]) -> Blame:
    """Who holds the others, from two looks at the pulses of all ranks, some beats apart."""
    silent = tuple(rank for rank, pulse in after.items() if rank in before and _is_silent(before[rank], pulse))
    if silent:
        told = [f"rank {rank} hangs: {_why_silent(after[rank])}" for rank in silent[:_MAX_NAMED]]
        # A pulse is some seconds older than the hang.
        last = "; ".join([*told, f"last seen in {after[silent[0]].where}"])
        others = [pulse for rank, pulse in after.items() if rank not in silent]
        return Blame(silent[0], silent, f"{last}; the others wait in {others[0].where}" if others else last)
    least = min((pulse.progress for pulse in after.values()), default=0)
    behind = [pulse for pulse in after.values() if pulse.progress == least]
    ahead = [pulse for pulse in after.values() if pulse.progress > least]
    if not ahead:
        where = behind[0].where if behind else "an unknown place"
        return Blame(None, (), f"all ranks are in {where}" if len(after) > 1 else f"the rank is in {where}")
    numbers = ", ".join(str(pulse.rank) for pulse in behind[:_MAX_NAMED]) + (" ..." if len(behind) > _MAX_NAMED else "")
    text = f"rank {numbers} lags behind in {behind[0].where}; the others wait in {ahead[0].where}"
    return Blame(behind[0].rank, (), text)


def _is_silent(before: Pulse, after: Pulse) -> bool:
    return (before.process, before.num_beats) == (after.process, after.num_beats)


def _why_silent(pulse: Pulse) -> str:
    if not pulse.process.is_here:
        return f"its process on {pulse.host} does not answer"
    if not pulse.process.is_alive:
        return "its process is gone"
    return _REASONS.get(state_of(pulse.pid), "its process runs, but none of its Python threads does")
