"""Start torchrun, follow rank 0, pass signals on, and say how it ended: in a terminal or without one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xtuner.errors import EnvironmentFault, StoppedNotSaved, TrainingFailed, XTunerError
from xtuner.launch.attempts import Attempts
from xtuner.launch.failure import await_notes, explain_failure, explain_stop
from xtuner.launch.hang import HangWatch
from xtuner.launch.job import Job
from xtuner.launch.killed_ranks import KilledRanks
from xtuner.launch.peers import Peers
from xtuner.launch.restarts import Restarts
from xtuner.launch.stop_signals import StopSignals
from xtuner.launch.survivors import Survivors
from xtuner.run.claim import take_over_claim
from xtuner.run.failure import forget_failures
from xtuner.run.supervision import SupervisionFile, supervise_here
from xtuner.run.tail import FileTail

_AGENT = Path(__file__).resolve().parent / "entry" / "agent.py"
_POLL_S = 0.2


def run_to_end(
    job: Job, *, is_detached: bool, say: Callable[[str], None], on_line: Callable[[str], None] | None = None
) -> None:
    """Run `job` and wait for it; whatever ends this process ends torchrun and its ranks.

    Args:
        job: what to run.
        is_detached: this process has no terminal, and nobody waits for it.
        say: gets a line for each time that torchrun starts failed ranks again.
        on_line: gets each line of rank 0's log.

    Raises:
        XTunerError: the run failed or was stopped; the error is that of the first rank that failed.
        WorkDirInUse: the process that prepared `job` was killed, and another launch has claimed its run since.
        EnvironmentFault: the run directory cannot be written.
    """
    with StopSignals(is_detached=is_detached) as signals:  # before anybody can know whom to send one
        if job.run_dir and job.claim:
            take_over_claim(job.run_dir, job.claim)
        try:
            job.log_dir.mkdir(parents=True, exist_ok=True)
            file = supervise_here(job.home, is_detached=is_detached, max_restarts=job.max_restarts, meeting=job.meeting)
        except OSError as error:
            raise EnvironmentFault(
                f"{job.home.path} cannot be written: {error.strerror}", hint="check its permissions and the free disk"
            ) from None
        with _end_noted(file):
            _Launch(job, signals, file, _until_gone(say), on_line and _until_gone(on_line)).run()


def start_torchrun(job: Job, output: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start torchrun, which ends with this process, and its ranks with it."""
    # A session of its own: Ctrl-C then reaches the ranks once, through us, and not twice.
    return subprocess.Popen(
        [sys.executable, str(_AGENT), str(os.getpid()), *job.command],
        env={**os.environ, **job.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


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


def _until_gone(tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell` until it fails: a terminal that is closed, or a pipe nobody reads any more, must not end the run."""
    is_gone = False

    def tell_or_not(text: str) -> None:
        nonlocal is_gone
        if not is_gone:
            try:
                tell(text)
            except OSError:
                is_gone = True

    return tell_or_not


class _Launch:
    """torchrun from its start to its end."""

    def __init__(
        self,
        job: Job,
        signals: StopSignals,
        file: SupervisionFile,
        say: Callable[[str], None],
        on_line: Callable[[str], None] | None,
    ) -> None:
        self._job = job
        self._signals = signals
        self._file = file
        self._on_line = on_line
        self._begun_at = time.time()
        self._num_noted = 0
        self._attempts = Attempts(job)
        self._survivors = Survivors(job)
        self._killed_ranks = KilledRanks(job)
        self._peers = Peers(job)
        self._log = _behind_what_is_there(FileTail(job.run_dir.rank_log(0))) if job.run_dir and on_line else None
        self._hang_watch = HangWatch(job.run_dir) if job.run_dir else None
        self._restarts = Restarts(job, job.run_dir, say) if job.run_dir else None

    def run(self) -> None:
        """Start torchrun and stay with it.

        Raises:
            XTunerError: see `run_to_end`.
        """
        if self._job.run_dir:
            forget_failures(self._job.run_dir)  # of a launch before
        with self._job.torchrun_log.open("wb") as output:
            torchrun = start_torchrun(self._job, output)
        is_running = True
        while is_running:
            is_running = torchrun.poll() is None  # before the look, so that the last lines are seen
            self._look()
            if is_running:
                self._peers.look(self._attempts.newest)
                if self._own_error:
                    self._signals.end(torchrun)
                self._signals.pass_on(torchrun)
                if self._hang_watch:
                    self._hang_watch.look()
                if not self._signals.received:
                    self._survivors.look(torchrun.pid, self._attempts.newest)
                time.sleep(_POLL_S)
        if torchrun.returncode != 0:
            raise self._explain()

    @property
    def _own_error(self) -> XTunerError | None:
        """Why the launch must end, though torchrun goes on."""
        return (self._restarts.error if self._restarts else None) or self._peers.error

    def _look(self) -> None:
        """Take what is new: lines, attempts, signals."""
        while self._log and self._on_line and (lines := self._log.read_lines()):
            for line in lines:
                self._on_line(line)
        self._killed_ranks.look(self._attempts.newest)  # before the next attempt: it makes the notes forgotten
        for ended in self._attempts.look():
            if self._restarts:
                after = self._restarts.attempt_began(ended)
                number = self._restarts.num_restarts
                self._file.update(num_restarts=number, restarted_at=time.time(), restarted_after=after.message)
        if len(self._signals.received) > self._num_noted:
            self._num_noted = len(self._signals.received)
            self._file.update(num_stop_signals=self._num_noted)

    def _explain(self) -> XTunerError:
        """The error of a launch that ended with another exit code than 0."""
        stop = explain_stop(self._job.run_dir, self._begun_at) if self._job.run_dir else None
        if stop:
            return stop
        if self._signals.received:
            return StoppedNotSaved(
                f"stopped by {self._signals.first_name}; what was trained since the last checkpoint was not saved",
                hint="start again with --resume auto, which goes on from the last checkpoint if there is one",
            )
        if self._own_error:
            return self._own_error
        log_dir = self._attempts.newest or self._job.log_dir
        if not await_notes(log_dir, self._job) and (error := self._peers.ended()):
            return error
        return explain_failure(log_dir, self._job.read_torchrun_log(), self._job)


def _behind_what_is_there(log: FileTail) -> FileTail:
    """`log` read to its end: of a run that is resumed, what was said before is not said again."""
    while log.read_lines():
        pass
    return log
