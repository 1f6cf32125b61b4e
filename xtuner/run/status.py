"""`status.json`: the state of a run, with a heartbeat, and how a reader should take it."""

import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from xtuner.run.atomic import read_json, write_json
from xtuner.run.layout import RunDir

ALIVE_STATES = ("starting", "running", "exporting")
END_STATES = ("finished", "failed", "stopped")
_LOST_AFTER_S = 60.0


@dataclass(frozen=True)
class Status:
    """Where a run stands; times are seconds since the epoch."""

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


def start_status(total_steps: int) -> Status:
    """The status of a run that this process begins now."""
    now = time.time()
    return Status("starting", 0, total_steps, os.getpid(), socket.gethostname(), now, now, now)


def write_status(run_dir: RunDir, status: Status) -> None:
    """Replace `status.json`."""
    write_json(run_dir.status_json, asdict(status))


def read_status(run_dir: RunDir) -> Status | None:
    """The status on disk; None when there is none that can be read."""
    try:
        values = read_json(run_dir.status_json)
        return Status(**{field.name: values[field.name] for field in fields(Status) if field.name in values})
    except (OSError, ValueError, TypeError):
        return None


def judge(status: Status | None, now: float) -> str:
    """The state as a reader should show it: `lost` when a run that says it is alive is not."""
    if status is None:
        return "unknown"
    if status.state not in ALIVE_STATES:
        return status.state
    is_gone = status.host == socket.gethostname() and not _is_process(status.pid)
    return "lost" if is_gone or now - status.heartbeat_at > _LOST_AFTER_S else status.state


def _is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class StatusBeat:
    """Rewrites `status.json` every few seconds from a thread, and at once when the state changes.

    A write that fails (a full disk, a deleted directory) is tried again at the next beat: telling how a run goes
    must never end it.
    """

    def __init__(self, run_dir: RunDir, status: Status, *, interval_s: float = 5.0) -> None:
        self._run_dir = run_dir
        self._status = status
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="status-beat", daemon=True)
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Change fields of the status."""
        with self._lock:
            is_new_state = changes.get("state", self._status.state) != self._status.state
            self._status = replace(self._status, **changes)
        if is_new_state:
            self._write()

    def stop(self) -> None:
        """Write once more and end the thread."""
        self._is_over.set()
        self._thread.join()
        self._write()

    def _beat(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._status = replace(self._status, heartbeat_at=time.time())
            try:
                write_status(self._run_dir, self._status)
            except OSError:
                pass
