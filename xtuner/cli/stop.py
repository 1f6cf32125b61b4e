"""`xtuner stop`: let a run finish its step, save, and leave."""

import shlex
import signal
import time
from pathlib import Path

import typer

from xtuner.cli import console
from xtuner.cli.run_choice import require_live_runs
from xtuner.errors import EnvironmentFault, StoppedAndSaved, TrainingFailed, UsageError, error_for_exit_code
from xtuner.run.layout import RunDir
from xtuner.run.supervision import Supervision, read_supervision

_POLL_S = 0.1


def command(
    work_dir: Path = typer.Argument(..., metavar="WORK_DIR", help="A work dir, or one run directory in it."),
    now: bool = typer.Option(False, "--now", help="Do not wait for the step, and do not save."),
) -> None:
    """Ask the run of a work dir that goes on to finish its step, save and leave, and wait until it has.

    Exit codes: 0 it has ended, and lost nothing; 8 it has ended without saving; 6 it failed on its way.

    \b
    Example:
      xtuner stop work_dirs
    """
    stop_run(_require_one(work_dir), now=now)


def stop_run(run_dir: RunDir, *, now: bool = False) -> None:
    """Ask a run that goes on to save and leave, wait for it, and say how it ended; Ctrl-C leaves it to that.

    Raises:
        XTunerError: it is on another host, belongs to another user, failed, or was not saved.
    """
    ended = ask_to_stop(run_dir, now=now)
    if ended is None:
        return
    if ended.exit_code == 0:
        console.say(f"{run_dir.path} had just finished")
    elif ended.exit_code == StoppedAndSaved.exit_code:
        console.say(f"{ended.message}\n{ended.hint}")
    else:
        raise error_for_exit_code(ended.exit_code or TrainingFailed.exit_code, ended.message, hint=ended.hint)


def ask_to_stop(run_dir: RunDir, *, now: bool = False) -> Supervision | None:
    """Ask a run that goes on to save and leave, and wait until it has; None where Ctrl-C left it to that.

    Raises:
        EnvironmentFault: it is on another host, or belongs to another user.
        TrainingFailed: the supervising process is gone without a word.
    """
    supervision = _require_here(run_dir)
    try:
        _ask(run_dir, supervision, now=now)
        if not now:
            console.say(f"{run_dir.path} finishes its step and saves (Ctrl-C leaves, it stops all the same)")
        return _wait(run_dir)
    except KeyboardInterrupt:
        console.say(f"left; {run_dir.path} stops by itself")
        return None


def _require_one(work_dir: Path) -> RunDir:
    runs = require_live_runs(work_dir)
    if len(runs) > 1:
        raise UsageError(
            f"{len(runs)} runs go on in {work_dir}: {', '.join(run.name for run in runs)}",
            hint=f"name the one that is meant: xtuner stop {shlex.quote(str(runs[-1].path))}",
        )
    return runs[0]


def _require_here(run_dir: RunDir) -> Supervision:
    supervision = read_supervision(run_dir)
    assert supervision is not None, "a run is chosen by this file"
    if not supervision.process.is_here:
        raise EnvironmentFault(
            f"the run {run_dir.path} runs on the host {supervision.host}, and signals do not reach there",
            hint=f"on {supervision.host}: xtuner stop {shlex.quote(str(run_dir.path))}",
        )
    return supervision


def _ask(run_dir: RunDir, supervision: Supervision, *, now: bool) -> None:
    """Send one signal, unless one was sent before; two where the run shall not wait, each when the last has come."""
    known = supervision
    while known.num_stop_signals < (2 if now else 1) and not known.has_ended:
        try:
            known.process.send(signal.SIGTERM)
        except PermissionError:
            raise EnvironmentFault(
                f"the run {run_dir.path} belongs to another user", hint="ask them, or stop it as root"
            ) from None
        known = _wait(run_dir, num_signals=known.num_stop_signals + 1)


def _wait(run_dir: RunDir, *, num_signals: int | None = None) -> Supervision:
    """What is known of the run when it has noted so many signals, or when it has ended.

    Raises:
        TrainingFailed: the supervising process is gone without a word.
    """
    while True:
        known = read_supervision(run_dir)
        if known is None or known.is_lost:
            raise TrainingFailed(
                f"the process that supervised {run_dir.path} is gone, and its ranks with it",
                hint="go on from the last checkpoint with --resume auto",
            )
        if known.has_ended or (num_signals is not None and known.num_stop_signals >= num_signals):
            return known
        time.sleep(_POLL_S)
