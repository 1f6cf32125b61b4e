"""The tabs, in one row."""

from typing import ClassVar, NamedTuple

from textual import events
from textual.message import Message
from textual.reactive import reactive

from xtuner.tui.widgets.cells import num_cells
from xtuner.tui.widgets.picture import Picture, Row, Run, fit_row


class Tab(NamedTuple):
    """A tab: its name in the program, and the one that is shown."""

    id: str
    title: str


TABS = (
    Tab("overview", "Overview"),
    Tab("ranks", "Ranks"),
    Tab("logs", "Logs"),
    Tab("alerts", "Alerts"),
    Tab("run", "Run"),
)


class TabLine(Picture):
    """`1 Overview  2 Ranks ...`; a click chooses one."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"picture--tab", "picture--here", "picture--alarm"}

    here: reactive[str] = reactive(TABS[0].id)
    num_alerts: reactive[int] = reactive(0)

    class Chosen(Message):
        """The user clicked on a tab."""

        def __init__(self, tab: str) -> None:
            super().__init__()
            self.tab = tab

    def watch_here(self) -> None:
        """Another tab."""
        self.redraw()

    def watch_num_alerts(self) -> None:
        """More alerts, or fewer."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The tabs."""
        return [fit_row(self._parts(), width)]

    def _parts(self) -> Row:
        row: Row = []
        for number, tab in enumerate(TABS, start=1):
            alarm = f" ({self.num_alerts})" if tab.id == "alerts" and self.num_alerts else ""
            # The one that is shown stands in brackets too, for those who see no colours.
            left, right = ("[", "]") if tab.id == self.here else (" ", " ")
            look = "here" if tab.id == self.here else "alarm" if alarm else "tab"
            row.append(Run(f"{left}{number} {tab.title}{alarm}{right}", look))
        return row

    def on_click(self, event: events.Click) -> None:
        """Choose the tab under the pointer."""
        end = 0
        for tab, part in zip(TABS, self._parts(), strict=True):
            end += num_cells(part.text)
            if event.x < end:
                self.post_message(self.Chosen(tab.id))
                return
