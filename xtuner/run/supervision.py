"""`supervisor.json`: which process looks after a run, and how the run ended as that process saw it.

`status.json` is the ranks' own: there is none before they have begun, it says `failed` while torchrun starts them
again, and it stays as it was when all of them are killed.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xtuner.errors import StoppedNotSaved, TrainingFailed
from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir, find_runs
from xtuner.run.process import ProcessIdentity, this_process
from xtuner.run.status import ALIVE_STATES, Status, judge, read_status, state_of_exit

SCHEMA = 1
# How long ranks may take to begin, on a machine whose processes cannot be looked at from here.
STARTS_WITHIN_S = 600.0
_KINDS: dict[str, tuple[type, ...]] = {
    "host": (str,),
    "pid": (int,),
    "born": (str,),
    "is_detached": (bool,),
    "begun_at": (int, float),
    "num_stop_signals": (int,),
    "exit_code": (int, type(None)),
    "message": (str,),
    "hint": (str,),
    "max_restarts": (int,),
    "num_restarts": (int,),
    "restarted_at": (int, float),
    "restarted_after": (str,),
    "meeting": (str,),
}


@dataclass(frozen=True)
class Supervision:
    """A launch of a run; a run that is resumed has the last one's.

    Attributes:
        host, pid, born: the supervising process, see `ProcessIdentity`.
        is_detached: it has no terminal, and outlives the one that it was started from.
        begun_at: seconds since the epoch.
        num_stop_signals: how many signals it has been sent that ask the run to stop.
        exit_code: how the launch ended; None while it goes on.
        message, hint: of the error that it ended with.
        max_restarts: how often torchrun starts failed ranks again.
        num_restarts: how often it has.
        restarted_at: when it last did, in seconds since the epoch; 0 if it never has.
        restarted_after: the error of the attempt before.
        meeting: where it meets the launches of other machines, `host:port`.
    """

    host: str
    pid: int
    born: str
    is_detached: bool
    begun_at: float
    num_stop_signals: int = 0
    exit_code: int | None = None
    message: str = ""
    hint: str = ""
    max_restarts: int = 0
    num_restarts: int = 0
    restarted_at: float = 0.0
    restarted_after: str = ""
    meeting: str = ""

    @property
    def process(self) -> ProcessIdentity:
        """The supervising process."""
        return ProcessIdentity(self.host, self.pid, self.born)

    @property
    def has_ended(self) -> bool:
        """Whether it has said how the run ended."""
        return self.exit_code is not None

    @property
    def is_lost(self) -> bool:
        """Whether it is gone, as far as this machine can know, and has not said how the run ended."""
        return not self.has_ended and self.process.is_here and not self.process.is_alive

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.has_ended or self.is_lost

    @property
    def ranks_begun_at(self) -> float:
        """When torchrun last started the ranks, in seconds since the epoch."""
        return max(self.begun_at, self.restarted_at)

    @property
    def may_restart(self) -> bool:
        """Whether torchrun starts the ranks again if they fail."""
        return self.num_restarts < self.max_restarts and self.num_stop_signals == 0 and not self.is_over

    def is_newer_than(self, status: Status | None) -> bool:
        """Whether the ranks that it started last have not said anything yet."""
        return status is None or status.heartbeat_at < self.ranks_begun_at


def supervise_here(home: RunDir, *, is_detached: bool, max_restarts: int = 0, meeting: str = "") -> "SupervisionFile":
    """Write that this process supervises the run in `home` from now on; the rest as in `Supervision`.

    Raises:
        OSError: it cannot be written.
    """
    it = this_process()
    begun_at = time.time()
    known = Supervision(it.host, it.pid, it.born, is_detached, begun_at, max_restarts=max_restarts, meeting=meeting)
    return SupervisionFile(home, known)


class SupervisionFile:
    """The file as its one writer has it; a disk that fails later costs what it says, never the run."""

    def __init__(self, home: RunDir, supervision: Supervision) -> None:
        self._home = home
        self._supervision = supervision
        write_json(home.supervisor_json, {"schema": SCHEMA, **asdict(supervision)})

    def update(self, **changes: Any) -> None:
        """Change fields and write them."""
        self._supervision = replace(self._supervision, **changes)
        try:
            write_json(self._home.supervisor_json, {"schema": SCHEMA, **asdict(self._supervision)})
        except OSError:
            pass


def read_supervision(home: RunDir) -> Supervision | None:
    """What is on disk; None when there is nothing that can be read: the run was started by torchrun itself."""
    known = _read(home)
    # It may have ended, and said so, between the two looks; what is there now is its last word.
    return _read(home) if known and known.is_lost else known


def _read(home: RunDir) -> Supervision | None:
    try:
        values = read_json(home.supervisor_json)
        if values.get("schema") != SCHEMA:
            return None
        known = {name: values[name] for name in _KINDS if name in values}
        if all(isinstance(value, _KINDS[name]) for name, value in known.items()):
            return Supervision(**known)
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return None


def state_of(run_dir: RunDir, now: float) -> str:
    """The state of a run as a reader should show it at `now`, in seconds since the epoch; see `judge_launch`."""
    # In this order: a launch that has ended leaves its last status.
    launch = read_supervision(run_dir)
    return judge_launch(launch, read_status(run_dir), now)


def judge_launch(launch: Supervision | None, status: Status | None, now: float) -> str:
    """The state of a run as `judge` has it, and that of its launch where its ranks say nothing or not the last word.

    Before they have said anything, that is how the launch stands: `starting`, or how it ended. A run whose ranks have
    failed is `restarting` while torchrun will start them again, and until those have said something.

    Args:
        launch: the last launch of the run; None for one of torchrun itself.
        status: what its ranks said, maybe those of a launch or of an attempt before.
        now: seconds since the epoch.
    """
    if launch is None:
        return judge(status, now)
    if status is None or launch.is_newer_than(status):
        return _judge_before_ranks(launch, now)
    state = judge(status, now)
    return "restarting" if launch.may_restart and _is_failure(state, launch, status, now) else state


def elapsed_s(launch: Supervision | None, status: Status | None, state: str, now: float) -> float | None:
    """Seconds since a run was launched, until its ranks' last word where that is over; None where that is not known.

    Args:
        launch, status, now: see `judge_launch`.
        state: what that gave.
    """
    if launch is not None and _has_ranks_of(launch, status):
        begun_at = launch.begun_at
    elif status is not None:
        begun_at = status.started_at  # torchrun itself was called
    else:
        return None
    if state in ALIVE_STATES:
        return max(0.0, now - begun_at)
    last_word_at = status.heartbeat_at if status is not None else 0.0
    return last_word_at - begun_at if last_word_at >= begun_at else None


def _has_ranks_of(launch: Supervision, status: Status | None) -> bool:
    """Whether the ranks are those of the launch, and not of one by torchrun itself that came later."""
    return status is None or launch.is_newer_than(status) or status.started_at - launch.ranks_begun_at < STARTS_WITHIN_S


def _judge_before_ranks(launch: Supervision, now: float) -> str:
    if launch.exit_code is not None:
        return state_of_exit(launch.exit_code)
    is_late = not launch.process.is_here and now - launch.ranks_begun_at >= STARTS_WITHIN_S
    if launch.is_lost or is_late:
        return "lost"
    return "restarting" if launch.num_restarts else "starting"


def _is_failure(state: str, launch: Supervision, status: Status, now: float) -> bool:
    """Whether ranks that end so are started again.

    A supervising process on another machine is believed for as long as ranks may take to begin, and not at all where
    they left no word: the whole machine may be gone.
    """
    if state == "lost":
        return launch.process.is_here
    # Any other mistake, in options, data or machine, is there the next time too and ends the launch. A rank that is
    # stopped by torchrun, as another one failed, has not saved.
    is_failure = (state == "failed" and status.exit_code in (None, TrainingFailed.exit_code)) or (
        state == "stopped" and status.exit_code == StoppedNotSaved.exit_code
    )
    return is_failure and (launch.process.is_here or now - status.heartbeat_at < STARTS_WITHIN_S)


def supervised_runs(path: Path) -> list[RunDir]:
    """The runs behind `path`, a work dir or a run directory, whose launch has not ended, oldest first."""
    return [run_dir for run_dir in find_runs(path) if is_supervised(run_dir)]


def is_supervised(run_dir: RunDir) -> bool:
    """Whether the launch of a run has not ended, as far as this machine can know."""
    known = read_supervision(run_dir)
    if known is None or known.is_over:
        return False
    if known.process.is_here:
        return True
    now = time.time()
    is_alive = judge_launch(known, read_status(run_dir), now) in ALIVE_STATES
    return is_alive or now - known.ranks_begun_at < STARTS_WITHIN_S
