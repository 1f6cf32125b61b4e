"""The row under the cursor, in lines that were laid out elsewhere."""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xtuner.tui.preview.layout import GUTTER, LOOKS, Layout, is_trained
from xtuner.tui.preview.wrap import Line


class RowPane(ScrollView, can_focus=True):
    """Draws a `Layout`; the gutter says which lines hold trained text, so that no colour is needed for it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"row--gutter", *(f"row--{look}" for look in LOOKS)}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab,shift+tab", "app.switch", show=False),  # here, as the screen has other plans for it
        Binding("up", "scroll_up", show=False),
        Binding("down", "scroll_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("home", "scroll_home", show=False),
        Binding("end,G", "scroll_end", show=False),
    ]

    class Resized(Message):
        """Lines of another width are needed."""

    def __init__(self) -> None:
        super().__init__()
        self._layout = Layout([])

    @property
    def lines(self) -> list[Line]:
        """What is shown."""
        return self._layout.lines

    @property
    def width(self) -> int:
        """Cells that a line has, gutter included."""
        return self.scrollable_content_region.width

    def show(self, layout: Layout, *, finds: bool, keeps_place: bool) -> None:
        """Show these lines; from their top, from the first match, or from where the last ones stood."""
        self._layout = layout
        self.virtual_size = Size(0, len(layout.lines))
        if finds and layout.first_match is not None:
            self.scroll_to(y=max(0, layout.first_match - self.size.height // 3), animate=False)
        elif not keeps_place:
            self.scroll_to(y=0, animate=False)
        self.refresh()

    def on_resize(self) -> None:
        """Ask for lines of this width."""
        self.post_message(self.Resized())

    def page(self, direction: int) -> None:
        """Scroll by all but one of the visible lines."""
        self.scroll_relative(y=direction * max(1, self.size.height - 1), animate=False)

    def action_page_up(self) -> None:
        """Scroll up by a page."""
        self.page(-1)

    def action_page_down(self) -> None:
        """Scroll down by a page."""
        self.page(1)

    def render_line(self, y: int) -> Strip:
        """One line of the row."""
        place = self.scroll_offset.y + y
        base = self.rich_style
        if place >= len(self._layout.lines):
            return Strip.blank(self.width, base)
        line = self._layout.lines[place]
        gutter = GUTTER if is_trained(line) else " " * len(GUTTER)
        segments = [Segment(gutter, base + self._look("gutter"))]
        segments += [Segment(run.text, sum(map(self._look, run.kinds), base)) for run in line]
        return Strip(segments).adjust_cell_length(self.width, base)

    def _look(self, name: str) -> Style:
        return self.get_component_rich_style(f"row--{name}", partial=True)
