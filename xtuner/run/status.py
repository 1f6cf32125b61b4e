"""`status.json`: the state of a run, with a heartbeat, and how a reader should take it."""

import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from xtuner.errors import StoppedAndSaved, StoppedNotSaved
from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir
from xtuner.run.process import ProcessIdentity, is_running, this_process

# `restarting` is a word of readers, see `judge_launch`: no rank is there to write it.
ALIVE_STATES = ("starting", "running", "evaluating", "exporting", "restarting")
END_STATES = ("finished", "failed", "stopped")
_STATE_OF_EXIT = {0: "finished", StoppedAndSaved.exit_code: "stopped", StoppedNotSaved.exit_code: "stopped"}
LOST_AFTER_S = 60.0
# A thread that is stuck in a write (a hung network file system) must not hold up the end of the training.
_JOIN_TIMEOUT_S = 10.0

# What each field may hold in a file that anyone could have written.
_KINDS: dict[str, tuple[type, ...]] = {
    "state": (str,),
    "step": (int,),
    "total_steps": (int,),
    "pid": (int,),
    "host": (str,),
    "started_at": (int, float),
    "heartbeat_at": (int, float),
    "step_at": (int, float),
    "exit_code": (int, type(None)),
    "message": (str,),
    "born": (str,),
}


@dataclass(frozen=True)
class Status:
    """Where a run stands; times are seconds since the epoch, `born` is that of `ProcessIdentity`."""

    state: str
    step: int
    total_steps: int
    pid: int
    host: str
    started_at: float
    heartbeat_at: float
    step_at: float
    exit_code: int | None = None
    message: str = ""
    born: str = ""


def start_status(total_steps: int) -> Status:
    """The status of a run that this process begins now."""
    now, process = time.time(), this_process()
    return Status("starting", 0, total_steps, process.pid, process.host, now, now, now, born=process.born)


def write_status(run_dir: RunDir, status: Status) -> None:
    """Replace `status.json`.

    Raises:
        OSError: the old one is still there.
    """
    write_json(run_dir.status_json, asdict(status))


def read_status(run_dir: RunDir) -> Status | None:
    """The status on disk; None when there is none that can be read."""
    try:
        values = read_json(run_dir.status_json)
        known = {name: values[name] for name in _KINDS if name in values}
        if all(isinstance(value, _KINDS[name]) for name, value in known.items()):
            return Status(**known)
    except (OSError, ValueError, TypeError):
        pass
    return None


def state_of_exit(exit_code: int) -> str:
    """The state of a run that ended with `exit_code`."""
    return _STATE_OF_EXIT.get(exit_code, "failed")


def mark_ended(run_dir: RunDir, message: str, exit_code: int) -> None:
    """Let the status say how a run has ended whose first rank cannot say it any more, or not yet; others stay.

    Raises:
        OSError: the old status is still there.
    """
    status = read_status(run_dir)
    if status and status.state in ALIVE_STATES:
        write_status(run_dir, replace(status, state=state_of_exit(exit_code), exit_code=exit_code, message=message))


def judge(status: Status | None, now: float) -> str:
    """The state as a reader should show it: `lost` when a run that says it is alive is not.

    It is not when its last heartbeat is more than a minute before `now` (seconds since the epoch), or when it ran
    on this host and its process is gone: a zombie that nobody asks, as in a container without an init, is gone, and so
    is one whose number another process has now. `unknown` without a status, or with a state that is none of ours.
    """
    if status is None or status.state not in (*ALIVE_STATES, *END_STATES):
        return "unknown"
    if status.state in END_STATES:
        return status.state
    has_heartbeat = now - status.heartbeat_at <= LOST_AFTER_S  # false for NaN
    is_gone = status.host == socket.gethostname() and not _is_process(status)
    return "lost" if is_gone or not has_heartbeat else status.state


def _is_process(status: Status) -> bool:
    if status.pid <= 0:  # means process groups to kill(2)
        return False
    try:
        os.kill(status.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # of another user, whose processes may be hidden
    if status.born:
        return ProcessIdentity(status.host, status.pid, status.born).is_alive
    return is_running(status.pid)


class StatusBeat:
    """Rewrites `status.json` every few seconds from a thread, and at once when the state changes.

    A write that fails (a full disk, a deleted directory) is tried again at the next beat: telling how a run goes
    must never end it, nor hold it up: `update` waits for the disk only when the state changes.
    """

    def __init__(self, run_dir: RunDir, status: Status, *, interval_s: float = 5.0) -> None:
        self._run_dir = run_dir
        self._status = status
        self._interval_s = interval_s
        self._status_lock = threading.Lock()  # held for an instant
        self._write_lock = threading.Lock()  # held while the disk works, so that an old status never comes last
        self._is_over = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="status-beat", daemon=True)
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Change fields of the status; they are written with the next beat, a new state at once."""
        with self._status_lock:
            is_new_state = changes.get("state", self._status.state) != self._status.state
            self._status = replace(self._status, **changes)
        if is_new_state:
            self._write()

    def stop(self) -> None:
        """End the thread and write once more; nothing happens the second time."""
        if self._is_over.is_set():
            return
        self._is_over.set()
        self._thread.join(_JOIN_TIMEOUT_S)
        if not self._thread.is_alive():
            self._write()

    def _beat(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self._write()

    def _write(self) -> None:
        with self._write_lock:
            with self._status_lock:
                self._status = status = replace(self._status, heartbeat_at=time.time())
            try:
                write_status(self._run_dir, status)
            except Exception:  # whatever it is, the training is worth more
                pass
