"""Why a launch failed: the first rank that failed, found in what torchrun kept."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.errors import TrainingFailed, XTunerError, error_for_exit_code

_TRACEBACK_LINES = 12


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


def explain_failure(log_dir: Path, torchrun_output: str) -> XTunerError:
    """The error to show for a failed launch; the exit code is that of the rank that failed first.

    Args:
        log_dir: the directory given to torchrun's `--log-dir`.
        torchrun_output: what torchrun itself printed; names the rank when that could leave no note (SIGKILL).
    """
    failures = sorted(
        (failure for path in log_dir.rglob("error.json") if (failure := _read(path))), key=lambda f: f.time
    )
    if not failures:
        return _explain_silent_death(log_dir, torchrun_output)
    first = failures[0]
    if first.exit_code != TrainingFailed.exit_code:
        return error_for_exit_code(first.exit_code, first.message, hint=first.hint)
    tail = "\n".join("  " + line for line in first.traceback.rstrip().splitlines()[-_TRACEBACK_LINES:])
    return TrainingFailed(
        f"rank {first.rank} failed {_when(first.step)}: {first.message}\n{tail}",
        hint=first.hint or f"all output of the ranks is in {log_dir}",
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


def _explain_silent_death(log_dir: Path, torchrun_output: str) -> XTunerError:
    """A rank that was killed leaves no note; torchrun's summary still says which and by what."""
    root_cause = torchrun_output.rpartition("Root Cause")[2]
    rank = re.search(r"rank\s*:\s*(\d+)", root_cause)
    code = re.search(r"exitcode\s*:\s*(-?\d+)", root_cause)
    if rank is None or code is None:
        last = torchrun_output.strip().splitlines()[-1:] or ["it printed nothing"]
        return TrainingFailed(f"torchrun failed: {last[0]}", hint=f"its output is in {log_dir}")
    is_killed = code.group(1) == "-9"
    how = "SIGKILL" if is_killed else f"exit code {code.group(1)}"
    return TrainingFailed(
        f"rank {rank.group(1)} ended with {how} and left no message",
        hint="often the kernel, out of memory: look at `dmesg`, use shorter packs or fewer ranks a machine"
        if is_killed
        else f"all output of the ranks is in {log_dir}",
    )
