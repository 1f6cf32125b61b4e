"""`xtuner sft`: check everything here, then launch torchrun and follow it."""

import os
import shlex
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

import typer

from xtuner.cli import console
from xtuner.cli.progress import tokenising_bar
from xtuner.cli.ranks import parse_ranks
from xtuner.language import language_of
from xtuner.launch.devices import count_accelerators
from xtuner.launch.plan import LaunchPlan, torchrun_command
from xtuner.launch.ports import check_endpoint
from xtuner.run.layout import RunDir
from xtuner.run.resume import find_resume_point
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import with_flags


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
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Check, print the torchrun command and the resolved options, and stop."
    ),
    wizard: bool = typer.Option(False, "--wizard", help="Ask for the options on the screen, those given filled in."),
    plain: bool = typer.Option(False, "--plain", help="Ask in numbered lines of text, as screen readers need it."),
    goes_on: bool = typer.Option(False, "--continue", help="Ask with the answers of the last time filled in."),
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
    )
    asking = Asking(wizard, plain, goes_on, never=yes or dry_run, language=lang or language_of())
    if wants_questions(config, asking):
        chosen = ask(plan, asking, ctx.params)
        if chosen is None:
            return
        plan, config = chosen, chosen.config
    plan.check()
    plan = replace(plan, config=check_or_choose(config, plan.world_size, asks=not yes))
    if plan.node_rank == 0:
        point = find_resume_point(config.resume, config.work_dir)
        if point:
            console.say(f"resuming {point.run_dir.path} after step {point.checkpoint.step}")
    if plan.rdzv_endpoint is not None:
        check_endpoint(plan.rdzv_endpoint, is_host_here=plan.node_rank == 0)
    if dry_run:
        console.data(shlex.join(torchrun_command(plan)))
        console.data_json(plan.config.model_dump(mode="json"))
        return
    launch(plan)


def launch(plan: LaunchPlan) -> RunDir:
    """Tokenise the data into the cache, then run `plan` to its end; returns the run directory.

    On a machine without rank 0 the run directory is that machine's own, and holds its ranks' output alone.

    Raises:
        XTunerError: the data or the run failed.
    """
    from xtuner.launch.supervise import run_to_end
    from xtuner.preflight import (
        EVAL_FINGERPRINT_VARIABLE,
        FINGERPRINT_VARIABLE,
        prepare_evaluation_data,
        prepare_training_data,
    )

    names = ", ".join(spec.path for spec in plan.config.data_specs + plan.config.eval_specs)
    console.say(f"checking {names} with the tokenizer of {plan.config.tokenizer_dir}")
    with tokenising_bar() as on_progress:
        data = prepare_training_data(plan.config, on_progress)
        eval_data = prepare_evaluation_data(plan.config, on_progress)
    os.environ[FINGERPRINT_VARIABLE] = data.fingerprint()
    if eval_data:
        os.environ[EVAL_FINGERPRINT_VARIABLE] = eval_data.fingerprint()
    if plan.node_rank > 0:
        log_dir = plan.config.work_dir / "nodes" / f"node{plan.node_rank}-{os.getpid()}"
        console.say(f"training with --node-rank 0; output of the ranks here: {log_dir}")
        run_to_end(replace(plan, log_dir=log_dir), None, console.say)
        return RunDir(log_dir)
    point = find_resume_point(plan.config.resume, plan.config.work_dir)  # again: tokenising may take a while
    run_dir = point.run_dir if point else RunDir.create(plan.config.work_dir)
    run_to_end(replace(plan, log_dir=_free_log_dir(run_dir)), run_dir, console.say)
    exports_model = plan.config.lora.exports_model
    console.say("fine-tuned model:" if exports_model else "LoRA adapter:")
    console.data(str(run_dir.latest_export if exports_model else run_dir.latest_adapter))
    return run_dir


def _free_log_dir(run_dir: RunDir) -> Path:
    """Where torchrun keeps what the ranks print in this launch: a resumed run has that of the ones before too."""
    directories = (run_dir.logs / ("torchrun" if number == 1 else f"torchrun-{number}") for number in count(1))
    return next(directory for directory in directories if not directory.exists())
