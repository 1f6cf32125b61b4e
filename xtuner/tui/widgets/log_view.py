"""Lines of a log, of which only those on the screen are read: followed, filtered, searched, jumped to."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from xtuner.tui.widgets.cells import crop, num_cells, one_line
from xtuner.tui.widgets.line_source import LineSource
from xtuner.tui.widgets.picture import Run, fit_row, to_strip

_LEVELS = (("[ERROR]", "error"), ("[CRITICAL]", "error"), ("[WARNING]", "warning"), ("[DEBUG]", "debug"))
_TRACEBACK = "Traceback (most recent call last)"
_GUTTER = 1
_STRIPS_KEPT = 2_000
_CHARS_PER_CELL = 8
_LEVEL_WITHIN = 120  # characters: the head of a line names its level


def level_of(text: str) -> str:
    """The look of a line by the level it names; the word stands in the line, so that no colour is needed for it."""
    head = text[:_LEVEL_WITHIN]
    return next((look for word, look in _LEVELS if word in head), "error" if _TRACEBACK in head else "")


class LogView(ScrollView, can_focus=True):
    """The lines of a `LineSource`, or those of them that a filter names.

    The owner lets the source grow and then calls `grow`; searching and filtering are the owner's, as they read all.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"log--{look}" for look in ("error", "warning", "debug", "match", "target", "pill", "note")
    }
    DEFAULT_CSS = """
    LogView {
        height: 1fr;
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        background: $surface;
        & > .log--error { color: ansi_red; text-style: bold; }
        & > .log--warning { color: ansi_yellow; }
        & > .log--debug { text-style: dim; }
        & > .log--match { text-style: reverse bold; }
        & > .log--target { text-style: bold underline; }
        & > .log--pill { text-style: reverse bold; }
        & > .log--note { text-style: dim; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "Up", show=False, id="log.up"),
        Binding("down", "move(1)", "Down", show=False, id="log.down"),
        Binding("pageup", "move_page(-1)", "Page up", show=False, id="log.page-up"),
        Binding("pagedown", "move_page(1)", "Page down", show=False, id="log.page-down"),
        Binding("home", "first", "Oldest known line", show=False, id="log.first"),
        Binding("end,f", "follow", "Follow", show=False, id="log.follow"),
    ]

    is_following: reactive[bool] = reactive(True)

    class FollowChanged(Message):
        """The view follows the newest line from now on, or no longer."""

        def __init__(self, is_following: bool) -> None:
            super().__init__()
            self.is_following = is_following

    def __init__(
        self,
        source: LineSource | None = None,
        *,
        look_of: Callable[[str], str] = level_of,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._source = source
        self._look_of = look_of
        self._filter: Sequence[int] | None = None
        self._pattern: re.Pattern[str] | None = None
        self._target: int | None = None
        self._first, self._stop = source.bounds() if source is not None else (0, 0)
        self._num_unseen = 0
        self._strips: dict[tuple[int, int, Style], Strip] = {}

    def set_source(self, source: LineSource | None) -> None:
        """Show the lines of another source, from its end."""
        self._source = source
        self._filter = self._target = None
        self._first, self._stop = source.bounds() if source is not None else (0, 0)
        self._num_unseen = 0
        self.is_following = True
        self._show_anew()

    def set_filter(self, numbers: Sequence[int] | None) -> None:
        """Show only these lines, in increasing order; None shows all. What is at the top stays there if it can."""
        top = self.top_line
        grew = len(numbers) - len(self._filter) if numbers is not None and self._filter is not None else 0
        self._filter = numbers
        if not self.is_following:
            self._num_unseen += max(0, grew)
        self.virtual_size = Size(0, self.num_lines)
        if self.is_following or top is None:
            self._to_end()
        else:
            self._to(self._place_of(top))
        self.refresh()

    def set_pattern(self, pattern: re.Pattern[str] | None) -> None:
        """Mark what matches."""
        self._pattern = pattern
        self._show_anew()

    def grow(self) -> None:
        """Take in lines that the source has found since; what is on the screen stays, unless the end is followed."""
        if self._source is None:
            return
        first, stop = self._source.bounds()
        num_before, num_after = max(0, self._first - first), max(0, stop - self._stop)
        self._first, self._stop = first, stop
        if self._filter is not None:  # the owner knows which of them it shows
            return
        self.virtual_size = Size(0, self.num_lines)
        if self.is_following:
            self._to_end()
        elif num_before:
            self._to(self.scroll_offset.y + num_before)
        if not self.is_following:
            self._num_unseen += num_after
        self.refresh()

    def jump_to(self, number: int) -> None:
        """Show this line, or the next one that is shown at all, and mark it."""
        self._target = number
        self._set_following(False)
        self._to(self._place_of(number) - self.size.height // 3)
        self._show_anew()

    @property
    def num_lines(self) -> int:
        """Lines that can be scrolled to."""
        return self._stop - self._first if self._filter is None else len(self._filter)

    @property
    def num_unseen(self) -> int:
        """Lines that came since the end was left."""
        return self._num_unseen

    @property
    def top_line(self) -> int | None:
        """The number of the line at the top; None where there is none."""
        return self._number_at(self.scroll_offset.y)

    @property
    def target(self) -> int | None:
        """The line that was jumped to."""
        return self._target

    def _number_at(self, place: int) -> int | None:
        if not 0 <= place < self.num_lines:
            return None
        return self._first + place if self._filter is None else self._filter[place]

    def _place_of(self, number: int) -> int:
        if self._filter is None:
            return number - self._first
        return bisect_left(self._filter, number)

    def _show_anew(self) -> None:
        self._strips.clear()
        self.virtual_size = Size(0, self.num_lines)
        if self.is_following:
            self._to_end()
        self.refresh()

    def _to(self, place: int) -> None:
        self.scroll_to(y=max(0, min(place, self.max_scroll_y)), animate=False, immediate=True)

    def _to_end(self) -> None:
        self._to(self.num_lines)

    def _set_following(self, is_following: bool) -> None:
        if is_following:
            self._num_unseen = 0
        if is_following != self.is_following:
            self.is_following = is_following
            self.post_message(self.FollowChanged(is_following))
        self.refresh()

    def on_mount(self) -> None:
        """Show the end."""
        self._show_anew()

    def on_resize(self) -> None:
        """Another height."""
        if self.is_following:
            self._to_end()

    def action_move(self, lines: int) -> None:
        """Scroll by lines; at the end, follow."""
        self._scroll_by(lines)

    def action_move_page(self, pages: int) -> None:
        """Scroll by all but one of the visible lines."""
        self._scroll_by(pages * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Go to the first line that is known."""
        self._scroll_by(-self.num_lines)

    def action_follow(self) -> None:
        """Go to the end, and stay there."""
        self._set_following(True)
        self._to_end()

    def _scroll_by(self, lines: int) -> None:
        place = self.scroll_offset.y + lines
        self._set_following(lines > 0 and place >= self.max_scroll_y)
        self._to(place)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Three lines up."""
        event.stop()
        self._scroll_by(-3)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Three lines down."""
        event.stop()
        self._scroll_by(3)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Dragging the bar leaves the end, and comes back to it."""
        super().watch_scroll_y(old_value, new_value)
        if self.is_following and new_value < min(old_value, self.max_scroll_y):
            self._set_following(False)

    def on_click(self, event: events.Click) -> None:
        """A click on the pill follows."""
        if self._pill() and event.y == self.size.height - 1:
            self.action_follow()

    def render_line(self, y: int) -> Strip:
        """One line; the pill lies over the end of the last one."""
        width, base = self.scrollable_content_region.width, self.rich_style
        strip = self._line_strip(self.scroll_offset.y + y, width, base)
        pill = self._pill() if y == self.size.height - 1 else ""
        if not pill or width < 1:
            return strip
        pill = crop(pill, width)
        style = base + self.get_component_rich_style("log--pill", partial=True)
        kept = strip.crop(0, width - num_cells(pill)).adjust_cell_length(width - num_cells(pill), base)
        return Strip([*kept, Segment(pill, style)], width)

    def _pill(self) -> str:
        return "" if self.is_following or not self._num_unseen else f" +{self._num_unseen:,} lines "

    def _line_strip(self, place: int, width: int, base: Style) -> Strip:
        number = self._number_at(place)
        if number is None:
            nothing = "no lines" if place == 0 and not self.num_lines else ""
            return to_strip(self, "log", [Run(nothing, "note")], width, base)
        key = (number, width, base)
        if key not in self._strips:
            if len(self._strips) > _STRIPS_KEPT:
                self._strips.clear()
            self._strips[key] = self._draw_line(number, width, base)
        return self._strips[key]

    def _draw_line(self, number: int, width: int, base: Style) -> Strip:
        assert self._source is not None
        try:
            text, is_read = self._source.read(number), True
        except (OSError, IndexError) as error:
            text, is_read = f"this line cannot be read: {error}", False
        look = self._look_of(text) if is_read else "note"
        is_target = number == self._target
        room = max(0, width - _GUTTER)
        shown = crop(one_line(text[: room * _CHARS_PER_CELL + 64]), room)
        row = [Run(">" if is_target else " ", "target" if is_target else "")]
        return to_strip(self, "log", fit_row([*row, *self._marked(shown, look)], width), width, base)

    def _marked(self, shown: str, look: str) -> list[Run]:
        """The text with what matches the pattern in a look of its own."""
        if self._pattern is None:
            return [Run(shown, look)]
        runs, done = [], 0
        for match in self._pattern.finditer(shown):
            begin, end = match.span()
            if end > begin:
                runs += [Run(shown[done:begin], look), Run(shown[begin:end], "match")]
                done = end
        return [*runs, Run(shown[done:], look)]
