"""torchrun starts failed ranks again; whether that leads anywhere, and what there is to say about it."""

import time
from collections.abc import Callable
from pathlib import Path

from xtuner.errors import TrainingFailed, XTunerError
from xtuner.launch.failure import explain_failure, explain_stop
from xtuner.launch.job import Job
from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.run.failure import forget_failures
from xtuner.run.layout import RunDir

MAX_WITHOUT_CHECKPOINT = 3


class Restarts:
    """Looks at each attempt that begins after another, on the machine with rank 0.

    Args:
        job: the launch.
        run_dir: its run directory.
        say: gets a line for each restart.

    Attributes:
        error: why the launch must end instead of going on; None while it need not.
        num_restarts: how many attempts have begun after another.
    """

    def __init__(self, job: Job, run_dir: RunDir, say: Callable[[str], None]) -> None:
        self.error: XTunerError | None = None
        self.num_restarts = 0
        self._job = job
        self._run_dir = run_dir
        self._say = say
        self._begun_at = time.time()
        self._num_fruitless = 0  # since the newest checkpoint
        self._saved_step = newest_step(run_dir)

    def attempt_began(self, before: Path) -> XTunerError:
        """Take note that torchrun has started its ranks again, and say why.

        Args:
            before: what they printed in the last attempt.
        """
        self.num_restarts += 1
        step = newest_step(self._run_dir)
        self._num_fruitless = 1 if step > self._saved_step else self._num_fruitless + 1
        self._saved_step = step
        cause = explain_failure(before, self._job.read_torchrun_log(), self._job)
        forget_failures(self._run_dir)  # long before the new ranks can leave any
        self.error = self._why_not(cause)
        if self.error is None:
            origin = f"the checkpoint of step {step}" if step else "the beginning, as there is no checkpoint yet"
            limit = f"{self.num_restarts} of {self._job.max_restarts}"
            self._say(f"{cause.message.partition(chr(10))[0]}; restart {limit}, from {origin}")
        return cause

    def _why_not(self, cause: XTunerError) -> XTunerError | None:
        # A signal that a rank was sent alone: torchrun takes its leaving for a failure.
        stop = explain_stop(self._run_dir, self._begun_at)
        if stop:
            return stop
        if not isinstance(cause, TrainingFailed):
            return cause  # a mistake in options, model, data or machine is there the next time too
        if self._num_fruitless > MAX_WITHOUT_CHECKPOINT:
            newest = f"the newest is of step {self._saved_step}" if self._saved_step else "there is none"
            return TrainingFailed(
                f"gave up after {MAX_WITHOUT_CHECKPOINT} restarts without a new checkpoint ({newest}): {cause.message}",
                hint=cause.hint,
            )
        return None


def newest_step(run_dir: RunDir) -> int:
    """The step of the newest checkpoint that is whole by its sizes; 0 without one."""
    checkpoints = reversed(list_checkpoints(run_dir))
    return next((it.step for it in checkpoints if fault_of(it, reads_files=False) is None), 0)
