"""An sbatch script (https://slurm.schedmd.com/sbatch.html)."""

from xtuner.launch.emit.arguments import sft_arguments
from xtuner.launch.emit.grace import grace_s
from xtuner.launch.plan import LaunchPlan
from xtuner.launch.shell import shell_join, shell_quote

_HEAD = """\
#!/bin/bash
#SBATCH --job-name=xtuner
#SBATCH --nodes={nnodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={nproc}
#SBATCH --output=xtuner-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Seconds before the end in which the run finishes its step and saves. Not B:, which would tell this script alone.
#SBATCH --signal=TERM@{grace_s}
# Add what your cluster wants: --partition, --account, --time, --cpus-per-task.

set -u
"""
_ONE_NODE = """\
srun {sft}
"""
_MORE_NODES = """\
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export XTUNER_RENDEZVOUS="$head_node:{port}"
srun bash -c 'exec "$@" --node-rank="$SLURM_NODEID" --rdzv-endpoint="$XTUNER_RENDEZVOUS"' xtuner {sft}
"""
_TAIL = """\
exit_code=$?
if [ "$exit_code" -eq 7 ]; then  # stopped and saved: the job goes on when it is its turn again
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$exit_code"
"""
# Jobs that share a node must not share a port.
_PORT = "$((20000 + SLURM_JOB_ID % 10000))"


def sbatch_script(plan: LaunchPlan) -> str:
    """A script for `sbatch` that runs `plan`, saves before the time is up or the job is preempted, and goes on."""
    command = sft_arguments(plan)
    if plan.nnodes == 1:
        body = _ONE_NODE.format(sft=shell_join(command))
    else:
        given = plan.rdzv_endpoint.rpartition(":")[2] if plan.rdzv_endpoint else ""
        sft = shell_join([*command, f"--nnodes={plan.nnodes}"])
        body = _MORE_NODES.format(port=shell_quote(given) if given else _PORT, sft=sft)
    head = _HEAD.format(nnodes=plan.nnodes, nproc=plan.nproc_per_node, grace_s=grace_s(plan.config))
    return head + body + _TAIL
