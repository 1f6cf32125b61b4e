"""The line above the keys: the worst that is wrong, or what was just done."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual import events
from textual.message import Message
from textual.reactive import reactive

from xtuner.tui.widgets.picture import Picture, Row, Run

if TYPE_CHECKING:
    from xtuner.tui.monitor.session import Session


class Notice(NamedTuple):
    """One line, in the look `error`, `warning` or `note`."""

    text: str = ""
    look: str = "note"


class NoticeLine(Picture):
    """What was just said comes before the alert for a while; a click leads to the alerts."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"picture--{look}" for look in ("error", "warning", "note", "said")}

    notice: reactive[Notice] = reactive(Notice())
    said: reactive[str] = reactive("")

    class Clicked(Message):
        """The user wants to know more."""

    def watch_notice(self) -> None:
        """Another alert."""
        self.redraw()

    def watch_said(self) -> None:
        """Something else was done."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The line."""
        return [[Run(self.said, "said")] if self.said else [Run(*self.notice)]]

    def on_click(self, event: events.Click) -> None:
        """Lead to the alerts."""
        event.stop()
        self.post_message(self.Clicked())


def _before_steps(session: "Session") -> str:
    """What a run does that has no step to show: its last words, where it has said any."""
    if session.state != "starting":
        return "no step yet"
    recent = session.store.recent
    return f"no step yet: {recent[-1].text if recent else 'the ranks load their libraries'}"


def notice_of(session: "Session", key: str) -> Notice:
    """The worst of what is wrong with a run; `key` shows the rest."""
    if session.is_gone:
        return Notice(f"the run is gone, what was read last is shown: {session.files.path}", "error")
    if not session.alerts:
        return Notice("no alerts" if session.store.ranks else _before_steps(session))
    worst, more = session.alerts[0], len(session.alerts) - 1
    look = "error" if worst.is_critical else "warning"
    mark = "✗" if look == "error" else "!"
    return Notice(f"{mark} {worst.text}{f'  ({more} more: {key})' if more else f'  ({key} says more)'}", look)
