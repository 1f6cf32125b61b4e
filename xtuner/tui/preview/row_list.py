"""The list of rows: only what is visible is ever drawn, so a million rows are as fast as ten."""

from collections import OrderedDict
from typing import ClassVar, NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xtuner.tui.preview.index import RowIndex
from xtuner.tui.preview.scan import Matches
from xtuner.tui.preview.summary import Summary
from xtuner.tui.preview.wrap import crop

_SUMMARIES_KEPT = 2_000
_TURNS_WIDTH = 5
_MIN_NUMBER_WIDTH = 4


class _Columns(NamedTuple):
    """Cells of each column; the mark and the spaces between take the rest."""

    number: int
    text: int
    turns: int


class RowList(ScrollView, can_focus=True):
    """Rows by number, with first words and turns; the row under the cursor is the one that is shown."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "list--title",
        "list--cursor",
        "list--number",
        "list--turns",
        "list--error",
        "list--match",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab,shift+tab", "app.switch", show=False),  # here, as the screen has other plans for it
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move_page(-1)", show=False),
        Binding("pagedown", "move_page(1)", show=False),
        Binding("home", "first", show=False),
        Binding("end,G", "last", show=False),
    ]

    cursor: reactive[int] = reactive(0)

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    class WindowChanged(Message):
        """Summaries of these rows are missing: those visible, and a page on either side."""

        def __init__(self, rows: list[int]) -> None:
            super().__init__()
            self.rows = rows

    def __init__(self, index: RowIndex) -> None:
        super().__init__()
        self._index = index
        self._summaries: OrderedDict[int, Summary] = OrderedDict()
        self.errors: set[int] = set()
        self.matches: Matches | None = None

    def grow(self) -> None:
        """Take in rows that were found since."""
        self.virtual_size = Size(0, len(self._index) + 1)
        self.ask_summaries()
        self.refresh()

    def add_summaries(self, summaries: dict[int, Summary]) -> None:
        """Show these from now on; the oldest are forgotten when there are many."""
        for row, summary in summaries.items():
            self._summaries[row] = summary
            if summary.error:
                self.errors.add(row)
        while len(self._summaries) > _SUMMARIES_KEPT:
            self._summaries.popitem(last=False)
        self.refresh()

    def mark_error(self, row: int) -> None:
        """This row cannot be trained."""
        self.errors.add(row)
        self.refresh()

    def ask_summaries(self) -> None:
        """Say which summaries are missing around what is visible."""
        height = max(1, self.size.height)
        top = self.scroll_offset.y
        near = range(max(0, top - height), min(len(self._index), top + 2 * height))
        visible_first = sorted(near, key=lambda row: not top <= row < top + height)
        if missing := [row for row in visible_first if row not in self._summaries]:
            self.post_message(self.WindowChanged(missing))

    def validate_cursor(self, row: int) -> int:
        """Only rows that are known can be stood on."""
        return max(0, min(row, len(self._index) - 1))

    def watch_cursor(self, row: int) -> None:
        """Keep the cursor visible, and tell others."""
        self._scroll_to_cursor()
        self.refresh()
        self.post_message(self.Moved(row))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Other rows are visible now."""
        super().watch_scroll_y(old_value, new_value)
        self.ask_summaries()

    def on_resize(self) -> None:
        """Another height shows other rows."""
        self._scroll_to_cursor()
        self.ask_summaries()

    def on_click(self, event: events.Click) -> None:
        """A click chooses a row."""
        row = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and row < len(self._index):
            self.cursor = row

    def action_move(self, rows: int) -> None:
        """Move the cursor by rows."""
        self.cursor += rows

    def action_move_page(self, pages: int) -> None:
        """Move the cursor by pages."""
        self.cursor += pages * max(1, self._page_rows)

    def action_first(self) -> None:
        """Go to the first row."""
        self.cursor = 0

    def action_last(self) -> None:
        """Go to the last row that is known."""
        self.cursor = len(self._index) - 1

    @property
    def _page_rows(self) -> int:
        return self.size.height - 1  # the title takes one

    def _scroll_to_cursor(self) -> None:
        if self._page_rows <= 0:
            return
        page, top = self._page_rows, self.scroll_offset.y
        if top <= self.cursor < top + page:
            return
        if not top - page < self.cursor < top + 2 * page:  # from far away: with rows on both sides
            top = self.cursor - page // 2
        else:
            top = self.cursor if self.cursor < top else self.cursor - page + 1
        self.scroll_to(y=max(0, top), animate=False)

    def render_line(self, y: int) -> Strip:
        """The title, or a row."""
        columns = self._columns()
        if y == 0:
            return self._title(columns)
        row = self.scroll_offset.y + y - 1
        if row >= len(self._index):
            return Strip.blank(self.scrollable_content_region.width, self.rich_style)
        return self._row(row, columns)

    def _columns(self) -> _Columns:
        count = len(self._index)
        number = max(_MIN_NUMBER_WIDTH, len(str(self._index.number_of(count - 1)))) if count else _MIN_NUMBER_WIDTH
        turns = _TURNS_WIDTH if self.scrollable_content_region.width >= number + 20 else 0
        return _Columns(number, max(0, self.scrollable_content_region.width - number - turns - 4), turns)

    def _title(self, columns: _Columns) -> Strip:
        style = self.rich_style + self._look("title")
        what = "line" if self._index.counts_lines else "row"
        turns = "turn".rjust(columns.turns) if columns.turns else ""
        text = f" {what:>{columns.number}}  {crop('last user message', columns.text):<{columns.text}}{turns} "
        return Strip([Segment(text, style)]).adjust_cell_length(self.scrollable_content_region.width, style)

    def _row(self, row: int, columns: _Columns) -> Strip:
        is_here = row == self.cursor
        style, over = self.rich_style, self._look("cursor") if is_here else Style()
        summary = self._summaries.get(row)
        text, mark, mark_look, text_look = "…", " ", "", ""
        turns = ""
        if summary is not None:
            text = crop(summary.text, columns.text)
            turns = "" if summary.turns is None else f"{summary.turns:,}"
        if self.matches is not None and row in self.matches:
            mark, mark_look = "/", "match"
        if row in self.errors:
            mark = mark_look = text_look = "error"
            mark = "✗"
        padded = text + " " * (columns.text - cell_len(text))
        number = self._index.number_of(row)
        parts = [
            (">" if is_here else " ", ""),
            (f"{number:>{columns.number}}", "number"),
            (mark, mark_look),
            (f" {padded}", text_look if summary is not None and summary.error else ""),
            (f"{turns:>{columns.turns}} " if columns.turns else " ", "turns"),
        ]
        segments = [Segment(part, style + (self._look(look) if look else Style()) + over) for part, look in parts]
        return Strip(segments).adjust_cell_length(self.scrollable_content_region.width, style + over)

    def _look(self, name: str) -> Style:
        return self.get_component_rich_style(f"list--{name}", partial=True)
