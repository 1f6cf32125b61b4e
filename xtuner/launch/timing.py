"""How long a run will take: a few of its steps for real, in a directory that is removed afterwards."""

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtuner.errors import StoppedNotSaved, UsageError
from xtuner.launch.failure import explain_failure
from xtuner.launch.job import Job
from xtuner.launch.plan import LaunchPlan
from xtuner.launch.prepare import prepare_job
from xtuner.launch.supervise import start_torchrun
from xtuner.preflight import prepare_training_data
from xtuner.run.metrics import read_metrics
from xtuner.v1.config import TrainerConfig

_NUM_WARM_UP = 1  # steps that are not timed: the first makes the optimizer's state, and compiles
_NEVER_REACHED = 1_000_000  # steps: a run that came to its end would export the model
_POLL_S = 0.1
_NUM_TRIES, _TRY_AGAIN_S = 50, 0.1
# Whatever writes, evaluates, resumes or tells others: timed is a step, and nothing is to be left behind.
_PLAIN = (
    "epoch_num",
    "resume",
    "checkpoint_interval",
    "save_first_step",
    "hf_interval",
    "report_to",
    "eval_dataset",
    "eval_interval",
    "eval_max_packs",
    "eval_generations",
    "early_stopping_patience",
    "early_stopping_min_delta",
)


@dataclass(frozen=True)
class Timing:
    """What was timed, and what follows.

    Attributes:
        num_timed: steps.
        step_time_s: their median, with waiting for data.
        tokens_per_s: of all ranks, in such a step.
        total_steps: of the run.
    """

    num_timed: int
    step_time_s: float
    tokens_per_s: float
    total_steps: int

    @property
    def duration_s(self) -> float:
        """Of all steps; starting, evaluating and saving come on top."""
        return self.total_steps * self.step_time_s


def time_steps(
    plan: LaunchPlan,
    num_steps: int,
    *,
    on_step: Callable[[int], None] = lambda _step: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Timing:
    """Run `plan` until `num_steps` steps are timed, and end it.

    Args:
        plan: of one machine.
        num_steps: to be timed, besides one to warm up.
        on_step: told how many steps are done, that one among them.
        is_cancelled: asked ten times a second, and while data are tokenised.

    Raises:
        XTunerError: the data or the run failed.
        UsageError: the plan has several machines.
        StoppedNotSaved: it was cancelled.
    """
    if plan.nnodes > 1:
        raise UsageError(
            f"steps of --nnodes {plan.nnodes} machines cannot be timed on one of them",
            hint="time them with --nnodes 1: a step of several machines takes at least as long",
        )

    def look(*_: object) -> None:
        if is_cancelled():
            raise StoppedNotSaved("the timing was cancelled", hint="nothing was changed")

    with _scratch() as directory:
        job = prepare_job(replace(plan, config=_plain(plan.config, directory), max_restarts=0), look)
        _run_steps(job, _NUM_WARM_UP + num_steps, on_step, look)
        return _timing_of(job, num_steps, _total_steps(plan))


def _plain(config: TrainerConfig, directory: Path) -> TrainerConfig:
    """`config` without what is no step, and with an end that is out of reach."""
    defaults = {name: TrainerConfig.model_fields[name].default for name in _PLAIN}
    return config.model_copy(update={**defaults, "total_step": _NEVER_REACHED, "work_dir": directory})


def _total_steps(plan: LaunchPlan) -> int:
    """Steps of the run itself, by the data that are prepared by now."""
    config = plan.config
    if config.total_step:
        return config.total_step
    num_packs = prepare_training_data(config).num_packs
    return (config.epoch_num or 1) * -(-num_packs // config.sequences_per_step(plan.world_size))


def _run_steps(job: Job, num_steps: int, on_step: Callable[[int], None], look: Callable[[], None]) -> None:
    """Start `job` and end it when each rank has done `num_steps`, or when `look` raises."""
    job.log_dir.mkdir(parents=True, exist_ok=True)
    with job.torchrun_log.open("wb") as output:
        torchrun = start_torchrun(job, output)
    try:
        num_done = 0
        while num_done < num_steps:
            look()
            if torchrun.poll() is not None:
                raise explain_failure(job.log_dir, job.read_torchrun_log(), job)
            time.sleep(_POLL_S)
            now_done = min(map(len, _records(job)))
            for step in range(num_done + 1, now_done + 1):
                on_step(step)
            num_done = max(num_done, now_done)
    finally:
        _end(torchrun)


def _end(torchrun: "subprocess.Popen[bytes]") -> None:
    """The ranks end with their agent; asked politely, they would save what nobody wants."""
    torchrun.kill()
    torchrun.wait()


def _records(job: Job) -> list[list[dict[str, Any]]]:
    """The metrics of each rank, step by step."""
    run_dir = job.run_dir
    assert run_dir is not None, "a plan of one machine has a run directory"
    paths = [run_dir.rank_metrics(rank) for rank in range(job.num_ranks)]
    return [list(read_metrics(path)) if path.exists() else [] for path in paths]


def _timing_of(job: Job, num_steps: int, total_steps: int) -> Timing:
    """From the steps behind the warm-up; the first rank's times, as all wait for the slowest in each step."""
    ranks = [records[_NUM_WARM_UP : _NUM_WARM_UP + num_steps] for records in _records(job)]
    times_s = [record["time"] + record["data_time"] for record in ranks[0]]
    step_time_s = statistics.median(times_s)
    num_tokens = sum(record["text_tokens"] for records in ranks for record in records)
    return Timing(num_steps, step_time_s, num_tokens / num_steps / step_time_s, total_steps)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory that is gone afterwards; ranks that are being ended may write to it for a moment yet."""
    directory = Path(tempfile.mkdtemp(prefix="xtuner-timing-"))
    try:
        yield directory
    finally:
        for _ in range(_NUM_TRIES):
            shutil.rmtree(directory, ignore_errors=True)
            if not directory.exists():
                break
            time.sleep(_TRY_AGAIN_S)
