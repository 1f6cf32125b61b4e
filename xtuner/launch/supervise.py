"""Start torchrun, follow rank 0, pass signals on, and say how it ended: in a terminal or without one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xtuner.errors import StoppedAndSaved, StoppedNotSaved, TrainingFailed, XTunerError
from xtuner.launch.failure import explain_failure
from xtuner.launch.job import Job
from xtuner.launch.stop_signals import StopSignals
from xtuner.run.layout import RunDir
from xtuner.run.status import read_status
from xtuner.run.supervision import SupervisionFile, supervise_here
from xtuner.run.tail import FileTail

_AGENT = Path(__file__).resolve().parent / "entry" / "agent.py"
_POLL_S = 0.2


def run_to_end(job: Job, *, is_detached: bool, on_line: Callable[[str], None] | None = None) -> None:
    """Run `job` and wait for it; whatever ends this process ends torchrun and its ranks.

    Args:
        job: what to run.
        is_detached: this process has no terminal, and nobody waits for it.
        on_line: gets each line of rank 0's log.

    Raises:
        XTunerError: the run failed or was stopped; the error is that of the first rank that failed.
    """
    job.log_dir.mkdir(parents=True, exist_ok=True)
    begun_at = time.time()
    with StopSignals(is_detached=is_detached) as signals:  # before anybody can know whom to send one
        file = supervise_here(job.home, is_detached=is_detached)
        with _end_noted(file):
            exit_code = _run(job, signals, file, _Follower(job, on_line))
            if exit_code != 0:
                raise _explain(job, signals, begun_at)


@contextmanager
def _end_noted(file: SupervisionFile) -> Iterator[None]:
    """Write down how the block ended."""
    try:
        yield
    except XTunerError as error:
        file.update(exit_code=error.exit_code, message=error.message, hint=error.hint)
        raise
    except BaseException as error:
        file.update(exit_code=TrainingFailed.exit_code, message=f"{type(error).__name__}: {error}")
        raise
    file.update(exit_code=0)


def _run(job: Job, signals: StopSignals, file: SupervisionFile, follower: "_Follower") -> int:
    """Start torchrun and stay with it; its exit code."""
    with job.torchrun_log.open("wb") as output:
        process = _start_torchrun(job, output)
    num_noted = 0
    is_running = True
    while is_running:
        is_running = process.poll() is None  # before the look, so that the last lines are seen
        follower.look()
        if is_running:
            signals.pass_on(process)
            time.sleep(_POLL_S)
        if len(signals.received) > num_noted:
            num_noted = len(signals.received)
            file.update(num_stop_signals=num_noted)
    return process.returncode


def _start_torchrun(job: Job, output: BinaryIO) -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C then reaches the ranks once, through us, and not twice.
    return subprocess.Popen(
        [sys.executable, str(_AGENT), str(os.getpid()), *job.command],
        env={**os.environ, **job.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _explain(job: Job, signals: StopSignals, begun_at: float) -> XTunerError:
    """The error of a launch that ended with another exit code than 0."""
    status = read_status(job.run_dir) if job.run_dir else None
    if status and status.heartbeat_at < begun_at:  # of the launch before
        status = None
    if job.run_dir and status and status.state == "stopped" and status.exit_code == StoppedAndSaved.exit_code:
        return StoppedAndSaved(status.message, hint=f"go on with the same command and --resume {job.run_dir.path}")
    if signals.received:
        return StoppedNotSaved(
            f"stopped by {signals.first_name}; what was trained since the last checkpoint was not saved",
            hint="start again with --resume auto, which goes on from the last checkpoint if there is one",
        )
    return explain_failure(job.log_dir, job.torchrun_log.read_text(encoding="utf-8", errors="backslashreplace"))


class _Follower:
    """Hands on what rank 0 logs from now on, and links what torchrun captures into the run directory."""

    def __init__(self, job: Job, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._log = _behind_what_is_there(FileTail(job.run_dir.rank_log(0))) if job.run_dir and on_line else None
        self._attempts = _AttemptLinks(job.log_dir, job.run_dir) if job.run_dir else None

    def look(self) -> None:
        """Take what is new."""
        if self._attempts:
            self._attempts.refresh()
        while self._log and (lines := self._log.read_lines()):
            for line in lines:
                self._hand_on(line)

    def _hand_on(self, line: str) -> None:
        """A terminal that is gone, or a pipe nobody reads any more, must not end the run."""
        if self._on_line:
            try:
                self._on_line(line)
            except OSError:
                self._on_line = None


def _behind_what_is_there(log: FileTail) -> FileTail:
    """`log` read to its end: of a run that is resumed, what was said before is not said again."""
    while log.read_lines():
        pass
    return log


class _AttemptLinks:
    """torchrun hides its captures under a random name; `logs/attempt_0` leads there.

    The attempts of a run that is resumed are counted on.
    """

    def __init__(self, log_dir: Path, run_dir: RunDir) -> None:
        self._log_dir = log_dir
        self._run_dir = run_dir
        self._known: set[Path] = set()
        self._num_links = len(list(run_dir.logs.glob("attempt_*")))

    def refresh(self) -> None:
        """Link what is new."""
        for captured in sorted(set(self._log_dir.glob("*/attempt_*")) - self._known):
            self._known.add(captured)
            self._run_dir.attempt_logs(self._num_links).symlink_to(os.path.relpath(captured, self._run_dir.logs))
            self._num_links += 1
