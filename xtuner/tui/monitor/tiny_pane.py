"""What is shown where nothing else has room: a few lines of text."""

from typing import TYPE_CHECKING, ClassVar

from textual.reactive import reactive

from xtuner.tui.monitor.header import Headline
from xtuner.tui.widgets.axis import format_count
from xtuner.tui.widgets.picture import Picture, Row, Run

if TYPE_CHECKING:
    from xtuner.tui.monitor.plots import PlotMaker
    from xtuner.tui.monitor.session import Session

_CARDS_SHOWN = ("loss", "lr", "tokens", "step", "data", "memory", "grad")


def tiny_lines(session: "Session", headline: Headline, plots: "PlotMaker") -> list[Row]:
    """The most important first: what has no room is cut."""
    from xtuner.tui.monitor.cards import CARDS  # the first frame does without

    progress = headline.progress
    of = f"/{format_count(progress.total)}" if progress.total else ""
    paused = " PAUSED" if headline.is_paused else ""
    rows: list[Row] = [[Run(f"{headline.state.upper()}{paused} step {format_count(progress.done)}{of}", "title")]]
    rows += [[Run(alert.text, "error" if alert.is_critical else "warning")] for alert in session.alerts[:1]]
    if progress.note:
        rows.append([Run(progress.note)])
    for spec in CARDS:
        if spec.title in _CARDS_SHOWN:
            reading = spec.read(session, plots)
            rows.append([Run(f"{spec.title:<7}", "note"), Run(f"{reading.value or '-'} {reading.change}")])
    rows.append([Run("q quits; a larger terminal shows more", "note")])
    return rows


class TinyPane(Picture):
    """The lines."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"picture--{look}" for look in ("title", "note", "error", "warning")}

    rows: reactive[list[Row]] = reactive(list)

    def watch_rows(self) -> None:
        """Another moment."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """As many as have room."""
        return self.rows[:height]
