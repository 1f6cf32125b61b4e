"""`xtuner export`: a Hugging Face directory from a checkpoint."""

from pathlib import Path

import typer

from xtuner.cli import console


def command(
    checkpoint: Path = typer.Argument(
        ..., metavar="CHECKPOINT", help="A directory like RUN/checkpoints/step-00000100."
    ),
    to: Path = typer.Option(..., "--to", metavar="DIR", help="The directory to make."),
    adapter: bool = typer.Option(False, "--adapter", help="The LoRA adapter alone, instead of the merged model."),
) -> None:
    """Make a Hugging Face model directory from a checkpoint, on a CPU.

    \b
    Example:
      xtuner export work_dirs/20251129-143012-3f9a/checkpoints/step-00000100 --to my-model
    """
    console.say(f"exporting {checkpoint}")
    from xtuner.v1.convert.export_checkpoint import export_checkpoint  # torch takes seconds

    export_checkpoint(checkpoint, to, adapter_only=adapter)
    console.data(str(to))
