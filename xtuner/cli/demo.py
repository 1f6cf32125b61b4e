"""`xtuner demo`: the whole path on a tiny model, on a CPU."""

import math
import shlex
from pathlib import Path

import typer

from xtuner.cli import console
from xtuner.cli.sft import launch
from xtuner.launch.plan import LaunchPlan
from xtuner.v1.config import TrainerConfig

_STEPS = 60
_RANKS = 2


def command(
    keep: Path = typer.Option(None, metavar="DIR", help="Put model, data and the run there, to play on with."),
    steps: int = typer.Option(_STEPS, min=1, help="Optimizer steps to train."),
) -> None:
    """Fine-tune a tiny model on this machine, start to finish, in a minute or two.

    The model, its tokenizer and the chats are made on the spot; nothing is downloaded. It is too small to be of
    use: the point is to see every part work.

    \b
    Example:
      xtuner demo --keep playground
    """
    from xtuner.demo.build import build_demo, demo_cache_dir
    from xtuner.demo.tokenizer import VOCAB_SIZE
    from xtuner.run.metrics import read_metrics

    directory = keep or demo_cache_dir()
    files = build_demo(directory)
    console.say(f"model: {files.model_dir}\ndata:  {files.dataset}")
    config = TrainerConfig(
        load_from=files.model_dir,
        dataset=files.dataset,
        total_step=steps,
        pack_max_length=1024,
        lr=2e-3,
        lr_min=1e-4,
        work_dir=directory / "work_dirs",
    )
    run_dir = launch(LaunchPlan(config=config, nproc_per_node=_RANKS))
    losses = [record["reduced_llm_loss"] for record in read_metrics(run_dir.rank_metrics(0))]
    console.say(
        f"\nThe loss fell from {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps "
        f"(a model that knows nothing starts at ln({VOCAB_SIZE}) = {math.log(VOCAB_SIZE):.2f})."
    )
    console.say("The same for a model and chats of your own:\n")
    console.say("  xtuner sft --load-from MODEL_DIR --dataset CHATS.jsonl --total-step 100")
    console.say(f"\nLook at this run again: xtuner monitor {shlex.quote(str(config.work_dir))} --once")
