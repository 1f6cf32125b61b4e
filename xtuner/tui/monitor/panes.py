"""What the tabs hold, each loaded when it is first shown, or before, when there is time."""

from collections.abc import Callable, Sequence
from importlib import import_module

from xtuner.tui.monitor.overview import Overview
from xtuner.tui.monitor.plots import PlotMaker
from xtuner.tui.monitor.session import Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.braille import GlyphSet

_LATER = ("ranks_pane", "logs_pane", "alerts_pane", "run_pane", "help_page")
_FIRST_AFTER_S, _NEXT_AFTER_S = 1.0, 0.2


def load_ahead(after: Callable[[float, Callable[[], None]], object]) -> None:
    """Import what is not shown yet, a module at a time: each takes as long as a picture, which a first key waits for.

    Args:
        after: calls back after so many seconds.
    """
    modules = iter(_LATER)

    def load_next() -> None:
        for module in modules:
            import_module(f"xtuner.tui.monitor.{module}")
            after(_NEXT_AFTER_S, load_next)
            return

    after(_FIRST_AFTER_S, load_next)


def make_pane(tab: str, session: Session, plots: PlotMaker, others: Sequence[Session], glyphs: GlyphSet) -> TabPane:
    """What `tab` holds; `plots` are those of the run, `others` the runs that are drawn beside."""
    if tab == "overview":
        return Overview(session, plots, glyphs, others)
    if tab == "ranks":
        from xtuner.tui.monitor.ranks_pane import RanksPane

        return RanksPane(session, glyphs)
    if tab == "logs":
        from xtuner.tui.monitor.logs_pane import LogsPane

        return LogsPane(session, glyphs)
    if tab == "alerts":
        from xtuner.tui.monitor.alerts_pane import AlertsPane

        return AlertsPane(session, glyphs)
    from xtuner.tui.monitor.run_pane import RunPane

    return RunPane(session, glyphs)
