"""Notes that failing ranks leave in what torchrun keeps: which rank was the first, and why."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.errors import StoppedNotSaved, TrainingFailed

_TRACEBACK_LINES = 12
# How gloo and NCCL report that a peer is gone.
_BROKEN_CONNECTION = (
    "Connection closed by peer",
    "Connection reset by peer",
    "gloo/transport",
    "remote process exited",
    "NCCL communicator was aborted",
)


@dataclass(frozen=True)
class RankFailure:
    """One rank's end: `time` is seconds since the epoch, `step` 0 when it had not begun to train."""

    rank: int
    step: int
    time: float
    exit_code: int
    message: str
    hint: str
    traceback: str

    @property
    def is_consequence(self) -> bool:
        """Whether another rank's end explains this one."""
        return self.exit_code == StoppedNotSaved.exit_code or any(sign in self.message for sign in _BROKEN_CONNECTION)

    @property
    def when(self) -> str:
        """The step in words."""
        return f"in step {self.step}" if self.step else "before its first step"

    @property
    def traceback_end(self) -> str:
        """The last lines of the traceback, indented."""
        return "\n".join("  " + line for line in self.traceback.rstrip().splitlines()[-_TRACEBACK_LINES:])


def read_failures(log_dir: Path) -> list[RankFailure]:
    """The notes under `log_dir`, a directory given to torchrun's `--log-dir` or a part of it, the oldest first."""
    return sorted(filter(None, map(_read, log_dir.rglob("error.json"))), key=lambda failure: failure.time)


def first_failure(log_dirs: Iterable[Path]) -> RankFailure | None:
    """The rank that failed by itself first, in the newest of `log_dirs` that tells of one; else any that failed."""
    for log_dir in sorted(log_dirs, reverse=True):
        failures = read_failures(log_dir)
        causes = [failure for failure in failures if not failure.is_consequence]
        if failures:
            return (causes or failures)[0]
    return None


def _read(path: Path) -> RankFailure | None:
    try:
        message = json.loads(path.read_text(encoding="utf-8"))["message"]
        extra: dict[str, Any] = message["extraInfo"]
        return RankFailure(
            rank=int(extra.get("rank", path.parent.name)),
            step=int(extra.get("step", 0)),
            time=float(extra.get("time", extra["timestamp"])),
            exit_code=int(extra.get("exit_code", TrainingFailed.exit_code)),
            message=str(extra.get("message", message["message"])),
            hint=str(extra.get("hint", "")),
            traceback=str(extra["py_callstack"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
