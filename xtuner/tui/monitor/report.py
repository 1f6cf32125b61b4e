"""A run on one page: Markdown with the pictures of its charts, and all values as CSV."""

import csv
import io
import shlex
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.run.atomic import read_object
from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.run.figures import duration
from xtuner.run.store import RunStore
from xtuner.run.text import visible
from xtuner.tui.monitor.cards import CARDS
from xtuner.tui.monitor.plots import CHARTS, PlotChoice, PlotMaker, markers, other_charts
from xtuner.tui.monitor.run_sections import Sections, sections_of
from xtuner.tui.monitor.runs import newest_run
from xtuner.tui.monitor.session import Session, start_session
from xtuner.tui.widgets.card import Reading
from xtuner.tui.widgets.plot import Plot
from xtuner.tui.widgets.png_plot import draw_png, why_no_png
from xtuner.tui.widgets.svg_plot import draw_svg, shared_view
from xtuner.tui.widgets.trace import find_extreme

REPORT_NAME, VALUES_NAME = "report.md", "values.csv"
_POLL_S = 0.005
_SECTIONS = ("run", "checkpoints and exports", "events")

# rank -> key -> steps and values
_Table = Mapping[int, Mapping[str, "tuple[array[float], array[float]]"]]


@dataclass(frozen=True)
class Report:
    """A moment of a run, taken out of its store: writing it may take a while, in another thread.

    Attributes:
        title: the run's name.
        page: the Markdown.
        pictures: SVGs by file name.
        table: all values.
    """

    title: str
    page: str
    pictures: Mapping[str, str]
    table: _Table

    def write(self, directory: Path) -> None:
        """Write the page, its pictures and the table into `directory`, which is made if need be.

        The pictures are there as PNG too, unless `why_no_png` says why not.

        Raises:
            EnvironmentFault: it cannot be written.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, picture in self.pictures.items():
                (directory / name).write_text(picture, encoding="utf-8")
                if why_no_png() is None:
                    (directory / name).with_suffix(".png").write_bytes(draw_png(picture))
            with (directory / VALUES_NAME).open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(_table_rows(self.table))
            (directory / REPORT_NAME).write_text(self.page, encoding="utf-8")
        except OSError as error:
            raise EnvironmentFault(
                f"the report cannot be written to {directory}: {error.strerror}",
                hint="choose a directory that you may write to, with --report DIR",
            ) from None


def report_newest(path: Path, directory: Path) -> Path:
    """Read the newest run behind `path` to its end and write its report; returns the page.

    Raises:
        UsageError: `path` leads to no run, or `directory` lies in the run.
        EnvironmentFault: the run cannot be read, or the report not written.
    """
    newest = newest_run(path)
    check_place(directory, newest.path)
    session = start_session(newest)
    try:
        while not session.has_past:
            session.tick(time.time())
            time.sleep(_POLL_S)
        session.look(time.time())
        make_report(session, PlotChoice(), time.time()).write(directory)
    finally:
        session.stop()
    return directory / REPORT_NAME


def check_place(directory: Path, run: Path) -> None:
    """The monitor never writes into what it watches.

    Raises:
        UsageError: `directory` is the run's, or lies in it.
    """
    if directory.absolute().resolve().is_relative_to(run.absolute().resolve()):
        raise UsageError(
            f"{directory} lies in the run, which is only read",
            hint=f"choose another directory: xtuner monitor {shlex.quote(str(run))} --report report",
        )


def place_for(run: Path) -> Path:
    """Where the report of a run is written by the dashboard.

    Raises:
        UsageError: as of `check_place`.
    """
    directory = Path.cwd() / f"xtuner-report-{run.name}"
    check_place(directory, run)
    return directory


def write_and_say(report: Report, directory: Path, say: Callable[[str], object]) -> None:
    """Write it, and say what came of that."""
    try:
        report.write(directory)
    except EnvironmentFault as error:
        say(error.message)
        return
    fault = why_no_png()
    say(f"written: {directory}{f' ({fault.message}: {fault.hint})' if fault else ''}")


def make_report(session: Session, choice: PlotChoice, now: float) -> Report:
    """What is known of the run at `now`, in seconds since the epoch, with the curves that `choice` asks for."""
    plots = PlotMaker(session, waits=True)
    pictures = dict(_draw_charts(session, plots, choice))
    run_dir = session.files.run_dir
    found = list_checkpoints(run_dir) if run_dir else []
    faults = {checkpoint.step: fault_of(checkpoint, reads_files=False) for checkpoint in found}
    config = read_object(run_dir.config_json) if run_dir else {}
    sections = sections_of(session, config, faults, now)
    title = session.files.path.name
    return Report(title, _page(session, plots, sections, list(pictures), now), pictures, _table_of(session.store))


def _draw_charts(session: Session, plots: PlotMaker, choice: PlotChoice) -> Iterator[tuple[str, str]]:
    marks = markers(session)
    for spec in (*CHARTS, *other_charts(session.store)):
        curves = plots.curves(spec, choice)
        view = shared_view([curve.line for curve in curves])
        if view is not None:
            best = find_extreme(curves[0].line, is_lowest=spec.best == "low") if spec.best else None
            yield f"{spec.id}.svg", draw_svg(Plot(spec.title, curves, view, spec.unit, markers=marks, best=best))


# --- The page ---


def _page(session: Session, plots: PlotMaker, sections: Sections, pictures: Sequence[str], now: float) -> str:
    store = session.store
    total = f" of {store.total_steps:,}" if store.total_steps else ""
    out = io.StringIO()
    out.write(f"# {_text(session.files.path.name)}\n\n")
    out.write(f"{session.state}, step {store.step:,}{total}, {duration(session.elapsed_s(now))} so far\n\n")
    out.write(_rows((card.title, _said(card.read(session, plots))) for card in CARDS))
    out.write("\n## Alerts\n\n")
    for alert in session.alerts:
        out.write(f"- **{_text(alert.level)}**: {_text(alert.text)}\n  - {_text(alert.evidence)}\n")
        out.write(f"  - {_text(alert.hint)}\n" if alert.hint else "")
    out.write("" if session.alerts else "none\n")
    out.write("\n## Charts\n\n")
    out.write("".join(f"![{name.removesuffix('.svg')}]({name})\n\n" for name in pictures) or "no values yet\n\n")
    out.write(f"All values of all ranks are in [{VALUES_NAME}]({VALUES_NAME}).\n")
    for title in (*_SECTIONS, "options"):
        out.write(f"\n## {title.capitalize()}\n\n")
        out.write(_rows(sections[title]) if sections[title] else "none\n")
    return out.getvalue()


def _said(reading: Reading) -> str:
    return "  ".join(part for part in (reading.value, reading.change, reading.detail) if part)


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    lines = ["| | |", "| --- | --- |", *(f"| {_text(name)} | {_text(value)} |" for name, value in rows)]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Any text in a line of Markdown: nothing in it is markup, a picture, a link or HTML."""
    line = visible(text).replace("\n", " ").replace("\t", " ")
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~$" else {"<": "&lt;", "&": "&amp;"}.get(c, c) for c in line)


# --- The table ---


def _table_of(store: RunStore) -> _Table:
    return {
        number: {key: series.samples() for key, series in rank.series.items()}
        for number, rank in sorted(store.ranks.items())
    }


def _table_rows(table: _Table) -> Iterator[list[object]]:
    """A head, then a row for each rank and step; what was not said is empty."""
    keys = list(dict.fromkeys(key for columns in table.values() for key in columns))
    yield ["rank", "step", *(visible(key) for key in keys)]
    for number, columns in table.items():
        said = {key: dict(zip(*columns[key], strict=True)) for key in columns}
        steps = sorted({step for values in said.values() for step in values})
        for step in steps:
            yield [number, f"{step:g}", *(said.get(key, {}).get(step, "") for key in keys)]
