"""`xtuner runs`: the runs of a work dir."""

import shlex
from pathlib import Path
from typing import Any

import typer

from xtuner.cli import console
from xtuner.errors import UsageError
from xtuner.run.index import scan
from xtuner.run.layout import is_run_dir, require_work_dir
from xtuner.run.text import visible

_HEADER = ("run", "state", "step", "export", "checkpoint", "model")


def command(
    work_dir: Path = typer.Argument(..., metavar="WORK_DIR", help="The work dir."),
    json: bool = typer.Option(False, "--json", help="Print the runs as JSON."),
) -> None:
    """List the runs of a work dir, oldest first, with their state of now, newest export and newest checkpoint.

    \b
    Example:
      xtuner runs work_dirs
    """
    require_work_dir(work_dir)
    index = scan(work_dir)
    if not index["runs"] and is_run_dir(work_dir):
        raise UsageError(
            f"{work_dir} is one run, not a work dir",
            hint=f"list it and its neighbours: xtuner runs {shlex.quote(str(work_dir.absolute().parent))}",
        )
    if json:
        console.data_json(index)
    elif not index["runs"]:
        console.say(f"{work_dir} holds no runs")
    else:
        console.data("\n".join(_render(index["runs"])))


def _render(runs: list[dict[str, Any]]) -> list[str]:
    rows = [_HEADER, *map(_row, runs)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    # The model comes last: it may be of any length and in any script, which would break columns after it.
    step = f"{run['step']}/{run['total_steps']}"
    return run["name"], run["state"], step, _export(run), _checkpoint(run["checkpoints"]), _cell(run["model"])


def _export(run: dict[str, Any]) -> str:
    """The newest export, and whether it is not known to be what was written."""
    if not run["exports"]:
        return "-"
    newest = str(run["exports"][-1])
    return newest if newest in run["verified_exports"] else f"{newest} (not verified)"


def _checkpoint(checkpoints: list[dict[str, Any]]) -> str:
    """The newest whole checkpoint, and how many are broken; `--json` says why."""
    whole = [checkpoint["name"] for checkpoint in checkpoints if checkpoint["fault"] is None]
    num_broken = len(checkpoints) - len(whole)
    return (whole[-1] if whole else "-") + (f" ({num_broken} broken)" if num_broken else "")


def _cell(value: object) -> str:
    text = "-" if value is None else str(value)
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")
