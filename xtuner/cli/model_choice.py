"""The model directory that was meant, taken with one key: at a terminal, where somebody can be asked."""

import os
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from xtuner.cli import console
from xtuner.hub.model_dir import ModelRefused, ModelReport

if TYPE_CHECKING:
    from xtuner.v1.config import TrainerConfig

_MAX_KEYS = 9


def check_or_choose(config: "TrainerConfig", world_size: int, *, asks: bool = True) -> "TrainerConfig":
    """`config` once `check_inputs` accepts it, with another `load_from` if that is what the person at the keys chose.

    Args:
        config: the options.
        world_size: ranks on all machines.
        asks: whether keys may be waited for, at a terminal. Otherwise the one directory that can be meant is taken,
            and of several none.

    Raises:
        XTunerError: as `check_inputs`, if nobody can be asked or there is nothing to choose.
        typer.Exit: they did not want it; the error has been shown, and its exit code is kept.
    """
    from xtuner.preflight import check_inputs

    try:
        check_inputs(config, world_size)
        return config
    except ModelRefused as refused:
        choices = _choices(refused.report)
        can_ask = asks and sys.stdin.isatty() and sys.stderr.isatty()
        if not choices or not (can_ask or (not asks and len(choices) == 1)):
            raise
        if can_ask:
            console.show_error(refused)
        chosen = _ask(choices, refused.report) if can_ask else choices[0]
        if chosen is None:
            raise typer.Exit(refused.exit_code) from None
    console.say(f"using --load-from {chosen}")
    config = config.model_copy(update={"load_from": chosen})
    check_inputs(config, world_size)
    return config


def _choices(report: ModelReport) -> list[Path]:
    """The one that must be meant, else those that may be; as many as there are keys."""
    return [report.suggestion] if report.suggestion else list(report.candidates[:_MAX_KEYS])


def _ask(choices: list[Path], report: ModelReport) -> Path | None:
    console.say()
    if len(choices) == 1:
        console.say(f"use {choices[0]}? [Y/n]")
        return choices[0] if read_key() in ("y", "Y", "\r", "\n") else None
    descriptions = {snapshot.path: snapshot.describe() for snapshot in report.snapshots}
    for number, path in enumerate(choices, 1):
        console.say(f"{number}  {descriptions.get(path, path)}")
    console.say(f"use which? [1-{len(choices)}, any other key leaves]")
    key = read_key()
    return choices[int(key) - 1] if key in {str(number) for number in range(1, len(choices) + 1)} else None


def read_key() -> str:
    """The next key, without Enter; empty at the end of the input. What else was typed by then is dropped."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        return os.read(terminal, 1).decode("ascii", "replace")
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
