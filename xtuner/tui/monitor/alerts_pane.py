"""The fourth tab: what is wrong, with its evidence and what to do; what was wrong stands below."""

from datetime import datetime

from textual.app import ComposeResult

from xtuner.run.health import Alert
from xtuner.tui.monitor.document import wrap
from xtuner.tui.monitor.page_screen import PageScreen
from xtuner.tui.monitor.session import PastAlert, Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.alert_list import AlertEntry, AlertList, Level
from xtuner.tui.widgets.braille import GlyphSet
from xtuner.tui.widgets.picture import Row, Run


def clock_time(seconds: float) -> str:
    """Seconds since the epoch as `09:17`."""
    return f"{datetime.fromtimestamp(seconds):%H:%M}"


def entry_of(alert: Alert) -> AlertEntry:
    """The alert as the list shows it."""
    level: Level = "error" if alert.is_critical else "warning"
    return AlertEntry(level, alert.text, clock_time(alert.since), alert.evidence, alert.hint)


def _past_entry(past: PastAlert) -> AlertEntry:
    when = f"{clock_time(past.alert.since)} to {clock_time(past.until)}"
    return AlertEntry("info", f"over: {past.alert.text}", when, past.alert.evidence)


class AlertsPane(TabPane):
    """The alerts; `enter` shows all that is known of one."""

    def __init__(self, session: Session, glyphs: GlyphSet) -> None:
        super().__init__(session, glyphs)
        self._list = AlertList()

    def compose(self) -> ComposeResult:
        """The list."""
        yield self._list

    def take_focus(self) -> None:
        """Give the keys to the list."""
        self.screen.set_focus(self._list)

    def repaint(self, now: float) -> None:
        """Show what is wrong now; `now` is not needed."""
        current = [entry_of(alert) for alert in self._session.alerts]
        self._list.set_entries([*current, *map(_past_entry, reversed(self._session.past_alerts))])

    def on_alert_list_chosen(self, message: AlertList.Chosen) -> None:
        """Show all of it."""
        message.stop()
        entry = message.entry
        self.app.push_screen(PageScreen(lambda width: lay_out(entry, width)))


def lay_out(entry: AlertEntry, width: int) -> list[Row]:
    """An alert with all of its evidence."""
    look = {"error": "error", "warning": "warning", "info": "note"}[entry.level]
    rows: list[Row] = [[Run(line, look)] for line in wrap(entry.text, width)]
    rows += [[Run(f"since {entry.when}" if entry.level != "info" else entry.when, "note")], []]
    rows += [[Run(line)] for line in wrap(entry.evidence, width)]
    if entry.advice:
        rows += [[], *([Run(line, "good")] for line in wrap(f"-> {entry.advice}", width))]
    return rows
