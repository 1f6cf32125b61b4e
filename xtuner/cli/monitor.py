"""`xtuner monitor`: how a run goes, from its files alone."""

from pathlib import Path

import typer

from xtuner.cli import console
from xtuner.cli.terminal import has_screen
from xtuner.errors import EnvironmentFault, UsageError

_MAX_PORT = 65535


def command(
    work_dir: str = typer.Argument(
        ...,
        metavar="WORK_DIR",
        help="A work dir or one run directory in it; but for --plain also rank logs or a console log.",
    ),
    once: bool = typer.Option(False, "--once", help="Say where the newest run stands, and leave."),
    json: bool = typer.Option(False, "--json", help="The same as one JSON object; implies --once."),
    plain: bool = typer.Option(False, "--plain", help="Print the lines of the first rank, as without a terminal."),
    compare: list[str] = typer.Option(
        None, metavar="PATH", help="Draw the newest run of PATH beside it in the dashboard; may be given again."
    ),
    report: str = typer.Option(
        None, metavar="DIR", help="Write a Markdown page with charts (SVG, PNG) and all values (CSV) to DIR, and leave."
    ),
    serve: bool = typer.Option(False, "--serve", help="Show the dashboard in a browser of this machine, read-only."),
    serve_port: str = typer.Option("0", metavar="PORT", help="Of --serve; 0 is a free one."),
) -> None:
    """Watch the newest run of a work dir: on a terminal a dashboard, else the log of its first rank until it ends.

    Reads its files only: leaving with q or Ctrl-C never touches the run. In the dashboard, ? shows the keys.

    Exit codes: 0 the run is healthy, finished or was stopped, or the dashboard was left; 6 it failed or is lost;
    with --once or --json also 1 there are alerts.

    \b
    Example:
      xtuner monitor work_dirs
      xtuner monitor work_dirs --once
      xtuner monitor work_dirs --report report
      xtuner monitor work_dirs --serve
    """
    path = Path(work_dir)
    if once or json:
        from xtuner.cli.monitor_text import show_once

        raise typer.Exit(show_once(path, as_json=json))
    if report:
        _write_report(path, Path(report))
        return
    compared = [Path(other) for other in compare or []]
    if serve:
        _serve(path, compared, _parse_port(serve_port))
        return
    if not plain and has_screen():
        from xtuner.tui.monitor.watch import watch

        watch(path, compared)
        return
    from xtuner.cli.monitor_text import follow_newest  # what judges a run is not what the first frame waits for

    raise typer.Exit(follow_newest(path))


def _write_report(path: Path, directory: Path) -> None:
    from xtuner.tui.monitor.report import report_newest
    from xtuner.tui.widgets.png_plot import why_no_png

    page = report_newest(path, directory)
    fault = why_no_png()
    if fault is not None:
        console.say(f"charts are there as SVG alone: {fault.message}; {fault.hint}")
    console.data(str(page))


def _parse_port(text: str) -> int:
    """A text in the options, as typer would import pydantic to look at a number."""
    if not text.isdecimal() or len(text) > len(str(_MAX_PORT)) or int(text) > _MAX_PORT:
        raise UsageError(f"--serve-port {text} is no port", hint=f"give one from 1 to {_MAX_PORT}, or 0 for a free one")
    return int(text)


def _serve(path: Path, compared: list[Path], port: int) -> None:
    try:
        from xtuner.tui.web.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual_serve", "aiohttp"):
            raise
        raise EnvironmentFault("--serve needs the package textual-serve", hint='pip install "xtuner[web]"') from None

    def say_where(address: str) -> None:
        console.say("open this address in a browser here; who knows it sees the run (Ctrl-C ends it, the run goes on)")
        console.data(address)

    serve(path, compared, port, say_where)
