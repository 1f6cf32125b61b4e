"""`xtuner attach`: come back to a run that goes on, as if it had been launched here."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import typer

from xtuner.cli import console
from xtuner.cli.run_choice import require_live_runs
from xtuner.errors import TrainingFailed, error_for_exit_code
from xtuner.run.layout import RunDir
from xtuner.run.status import END_STATES
from xtuner.run.supervision import Supervision, read_supervision, state_of
from xtuner.run.tail import FileTail

_POLL_S = 0.2
_LAST_BYTES = 4096  # about 15 step lines: where the run stands


def command(
    work_dir: Path = typer.Argument(..., metavar="WORK_DIR", help="A work dir, or one run directory in it."),
) -> None:
    """Follow the newest run of a work dir that goes on, to its end: the log of its first rank.

    Ctrl-C leaves, and the run goes on. Exit codes: that of the run.

    \b
    Example:
      xtuner attach work_dirs
    """
    run_dir = require_live_runs(work_dir)[-1]
    console.say(f"following {run_dir.path} (Ctrl-C leaves, the run goes on)")
    try:
        supervision = _follow(run_dir)
    except KeyboardInterrupt:
        path = shlex.quote(str(run_dir.path))
        console.say(f"left {run_dir.path}, which goes on\n  xtuner attach {path}\n  xtuner stop {path}")
        return
    show_end(run_dir, supervision)


def has_ended(run_dir: RunDir) -> bool:
    """Whether the ranks are through for good, or the process that supervises them is: the last of them to go."""
    supervision = read_supervision(run_dir)
    return supervision is None or supervision.is_over or state_of(run_dir, time.time()) in END_STATES


def wait_for_end(run_dir: RunDir, look: Callable[[], None] = lambda: None) -> Supervision | None:
    """What is known of a launch once its supervising process is through; meanwhile `look` is called now and then."""
    while True:
        supervision = read_supervision(run_dir)  # before the look, so that it misses nothing
        look()
        if supervision is None or supervision.is_over:
            return supervision
        time.sleep(_POLL_S)


def show_end(run_dir: RunDir, supervision: Supervision | None) -> None:
    """Say how a launch ended.

    Raises:
        XTunerError: it failed or was stopped, or the process that supervised it is gone without a word.
    """
    if supervision is None or supervision.exit_code is None:
        raise TrainingFailed(
            f"the process that supervised {run_dir.path} is gone, and its ranks with it",
            hint="somebody killed it, or the machine was started anew; go on with --resume auto",
        )
    if supervision.exit_code != 0:
        raise error_for_exit_code(supervision.exit_code, supervision.message, hint=supervision.hint)
    show_result(run_dir)


def show_result(run_dir: RunDir) -> None:
    """Say what a finished run has made, and what it is good for; the path goes to stdout."""
    has_model = run_dir.latest_export.exists()
    made = str(run_dir.latest_export if has_model else run_dir.latest_adapter)
    console.say("fine-tuned model:" if has_model else "LoRA adapter:")
    console.data(made)
    console.say(f"talk with it: xtuner chat {shlex.quote(made)}")


def _follow(run_dir: RunDir) -> Supervision | None:
    """Show the lines of the first rank until the launch ends; what is known of its end."""
    log = FileTail(run_dir.rank_log(0), last_bytes=_LAST_BYTES)

    def show_lines() -> None:
        while lines := log.read_lines():
            for line in lines:
                console.say(line)

    return wait_for_end(run_dir, show_lines)
