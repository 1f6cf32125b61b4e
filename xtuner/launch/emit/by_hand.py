"""torchrun by hand."""

from xtuner.launch.emit.arguments import resumable
from xtuner.launch.plan import LaunchPlan, torchrun_command
from xtuner.launch.prepare import STORE_VARIABLE
from xtuner.launch.shell import shell_join


def torchrun_line(plan: LaunchPlan) -> str:
    """The line for this machine; each attempt of `--max-restarts` finds the newest checkpoint by `--resume auto`."""
    if not plan.max_restarts:
        return shell_join(torchrun_command(plan))
    return shell_join(["env", f"{STORE_VARIABLE}=1", *torchrun_command(resumable(plan))])
