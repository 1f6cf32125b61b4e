"""`xtuner runs`: the runs of a work dir."""

from pathlib import Path
from typing import Any

import typer

from xtuner.cli import console
from xtuner.errors import UsageError
from xtuner.run.index import scan


def command(
    work_dir: Path = typer.Argument(..., help="The work dir."),
    json: bool = typer.Option(False, "--json", help="Print the runs as JSON."),
) -> None:
    """List the runs of a work dir, oldest first.

    \b
    Example:
      xtuner runs work_dirs
    """
    if not work_dir.is_dir():
        raise UsageError(f"there is no work dir {work_dir}", hint="pass the --work-dir of a run")
    index = scan(work_dir)
    if json:
        console.data_json(index)
    elif not index["runs"]:
        console.say(f"{work_dir} holds no runs")
    else:
        console.data("\n".join(_render(index["runs"])))


def _render(runs: list[dict[str, Any]]) -> list[str]:
    rows = [("run", "state", "step", "export", "model"), *map(_row, runs)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    export = run["exports"][-1] if run["exports"] else "-"
    return run["name"], run["state"], f"{run['step']}/{run['total_steps']}", export, str(run["model"] or "-")
