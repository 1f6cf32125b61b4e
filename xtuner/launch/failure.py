"""Why a launch failed: the first rank that failed, found in what torchrun kept."""

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.errors import StoppedNotSaved, TrainingFailed, XTunerError, error_for_exit_code

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


def explain_failure(log_dir: Path, torchrun_output: str) -> XTunerError:
    """The error to show for a failed launch: that of the rank that failed by itself, with its exit code.

    The others fail because of it: their connections break, or torchrun ends them. They are asked last.

    Args:
        log_dir: the directory given to torchrun's `--log-dir`.
        torchrun_output: what torchrun itself printed; names the rank when that could leave no note (SIGKILL).
    """
    failures = sorted(filter(None, map(_read, log_dir.rglob("error.json"))), key=lambda failure: failure.time)
    causes = [failure for failure in failures if not failure.is_consequence]
    if causes:
        return _tell(causes[0], log_dir)
    killed = _explain_silent_death(log_dir, torchrun_output)
    if killed:
        return killed
    if failures:
        return _tell(failures[0], log_dir)
    last = torchrun_output.strip().splitlines()[-1:] or ["it printed nothing"]
    return TrainingFailed(f"torchrun failed: {last[0]}", hint=f"its output is in {log_dir}")


def _tell(failure: RankFailure, log_dir: Path) -> XTunerError:
    if failure.exit_code != TrainingFailed.exit_code:
        return error_for_exit_code(failure.exit_code, failure.message, hint=failure.hint)
    tail = "\n".join("  " + line for line in failure.traceback.rstrip().splitlines()[-_TRACEBACK_LINES:])
    return TrainingFailed(
        f"rank {failure.rank} failed {_when(failure.step)}: {failure.message}\n{tail}",
        hint=failure.hint or f"all output of the ranks is in {log_dir}",
    )


def _when(step: int) -> str:
    return f"in step {step}" if step else "before its first step"


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
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _explain_silent_death(log_dir: Path, torchrun_output: str) -> XTunerError | None:
    """A rank that was killed leaves no note; torchrun's summary still says which and by what signal."""
    ends = re.findall(r"^\s*rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*-(\d+)", torchrun_output, re.MULTILINE)
    killed = [(rank, int(number)) for rank, number in ends if int(number) != signal.SIGTERM]
    if not killed:
        return None
    rank, number = killed[0]
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return TrainingFailed(
        f"rank {rank} was ended by {name} and left no message",
        hint="often the kernel, out of memory: look at `dmesg`, use shorter packs or fewer ranks a machine"
        if number == signal.SIGKILL
        else f"all output of the ranks is in {log_dir}",
    )
