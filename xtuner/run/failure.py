"""Notes that failing ranks leave in what torchrun keeps: which rank was the first, and why."""

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.errors import StoppedNotSaved, TrainingFailed
from xtuner.run.layout import RunDir

_TRACEBACK_LINES = 12
_SUMMARY = re.compile(r"^\s*rank\s*:\s*(\d+)[^\n]*\n\s*exitcode\s*:\s*(-\d+) \(pid: (\d+)\)", re.MULTILINE)
# torchrun's line about the rank that it blames for an attempt: exit code, number on its machine, process id.
BLAMED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: (\d+)\)")
_LAUNCH = re.compile(r"torchrun-([0-9]{1,9})")
# torchrun names the failure with the earliest whole second alone, and takes that in which it looks for a rank that was
# killed: whoever lost its connection by that would come first.
_CONSEQUENCE_LATER_S = 60
_OUTPUT_BYTES = 2**16  # torchrun's summary is the end of what it prints
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
    """One rank's end.

    Attributes:
        step: 0 when it had not begun to train.
        time: seconds since the epoch.
        host: the machine that it ran on; empty where that is not known.
        needed_gib: what it had of memory and asked for, where it did not get it; None where memory was not the cause.
        num_ranks: of the run, where memory was.
        num_local_ranks: those on its machine.
        signal_name: of what ended it before it could say anything; empty for a rank that has.
    """

    rank: int
    step: int
    time: float
    exit_code: int
    message: str
    hint: str
    traceback: str
    host: str = ""
    needed_gib: float | None = None
    num_ranks: int = 1
    num_local_ranks: int = 1
    signal_name: str = ""

    @property
    def is_consequence(self) -> bool:
        """Whether another rank's end explains this one."""
        return self.exit_code == StoppedNotSaved.exit_code or is_broken_connection(self.message)

    @property
    def who(self) -> str:
        """The rank in words, with its machine where that is another one."""
        return f"rank {self.rank}" + ("" if self.is_here else f" on {self.host}")

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine, as far as that is known."""
        return self.host in ("", socket.gethostname())

    @property
    def sentence(self) -> str:
        """What happened."""
        return (
            f"{self.who} was {self.message}" if self.signal_name else f"{self.who} failed {self.when}: {self.message}"
        )

    @property
    def when(self) -> str:
        """The step in words."""
        return f"in step {self.step}" if self.step else "before its first step"

    @property
    def traceback_end(self) -> str:
        """The last lines of the traceback, indented."""
        return "\n".join("  " + line for line in self.traceback.rstrip().splitlines()[-_TRACEBACK_LINES:])


def is_broken_connection(message: str) -> bool:
    """Whether an error says that a peer is gone: what it was, that one may have said."""
    return any(sign in message for sign in _BROKEN_CONNECTION)


def leave_note(failure: RankFailure, kind: str, *places: Path) -> None:
    """Write down why a rank failed, where others look for it; a place that cannot be written is left out.

    The layout is torchelastic's (torch/distributed/elastic/multiprocessing/errors/error_handler.py), whose summary
    shows it, with what `xtuner sft` needs besides.

    Args:
        failure: of the rank.
        kind: the name of the error's class.
        places: files.
    """
    extra: dict[str, Any] = {
        "py_callstack": failure.traceback,
        "timestamp": str(int(failure.time) + (_CONSEQUENCE_LATER_S if failure.is_consequence else 0)),
        "time": failure.time,
        "rank": failure.rank,
        "step": failure.step,
        "exit_code": failure.exit_code,
        "message": failure.message,
        "hint": failure.hint,
        "host": failure.host,
        "signal_name": failure.signal_name,
    }
    if failure.needed_gib is not None:
        extra |= {
            "needed_gib": failure.needed_gib,
            "num_ranks": failure.num_ranks,
            "num_local_ranks": failure.num_local_ranks,
        }
    text = json.dumps({"message": {"message": f"{kind}: {failure.message}", "extraInfo": extra}})
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        except OSError:
            pass  # the message on stderr still stands


def read_failures(log_dir: Path) -> list[RankFailure]:
    """The notes under `log_dir`, a directory given to torchrun's `--log-dir` or a part of it, the oldest first."""
    return sorted(filter(None, map(_read, log_dir.rglob("error.json"))), key=lambda failure: failure.time)


def failures_of(attempt: Path | None, run_dir: RunDir | None) -> list[RankFailure]:
    """The notes of an attempt, the oldest first: torchrun's, and those that ranks on other machines have left.

    Args:
        attempt: what torchrun keeps of it on this machine.
        run_dir: has the notes of all machines that share its file system.
    """
    here = read_failures(attempt) if attempt else []
    known = {failure.rank for failure in here}
    elsewhere = read_failures(run_dir.failures) if run_dir else []
    return sorted([*here, *(it for it in elsewhere if it.rank not in known)], key=lambda failure: failure.time)


def forget_failures(run_dir: RunDir) -> None:
    """Remove the notes of an attempt that is over, so that they are not taken for those of the next one."""
    shutil.rmtree(run_dir.failures, ignore_errors=True)


def first_failure(failures: list[RankFailure]) -> RankFailure | None:
    """The rank that failed by itself first; else the first that failed at all.

    Of several notes about one rank, as others leave them when it hangs, the one that has its stack.
    """
    candidates = [failure for failure in failures if not failure.is_consequence] or failures
    about_first = [failure for failure in candidates if failure.rank == candidates[0].rank]
    return next((failure for failure in about_first if failure.traceback), next(iter(about_first), None))


def end_by_signal(rank: int, number: int, *, host: str = "", time: float = 0.0) -> RankFailure:
    """The end of a rank that the signal `number` ended before it could say anything; the rest as in `RankFailure`."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = "often the kernel, out of memory: look at `dmesg`, use shorter packs or fewer ranks a machine"
    return RankFailure(
        rank,
        step=0,
        time=time,
        exit_code=TrainingFailed.exit_code,
        message=f"ended by {name} and left no message",
        hint=hint if number == signal.SIGKILL else "",
        traceback="",
        host=host,
        signal_name=name,
    )


def find_killed(torchrun_output: str) -> RankFailure | None:
    """A rank that was killed leaves no note; torchrun's summary still says which and by what signal.

    Those that torchrun asked to go are not meant: they end by its signal, or by ours where they do not go. What it
    takes for the cause comes last.
    """
    others, _, cause = torchrun_output.rpartition("Root Cause")
    return _first_killed(torchrun_output, [end for part in (cause, others) for end in _SUMMARY.findall(part)])


def find_killed_before_restart(torchrun_output: str) -> RankFailure | None:
    """The same for the last attempt that torchrun gave up to start its ranks again: a summary comes at the end only."""
    failed = BLAMED.findall(torchrun_output)[-1:]
    return _first_killed(torchrun_output, [(rank, exit_code, pid) for exit_code, rank, pid in failed])


def asked_to_go(torchrun_output: str) -> list[int]:
    """Process ids of the ranks that torchrun has sent a signal, as another one failed or it was told to end."""
    return [int(pid) for pid in re.findall(r"Sending process (\d+) closing signal", torchrun_output)]


def is_killed(exit_code: int, pid: int, asked: Container[int]) -> bool:
    """Whether a rank was ended by a signal that torchrun did not cause.

    SIGTERM is how it ends ranks, and those of `asked` that do not go at its word are killed.
    """
    return exit_code < 0 and exit_code != -signal.SIGTERM and pid not in asked


def _first_killed(torchrun_output: str, ends: Iterable[tuple[str, str, str]]) -> RankFailure | None:
    """Of ranks, exit codes and process ids, the first that ended by a signal that torchrun did not cause."""
    asked = asked_to_go(torchrun_output)
    killed = ((rank, code) for rank, code, pid in ends if is_killed(int(code), int(pid), asked))
    return next((end_by_signal(int(rank), -int(code)) for rank, code in killed), None)


def read_killed(run_dir: RunDir) -> RankFailure | None:
    """The same from what torchrun printed in a run that `xtuner sft` launched."""
    try:
        with (_newest_log_dir(run_dir) / "torchrun.log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _OUTPUT_BYTES))
            return find_killed(file.read().decode("utf-8", "backslashreplace"))
    except OSError:
        return None


def _newest_log_dir(run_dir: RunDir) -> Path:
    """What torchrun has kept in the last launch of a run: `torchrun`, `torchrun-2`, and so on."""
    numbers = {int(match[1]) for name in os.listdir(run_dir.logs) if (match := _LAUNCH.fullmatch(name))}
    return run_dir.logs / (f"torchrun-{max(numbers)}" if numbers else "torchrun")


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
            host=str(extra.get("host", "")),
            needed_gib=float(extra["needed_gib"]) if "needed_gib" in extra else None,
            num_ranks=int(extra.get("num_ranks", 1)),
            num_local_ranks=int(extra.get("num_local_ranks", 1)),
            signal_name=str(extra.get("signal_name", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
