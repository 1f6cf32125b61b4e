"""What the tabs hold, each loaded when it is first shown."""

from collections.abc import Sequence

from xtuner.tui.monitor.overview import Overview
from xtuner.tui.monitor.plots import PlotMaker
from xtuner.tui.monitor.session import Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.braille import GlyphSet


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
