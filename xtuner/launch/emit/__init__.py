"""The same plan for those who start it: Slurm, the training operator of Kubernetes, torchrun by hand."""

from collections.abc import Callable
from typing import Literal

from xtuner.launch.emit.by_hand import torchrun_line
from xtuner.launch.emit.kubernetes import pytorch_job
from xtuner.launch.emit.slurm import sbatch_script
from xtuner.launch.plan import LaunchPlan

Target = Literal["slurm", "k8s", "torchrun"]
EMITTERS: dict[Target, Callable[[LaunchPlan], str]] = {
    "slurm": sbatch_script,
    "k8s": pytorch_job,
    "torchrun": torchrun_line,
}
