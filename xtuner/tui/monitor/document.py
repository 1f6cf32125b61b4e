"""Pages of text: rows in looks, wrapped to the width, scrolled."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xtuner.tui.widgets.cells import crop, num_cells, one_line
from xtuner.tui.widgets.picture import Row, Run, fit_row, to_strip

_MAX_CHARS = 20_000


def wrap(text: str, width: int) -> list[str]:
    """Any text as lines of at most `width` cells, made safe; its own line ends are kept."""
    lines = []
    for part in text[:_MAX_CHARS].split("\n"):
        rest = one_line(part)
        while num_cells(rest) > width > 0:
            head = crop(rest, width + 1)[:-1] or rest[:1]
            at = head.rfind(" ") if rest[len(head) :][:1] != " " else len(head)
            head = head[:at] if at > width // 2 else head
            lines.append(head)
            rest = rest[len(head) :].lstrip(" ")
        lines.append(rest)
    return lines


def pairs(named: Iterable[tuple[str, str]], width: int) -> list[Row]:
    """Names and what they stand for, in two columns; what is long goes on below."""
    named = list(named)
    names = min(max((num_cells(one_line(name)) for name, _ in named), default=0), max(8, width // 3))
    rows: list[Row] = []
    for name, value in named:
        for place, line in enumerate(wrap(value, max(1, width - names - 2))):
            left = fit_row([Run(one_line(name) if place == 0 else "", "name")], names, "name")
            rows.append([*left, Run("  "), Run(line)])
    return rows


class Document(ScrollView, can_focus=True):
    """Rows that `lay_out` makes for a width, and again when that changes."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"page--{look}" for look in ("title", "name", "note", "key", "error", "warning", "good")
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False, id="page.up"),
        Binding("down", "move(1)", "Down", show=False, id="page.down"),
        Binding("pageup", "move_page(-1)", "Page up", show=False, id="page.page-up"),
        Binding("pagedown", "move_page(1)", "Page down", show=False, id="page.page-down"),
        Binding("home", "move(-1000000)", "First row", show=False, id="page.first"),
        Binding("end", "move(1000000)", "Last row", show=False, id="page.last"),
    ]

    def __init__(self, lay_out: Callable[[int], Sequence[Row]] = lambda width: (), *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lay_out = lay_out
        self._rows: Sequence[Row] = ()
        self._laid_out_for = -1

    def show(self, lay_out: Callable[[int], Sequence[Row]]) -> None:
        """Show another page; the place stays."""
        self._lay_out = lay_out
        self._lay_out_anew()

    def on_resize(self) -> None:
        """Another width."""
        self._lay_out_anew()

    def _lay_out_anew(self) -> None:
        self._laid_out_for = self.scrollable_content_region.width
        self._rows = self._lay_out(self._laid_out_for) if self._laid_out_for > 0 else ()
        self.virtual_size = Size(0, len(self._rows))
        self.refresh()

    def action_move(self, rows: int) -> None:
        """Scroll by rows."""
        self.scroll_to(y=max(0, min(self.scroll_offset.y + rows, self.max_scroll_y)), animate=False)

    def action_move_page(self, pages: int) -> None:
        """Scroll by all but one of the visible rows."""
        self.action_move(pages * max(1, self.size.height - 1))

    def render_line(self, y: int) -> Strip:
        """One row."""
        width, base = self.scrollable_content_region.width, self.rich_style
        if width != self._laid_out_for:  # a scroll bar came or went
            self._lay_out_anew()
        place = self.scroll_offset.y + y
        if place >= len(self._rows):
            return Strip.blank(width, base)
        return to_strip(self, "page", self._rows[place], width, base)
