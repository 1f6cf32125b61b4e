"""`xtuner sft`: check everything here, then launch torchrun and follow it."""

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import typer

from xtuner.cli import console
from xtuner.cli.attach import has_ended, show_end, show_result, wait_for_end
from xtuner.cli.progress import tokenising_bar
from xtuner.cli.ranks import parse_ranks
from xtuner.cli.terminal import has_screen
from xtuner.language import language_of
from xtuner.launch.devices import count_accelerators
from xtuner.launch.plan import LaunchPlan, torchrun_command
from xtuner.launch.ports import check_endpoint
from xtuner.launch.shell import shell_join
from xtuner.run.layout import RunDir
from xtuner.run.resume import find_resume_point
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import with_flags

if TYPE_CHECKING:
    from xtuner.launch.emit import Target
    from xtuner.launch.job import Job


@with_flags
def command(
    config: TrainerConfig,
    ctx: typer.Context,
    nproc_per_node: int = typer.Option(
        None, parser=parse_ranks, metavar="RANKS", help="Ranks on this machine.  [default: one an accelerator, else 1]"
    ),
    nnodes: int = typer.Option(1, min=1, metavar="MACHINES", help="Machines that train together."),
    node_rank: int = typer.Option(0, min=0, metavar="N", help="Which of the machines this is, from 0."),
    rdzv_endpoint: str = typer.Option(None, metavar="HOST:PORT", help="Where several machines meet."),
    max_restarts: int = typer.Option(
        0, min=0, metavar="TIMES", help="Start failed ranks again, from the newest checkpoint."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Check, print the torchrun command and the resolved options, and stop."
    ),
    emit: Literal["slurm", "k8s", "torchrun"] | None = typer.Option(
        None, "--emit", help="Print an sbatch script, a Kubernetes manifest or the torchrun line, and stop."
    ),
    wizard: bool = typer.Option(False, "--wizard", help="Ask for the options on the screen, those given filled in."),
    plain: bool = typer.Option(
        False, "--plain", help="No screen: questions and the run as lines of text, as screen readers need it."
    ),
    goes_on: bool = typer.Option(False, "--continue", help="Ask with the answers of the last time filled in."),
    detach: bool = typer.Option(False, "--detach", help="Launch without a terminal, and return."),
    lang: Literal["en", "zh"] | None = typer.Option(
        None, help="Language of the questions.  [default: that of LANGUAGE, LC_ALL, LC_MESSAGES or LANG]"
    ),
    yes: bool = typer.Option(False, "--yes", help="Never ask: defaults for all that is not given."),
) -> None:
    """Fine-tune a Hugging Face model on chats; on a terminal it asks for what is not given.

    \b
    Example:
      xtuner sft
      xtuner sft --load-from Qwen3-0.6B --dataset chats.jsonl --total-step 100
    """
    from xtuner.cli.model_choice import check_or_choose
    from xtuner.cli.wizard import Asking, ask, wants_questions

    plan = LaunchPlan(
        config=config,
        nproc_per_node=nproc_per_node or count_accelerators() or 1,
        nnodes=nnodes,
        node_rank=node_rank,
        rdzv_endpoint=rdzv_endpoint,
        max_restarts=max_restarts,
    )
    is_never_asked = yes or dry_run or emit is not None
    asking = Asking(wizard, plain, goes_on, never=is_never_asked, language=lang or language_of())
    if wants_questions(config, asking):
        chosen = ask(plan, asking, ctx.params)
        if chosen is None:
            return
        plan, config = chosen, chosen.config
    if emit:
        _emit(plan, emit)
        return
    plan.check()
    plan = replace(plan, config=check_or_choose(config, plan.world_size, asks=not yes))
    if plan.node_rank == 0:
        point = find_resume_point(config.resume, config.work_dir)
        if point:
            console.say(f"resuming {point.run_dir.path} after step {point.checkpoint.step}")
            plan = replace(plan, checkpoint_seal=point.checkpoint.seal)
    if plan.rdzv_endpoint is not None:
        check_endpoint(plan.rdzv_endpoint, is_host_here=plan.node_rank == 0)
    if dry_run:
        console.data(shell_join(torchrun_command(plan)))
        console.data_json(plan.config.model_dump(mode="json"))
        return
    if detach:
        launch_and_leave(plan)
    elif plan.node_rank == 0 and has_screen() and not (plain or yes):
        launch_and_watch(plan)
    else:
        launch(plan)


def _emit(plan: LaunchPlan, target: "Target") -> None:
    """Print `plan` for who starts it; the files it names may be on other machines, and are looked at there."""
    from xtuner.launch.emit import EMITTERS

    plan.config.check()
    plan.config.check_world_size(plan.world_size)
    if target == "torchrun":
        plan.check()
    console.data(EMITTERS[target](plan).rstrip("\n"))
    if not plan.config.checkpoint_interval:
        console.warn("without --checkpoint-interval a machine that fails costs all steps since the start")


def launch(plan: LaunchPlan) -> RunDir:
    """Tokenise the data into the cache, then run `plan` to its end; returns the run directory.

    On a machine without rank 0 the run directory is that machine's own, and holds its ranks' output alone.

    Raises:
        XTunerError: the data or the run failed.
    """
    from xtuner.launch.supervise import run_to_end

    job = _prepare(plan)
    run_to_end(job, is_detached=False, say=console.say, on_line=console.say)
    if job.run_dir:
        show_result(job.run_dir)
    return job.home


def launch_and_watch(plan: LaunchPlan) -> None:
    """Tokenise the data into the cache, start `plan` in a process of its own, and show the dashboard of the run.

    Raises:
        XTunerError: the data cannot be trained on, the process did not start, or the run failed or was stopped
            meanwhile.
    """
    from xtuner.cli.stop import ask_to_stop
    from xtuner.launch.detach import start_detached
    from xtuner.tui.monitor.watch import watch_launched

    run_dir = start_detached(_prepare(plan))
    wants_stop = watch_launched(run_dir.path)
    if has_ended(run_dir):
        show_end(run_dir, wait_for_end(run_dir))  # soon: its ranks are through
    elif not wants_stop:
        _say_how_to_come_back(run_dir)
    elif ended := ask_to_stop(run_dir):
        show_end(run_dir, ended)


def launch_and_leave(plan: LaunchPlan) -> None:
    """Tokenise the data into the cache, start `plan` in a process of its own, and say how to come back.

    Raises:
        XTunerError: the data cannot be trained on, or the process did not start.
    """
    from xtuner.launch.detach import start_detached

    home = start_detached(_prepare(plan))
    if plan.node_rank == 0:
        _say_how_to_come_back(home)
    console.data(str(home.path))


def _say_how_to_come_back(run_dir: RunDir) -> None:
    path = shlex.quote(str(run_dir.path))
    console.say("it goes on without this terminal; come back with")
    console.say(f"  xtuner monitor {path}\n  xtuner attach {path}\n  xtuner stop {path}")


def _prepare(plan: LaunchPlan) -> "Job":
    from xtuner.launch.prepare import prepare_job

    names = ", ".join(spec.path for spec in plan.config.data_specs + plan.config.eval_specs)
    console.say(f"checking {names} with the tokenizer of {plan.config.tokenizer_dir}")
    with tokenising_bar() as on_progress:
        job = prepare_job(plan, on_progress)
    if plan.node_rank > 0:
        console.say(f"the machine with --node-rank 0 keeps the run; what the ranks here print is in {job.log_dir}")
    return job
