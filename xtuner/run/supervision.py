"""`supervisor.json`: which process looks after a run, and how the run ended as that process saw it.

`status.json` is the ranks' own: there is none before they have begun, it says `failed` while torchrun starts them
again, and it stays as it was when all of them are killed.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from xtuner.errors import StoppedAndSaved, StoppedNotSaved
from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir, find_runs
from xtuner.run.process import ProcessIdentity, this_process
from xtuner.run.status import ALIVE_STATES, Status, judge, read_status

SCHEMA = 1
# How long ranks may take to begin, on a machine whose processes cannot be looked at from here.
STARTS_WITHIN_S = 600.0
_STATE_OF_EXIT = {
    0: "finished",
    StoppedAndSaved.exit_code: "stopped",
    StoppedNotSaved.exit_code: "stopped",
}
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


def supervise_here(home: RunDir, *, is_detached: bool) -> "SupervisionFile":
    """Write that this process supervises the run in `home` from now on.

    Raises:
        OSError: it cannot be written.
    """
    process = this_process()
    return SupervisionFile(home, Supervision(process.host, process.pid, process.born, is_detached, time.time()))


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


def may_begin_again(run_dir: RunDir) -> bool:
    """Whether the ranks of a run that have ended may be started again: its launch has not said how it ended.

    A supervising process on another machine is believed for as long as ranks may take to begin.
    """
    known = read_supervision(run_dir)
    if known is None or known.is_over:
        return False
    status = read_status(run_dir)
    last_sign = max(known.begun_at, status.heartbeat_at if status else 0.0)
    return known.process.is_here or time.time() - last_sign < STARTS_WITHIN_S


def judge_launch(launch: Supervision | None, status: Status | None, now: float) -> str:
    """The state of a run as `judge` has it, and before its ranks have said anything: that it starts, or how it ended.

    Args:
        launch: the last launch of the run; None for one of torchrun itself.
        status: what its ranks said, maybe those of a launch before.
        now: seconds since the epoch.
    """
    if launch is None or (status is not None and status.heartbeat_at >= launch.begun_at):
        return judge(status, now)
    if launch.exit_code is not None:
        return _STATE_OF_EXIT.get(launch.exit_code, "failed")
    is_late = not launch.process.is_here and now - launch.begun_at >= STARTS_WITHIN_S
    return "lost" if launch.is_lost or is_late else "starting"


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
    return judge(read_status(run_dir), now) in ALIVE_STATES or now - known.begun_at < STARTS_WITHIN_S
