"""The training entry:

torchrun --nproc-per-node 2 xtuner/v1/train/cli/sft.py --load-from MODEL --dataset CHATS.jsonl --work-dir RUNS
"""

from xtuner.run.orphan import end_with_agent

if __name__ == "__main__":
    end_with_agent()  # before the imports below take their time

import typer

from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.flags import with_flags


@with_flags
def main(config: TrainerConfig) -> None:
    """Fine-tune a Hugging Face model on chats; launch me with torchrun, or through `xtuner sft`."""
    from xtuner.v1.train.entry import train_and_exit

    train_and_exit(config)


if __name__ == "__main__":
    from xtuner.v1.train.entry import run_as_rank

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run_as_rank(app)
