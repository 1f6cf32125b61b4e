"""Alerts, each with its evidence and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xtuner.tui.widgets.picture import Row, Run, fit_row, to_strip

Level = Literal["error", "warning", "info"]

_MARKS: dict[Level, str] = {"error": "✗ ERROR", "warning": "! WARN ", "info": "i INFO "}
_INDENT = " " * 4


@dataclass(frozen=True)
class AlertEntry:
    """One alert.

    Attributes:
        when: as the owner writes times: `09:17`.
        evidence: the line, or the figures, that it rests on.
        advice: what to do.
    """

    level: Level
    text: str
    when: str = ""
    evidence: str = ""
    advice: str = ""


def lay_out_alert(entry: AlertEntry, width: int, *, is_here: bool = False) -> list[Row]:
    """The rows of one alert: what, then why, then what to do."""
    when = f" {entry.when}" if entry.when else ""
    head = [Run(f"{'>' if is_here else ' '}{_MARKS[entry.level]}{when} ", entry.level), Run(entry.text, "text")]
    rows = [fit_row(head, width, "cursor" if is_here else "")]
    if entry.evidence:
        rows.append(fit_row([Run(f"{_INDENT}{entry.evidence}", "evidence")], width))
    if entry.advice:
        rows.append(fit_row([Run(f"{_INDENT}-> {entry.advice}", "advice")], width))
    return rows


class AlertList(ScrollView, can_focus=True):
    """Alerts in the order given; the one under the cursor can be chosen."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"alert--{look}" for look in ("error", "warning", "info", "text", "evidence", "advice", "cursor", "empty")
    }
    DEFAULT_CSS = """
    AlertList {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-size-vertical: 1;
        background: $surface;
        & > .alert--error { color: ansi_red; text-style: bold; }
        & > .alert--warning { color: ansi_yellow; text-style: bold; }
        & > .alert--info { color: ansi_cyan; }
        & > .alert--text { text-style: bold; }
        & > .alert--evidence { text-style: dim; }
        & > .alert--advice { text-style: italic; }
        & > .alert--empty { text-style: dim; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Previous alert", show=False, id="alerts.up"),
        Binding("down", "move(1)", "Next alert", show=False, id="alerts.down"),
        Binding("enter", "choose", "Show", show=False, id="alerts.choose"),
    ]

    class Chosen(Message):
        """The user wants to see what this alert is about."""

        def __init__(self, place: int, entry: AlertEntry) -> None:
            super().__init__()
            self.place = place
            self.entry = entry

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._entries: list[AlertEntry] = []
        self.cursor = 0
        self._rows: list[Row] = []
        self._entry_of_row: list[int] = []
        self._laid_out_for = -1

    @property
    def entries(self) -> Sequence[AlertEntry]:
        """What is shown."""
        return self._entries

    def set_entries(self, entries: Sequence[AlertEntry]) -> None:
        """Show these alerts; the cursor stays on its alert if that is still there."""
        if list(entries) == self._entries:
            return
        under = self._entries[self.cursor] if self._entries else None
        self._entries = list(entries)
        is_there = under is not None and under in self._entries
        self.cursor = self._entries.index(under) if is_there and under is not None else 0
        self._lay_out()

    def on_resize(self) -> None:
        """Another width."""
        self._lay_out()

    def _lay_out(self) -> None:
        width = self._laid_out_for = self.scrollable_content_region.width
        self._rows, self._entry_of_row = [], []
        for place, entry in enumerate(self._entries):
            rows = lay_out_alert(entry, width, is_here=place == self.cursor)
            self._rows += rows
            self._entry_of_row += [place] * len(rows)
        if not self._entries:
            self._rows = [fit_row([Run("no alerts", "empty")], width)]
        self.virtual_size = Size(0, len(self._rows))
        self.refresh()

    def action_move(self, entries: int) -> None:
        """Move the cursor by alerts."""
        if not self._entries:
            return
        self.cursor = max(0, min(self.cursor + entries, len(self._entries) - 1))
        self._lay_out()
        first = self._entry_of_row.index(self.cursor)
        last = first + self._entry_of_row.count(self.cursor)
        top, height = self.scroll_offset.y, max(1, self.size.height)
        if first < top or last > top + height:
            self.scroll_to(y=first if first < top or last - first > height else last - height, animate=False)

    def action_choose(self) -> None:
        """Show what the alert under the cursor is about."""
        if self._entries:
            self.post_message(self.Chosen(self.cursor, self._entries[self.cursor]))

    def on_click(self, event: events.Click) -> None:
        """A click chooses an alert."""
        row = event.y + self.scroll_offset.y
        if row < len(self._entry_of_row):
            self.cursor = self._entry_of_row[row]
            self._lay_out()
            self.action_choose()

    def render_line(self, y: int) -> Strip:
        """One row."""
        width, base = self.scrollable_content_region.width, self.rich_style
        if width != self._laid_out_for:  # a scroll bar came or went
            self._lay_out()
        place = self.scroll_offset.y + y
        if place >= len(self._rows):
            return Strip.blank(width, base)
        return to_strip(self, "alert", self._rows[place], width, base)
