"""A launch as data, and the one function that turns it into a command."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import UsageError
from xtuner.v1.config.flags import flags_of

if TYPE_CHECKING:
    from xtuner.v1.config import TrainerConfig

ENTRY = Path(__file__).resolve().parent.parent / "v1" / "train" / "cli" / "sft.py"
# What torchrun passes on to its ranks: its own choice, and SIGUSR1, which schedulers send before they end a job.
_SIGNALS = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


@dataclass(frozen=True)
class LaunchPlan:
    """What to start: the same plan always gives the same command.

    Attributes:
        config: the training options.
        nproc_per_node: ranks on each machine.
        nnodes: machines.
        node_rank: which machine this is.
        rdzv_endpoint: `host:port` where several machines meet.
        log_dir: where torchrun keeps what the ranks print; None lets them print to the terminal.
        max_restarts: how often ranks that failed are started again, from the newest checkpoint.
        checkpoint_seal: of the checkpoint that `--resume` means, where that was verified already, see `seal_of`.
    """

    config: "TrainerConfig"
    nproc_per_node: int
    nnodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str | None = None
    log_dir: Path | None = None
    max_restarts: int = 0
    checkpoint_seal: str = ""

    @property
    def world_size(self) -> int:
        """Ranks on all machines."""
        return self.nproc_per_node * self.nnodes

    def check(self) -> None:
        """Raise `UsageError` for numbers that make no launch."""
        if self.nnodes > 1 and self.rdzv_endpoint is None:
            raise UsageError(
                f"--nnodes {self.nnodes} is given without --rdzv-endpoint",
                hint="pass the same --rdzv-endpoint HOST:PORT on every machine, HOST being that of --node-rank 0",
            )
        if not 0 <= self.node_rank < self.nnodes:
            raise UsageError(
                f"--node-rank {self.node_rank} is not one of 0 to {self.nnodes - 1} (--nnodes {self.nnodes})",
                hint="number the machines from 0",
            )


def torchrun_command(plan: LaunchPlan) -> list[str]:
    """The argv that starts `plan` on this machine."""
    restarts = [f"--max-restarts={plan.max_restarts}"] if plan.max_restarts else []
    return [*_torchrun(), *_rendezvous(plan), *restarts, _SIGNALS, *_logging(plan), str(ENTRY), *flags_of(plan.config)]


def sft_command(plan: LaunchPlan, *, default_nproc: int) -> list[str]:
    """The `xtuner sft` that launches `plan`; flags that say what would be anyway are left out.

    Args:
        plan: what to launch.
        default_nproc: the ranks that `xtuner sft` would start without being told.
    """
    arguments = [] if plan.nproc_per_node == default_nproc else [f"--nproc-per-node={plan.nproc_per_node}"]
    if plan.nnodes > 1:
        arguments += [f"--nnodes={plan.nnodes}", f"--node-rank={plan.node_rank}"]
        arguments += [f"--rdzv-endpoint={plan.rdzv_endpoint}"] if plan.rdzv_endpoint else []
    arguments += [f"--max-restarts={plan.max_restarts}"] if plan.max_restarts else []
    return ["xtuner", "sft", *flags_of(plan.config), *arguments]


def _torchrun() -> list[str]:
    beside_python = Path(sys.executable).parent / "torchrun"
    return [str(beside_python)] if beside_python.exists() else [sys.executable, "-m", "torch.distributed.run"]


def _rendezvous(plan: LaunchPlan) -> list[str]:
    arguments = [f"--nproc-per-node={plan.nproc_per_node}"]
    if plan.nnodes == 1:
        return [*arguments, "--standalone"]  # a free port of its own: two runs on one machine never meet
    return [
        *arguments,
        f"--nnodes={plan.nnodes}",
        f"--node-rank={plan.node_rank}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={plan.rdzv_endpoint}",
        "--rdzv-id=xtuner",
    ]


def _logging(plan: LaunchPlan) -> list[str]:
    return [f"--log-dir={plan.log_dir}", "--redirects=3"] if plan.log_dir else []
