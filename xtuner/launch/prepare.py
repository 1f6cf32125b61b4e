"""From a plan to a job: the data tokenised, the run directory chosen or made."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import XTunerError
from xtuner.launch.devices import find_hardware, threads_per_rank
from xtuner.launch.estimate import estimate
from xtuner.launch.job import NODES, Job
from xtuner.launch.model_sizes import sizes_of
from xtuner.launch.plan import LaunchPlan, torchrun_command
from xtuner.preflight import (
    EVAL_FINGERPRINT_VARIABLE,
    FINGERPRINT_VARIABLE,
    prepare_evaluation_data,
    prepare_training_data,
)
from xtuner.run.claim import claim_run
from xtuner.run.layout import MEMORY_ESTIMATE_VARIABLE, RUN_DIR_VARIABLE, RunDir
from xtuner.run.resume import SEAL_VARIABLE, ResumePoint, find_resume_point

if TYPE_CHECKING:
    from xtuner.data.prepare import Progress

# torchrun would kill its ranks 30 s after it passed a signal on to them. How long a step and a save take, the run
# knows best; a second signal does not wait.
_SHUTDOWN_VARIABLE, _SHUTDOWN_S = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600"
# Otherwise the ranks meet through a store that lives as long as torchrun does, and ranks that are started again find
# there where those before them listened (https://github.com/pytorch/pytorch/issues/135712).
STORE_VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def prepare_job(plan: LaunchPlan, on_progress: "Callable[[Progress], None] | None" = None) -> Job:
    """Tokenise the data of `plan` into the cache, and make the run directory, or claim that of the run to go on with.

    Raises:
        ModelError, DataError: the data cannot be trained on.
        UsageError: there is no checkpoint where `--resume` says.
        WorkDirInUse: the run to be resumed goes on, or another launch was faster to resume it.
        EnvironmentFault: the cache or the work dir cannot be written.
    """
    environment = _defaults(plan) | _fingerprints(plan, on_progress) | _memory_estimate(plan)
    run_dir, point = _run_dir(plan) if plan.node_rank == 0 else (None, None)
    claim = claim_run(point.run_dir, point.num_claims) if point else 0
    if run_dir:
        environment[RUN_DIR_VARIABLE] = str(run_dir.path.absolute())
        if point:
            environment[SEAL_VARIABLE] = point.checkpoint.seal
        log_dir = _free_log_dir(run_dir)
    else:
        log_dir = plan.config.work_dir / NODES / f"node{plan.node_rank}-{os.getpid()}"
    command = torchrun_command(replace(plan, log_dir=log_dir))
    return Job(
        tuple(command),
        log_dir,
        run_dir,
        plan.nproc_per_node,
        environment,
        plan.max_restarts,
        plan.nnodes,
        plan.rdzv_endpoint or "",
        claim,
    )


def _defaults(plan: LaunchPlan) -> dict[str, str]:
    """What the user may have set otherwise."""
    wanted = {"OMP_NUM_THREADS": str(threads_per_rank(plan.nproc_per_node)), _SHUTDOWN_VARIABLE: _SHUTDOWN_S}
    if plan.max_restarts:
        wanted[STORE_VARIABLE] = "1"
    return {name: value for name, value in wanted.items() if name not in os.environ}


def _fingerprints(plan: LaunchPlan, on_progress: "Callable[[Progress], None] | None") -> dict[str, str]:
    """Prepare the data; the variables that tell the ranks which data that was."""
    variables = {FINGERPRINT_VARIABLE: prepare_training_data(plan.config, on_progress).fingerprint()}
    evaluation = prepare_evaluation_data(plan.config, on_progress)
    if evaluation:
        variables[EVAL_FINGERPRINT_VARIABLE] = evaluation.fingerprint()
    return variables


def _memory_estimate(plan: LaunchPlan) -> dict[str, str]:
    """The variable that tells the ranks how much memory each should take, where the sizes of the model are known."""
    hardware = find_hardware()
    try:
        needs = estimate(plan.config, sizes_of(plan.config), hardware, nproc=plan.nproc_per_node, nnodes=plan.nnodes)
    except XTunerError:  # an architecture whose config.json has other names: nothing is lost but a line in a chart
        return {}
    return {MEMORY_ESTIMATE_VARIABLE: f"{needs.logged_gib(hardware.kind):.3f}"}


def _run_dir(plan: LaunchPlan) -> tuple[RunDir, ResumePoint | None]:
    point = find_resume_point(plan.config.resume, plan.config.work_dir, plan.checkpoint_seal)
    return (point.run_dir, point) if point else (RunDir.create(plan.config.work_dir), None)


def _free_log_dir(run_dir: RunDir) -> Path:
    """Where torchrun keeps what the ranks print in this launch: a resumed run has that of the ones before too."""
    directories = (run_dir.logs / ("torchrun" if number == 1 else f"torchrun-{number}") for number in count(1))
    return next(directory for directory in directories if not directory.exists())
