"""`xtuner sft` for a plan that another program starts on each machine, and starts again after an end."""

from dataclasses import replace

from xtuner.launch.plan import LaunchPlan, sft_command


def sft_arguments(plan: LaunchPlan) -> list[str]:
    """The command without what differs between the machines; a job that is queued again goes on where it was."""
    return sft_command(resumable(replace(plan, nnodes=1, node_rank=0)), default_nproc=0)


def resumable(plan: LaunchPlan) -> LaunchPlan:
    """`plan` with `--resume auto`, unless it says itself where to go on."""
    if plan.config.resume != "none":
        return plan
    return replace(plan, config=plan.config.model_copy(update={"resume": "auto"}))
