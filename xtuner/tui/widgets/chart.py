"""The chart of the dashboard: curves that are followed, zoomed, panned, and read with a cursor shared by all charts."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from xtuner.tui.widgets.axis import format_count, growing_range
from xtuner.tui.widgets.braille import BRAILLE, GlyphSet
from xtuner.tui.widgets.picture import Picture, Row
from xtuner.tui.widgets.plot import NUM_COLOURS, Curve, Marker, Plot
from xtuner.tui.widgets.plot_drawing import draw_plot, gutters
from xtuner.tui.widgets.trace import Sample, find_extreme, is_extreme

View = tuple[float, float]

_ZOOM = 1.5
_PAN_SHARE = 0.2
_SMALLEST_SHARE = 1e-6  # of all of x: how far one can zoom in
_LINE_LOOKS = [f"picture--{kind}-{colour}" for kind in ("line", "raw", "band") for colour in range(NUM_COLOURS)]


class LineChart(Picture, can_focus=True):
    """Curves over x.

    It draws when something says so: `set_curves`, `set_markers`, or `redraw` after series have grown. While no view
    is chosen, all is shown, or the newest `window`, and the end follows the newest sample.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *_LINE_LOOKS,
        *(f"picture--{look}" for look in ("title", "here", "axis", "note", "marker", "bad", "best", "cursor")),
    }
    # Six colours that every terminal has; no red, which says that something is bad. Muted text is dim and not grey:
    # `$text-muted` knows no background here, and would be white on white in a light theme.
    DEFAULT_CSS = """
    LineChart {
        height: 1fr;
        min-height: 1;
        background: $surface;
        & > .picture--title { text-style: bold; }
        & > .picture--here { text-style: bold reverse; }
        & > .picture--axis { text-style: dim; }
        & > .picture--note { text-style: dim; }
        & > .picture--marker { text-style: dim; }
        & > .picture--bad { color: ansi_red; text-style: bold; }
        & > .picture--best { text-style: bold; }
        & > .picture--cursor { text-style: reverse; }
        & > .picture--line-0 { color: ansi_cyan; text-style: bold; }
        & > .picture--line-1 { color: ansi_yellow; text-style: bold; }
        & > .picture--line-2 { color: ansi_magenta; text-style: bold; }
        & > .picture--line-3 { color: ansi_green; text-style: bold; }
        & > .picture--line-4 { color: ansi_blue; text-style: bold; }
        & > .picture--line-5 { text-style: bold; }
        & > .picture--raw-0, & > .picture--band-0 { color: ansi_cyan; text-style: dim; }
        & > .picture--raw-1, & > .picture--band-1 { color: ansi_yellow; text-style: dim; }
        & > .picture--raw-2, & > .picture--band-2 { color: ansi_magenta; text-style: dim; }
        & > .picture--raw-3, & > .picture--band-3 { color: ansi_green; text-style: dim; }
        & > .picture--raw-4, & > .picture--band-4 { color: ansi_blue; text-style: dim; }
        & > .picture--raw-5, & > .picture--band-5 { text-style: dim; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move_cursor(-1)", "Cursor left", show=False, id="chart.cursor-left"),
        Binding("right", "move_cursor(1)", "Cursor right", show=False, id="chart.cursor-right"),
        Binding("escape", "drop_cursor", "No cursor", show=False, id="chart.no-cursor"),
        Binding("plus,equals_sign", "zoom(1)", "Zoom in", show=False, id="chart.zoom-in"),
        Binding("minus", "zoom(-1)", "Zoom out", show=False, id="chart.zoom-out"),
        Binding("shift+left", "pan(-1)", "Earlier", show=False, id="chart.pan-left"),
        Binding("shift+right", "pan(1)", "Later", show=False, id="chart.pan-right"),
        Binding("0", "follow", "Show all", show=False, id="chart.follow"),
        Binding("y", "toggle_log", "Log scale", show=False, id="chart.log"),
    ]

    is_log: reactive[bool] = reactive(False)
    cursor_x: reactive[float | None] = reactive(None)
    window: reactive[float | None] = reactive(None)
    view: reactive[View | None] = reactive(None)

    class CursorMoved(Message):
        """The user moved the cursor; `x` is None when it is gone."""

        def __init__(self, chart: "LineChart", x: float | None) -> None:
            super().__init__()
            self.chart = chart
            self.x = x

        @property
        def control(self) -> "LineChart":
            """The chart."""
            return self.chart

    class ViewChanged(Message):
        """The user zoomed or panned; `view` is None when the chart follows the newest sample again."""

        def __init__(self, chart: "LineChart", view: View | None) -> None:
            super().__init__()
            self.chart = chart
            self.view = view

        @property
        def control(self) -> "LineChart":
            """The chart."""
            return self.chart

    def __init__(
        self,
        title: str,
        curves: Sequence[Curve] = (),
        *,
        unit: str = "",
        best: Literal["low", "high"] | None = None,
        x_name: str = "step",
        format_x: Callable[[float], str] = format_count,
        glyphs: GlyphSet = BRAILLE,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(glyphs=glyphs, id=id, classes=classes)
        self.title, self.unit, self._best, self._x_name, self._format_x = title, unit, best, x_name, format_x
        self._curves: list[Curve] = list(curves)
        self._markers: list[Marker] = []
        self._best_found: Sample | None = None

    def set_curves(self, curves: Sequence[Curve]) -> None:
        """Show these curves."""
        self._curves = list(curves)
        self._best_found = None
        self.redraw()

    def set_x_axis(self, name: str, format_x: Callable[[float], str] = format_count) -> None:
        """Say what x counts; all of it is shown."""
        self._x_name, self._format_x = name, format_x
        self.view = self.window = self.cursor_x = None
        self.redraw()

    def set_markers(self, markers: Sequence[Marker]) -> None:
        """Show these markers."""
        if self._markers != list(markers):
            self._markers = list(markers)
            self.redraw()

    def set_title(self, title: str) -> None:
        """Name it so."""
        if self.title != title:
            self.title = title
            self.redraw()

    def x_bounds(self) -> View | None:
        """First and last x of all curves; None while there is no value."""
        ranges = [bounds for curve in self._curves if (bounds := curve.line.x_range()) is not None]
        return (min(begin for begin, _ in ranges), max(end for _, end in ranges)) if ranges else None

    def shown_view(self) -> View:
        """The part of x that is shown."""
        if self.view is not None:
            return self.view
        bounds = self.x_bounds()
        if bounds is None:
            return (0.0, 1.0)
        begin, end = growing_range(*bounds)
        if self.window is not None and end - begin > self.window > 0:
            begin = end - self.window
        return begin, end

    @property
    def variant(self) -> object:
        """Whether it has the keys."""
        return self.has_focus

    def draw(self, width: int, height: int) -> list[Row]:
        """The chart."""
        plot = Plot(
            title=self.title,
            unit=self.unit,
            curves=self._curves,
            view=self.shown_view(),
            is_log=self.is_log,
            markers=self._markers,
            cursor_x=self.cursor_x,
            best=self._find_best(),
            x_name=self._x_name,
            format_x=self._format_x,
            is_here=self.has_focus,
        )
        return draw_plot(plot, width, height, self.glyphs)

    def _find_best(self) -> Sample | None:
        """The best value of the first curve; the one found last is sought again only if it is no longer the best."""
        bounds = self._curves[0].line.x_range() if self._best is not None and self._curves else None
        if bounds is None:
            return None
        line = self._curves[0].line
        known = self._best_found
        if known is None or not is_extreme(line, known, is_lowest=self._best == "low"):
            self._best_found = find_extreme(line, is_lowest=self._best == "low")
        return self._best_found

    def validate_view(self, view: View | None) -> View | None:
        """A view has an end after its begin; where it has not, the chart follows."""
        return view if view is not None and view[0] < view[1] and view[1] - view[0] < float("inf") else None

    def watch_has_focus(self, has_focus: bool) -> None:
        """The title says who has the keys; no rule of CSS does, and all those for two dozen looks take milliseconds."""
        self.refresh()

    def watch_is_log(self) -> None:
        """Another scale."""
        self.redraw()

    def watch_cursor_x(self) -> None:
        """Other values."""
        self.redraw()

    def watch_window(self) -> None:
        """Another part of x."""
        self.redraw()

    def watch_view(self) -> None:
        """Another part of x."""
        self.redraw()

    def action_toggle_log(self) -> None:
        """Logarithmic, or linear again."""
        self.is_log = not self.is_log

    def action_follow(self) -> None:
        """Show all, and follow the newest sample."""
        self._choose_view(None)

    def action_zoom(self, direction: int) -> None:
        """Show less of x around the cursor, or more."""
        self.zoom(_ZOOM if direction > 0 else 1 / _ZOOM, self.cursor_x)

    def action_pan(self, direction: int) -> None:
        """Show what lies before, or after."""
        begin, end = self.shown_view()
        self._choose_view(self._within_bounds(begin, end, direction * _PAN_SHARE * (end - begin)))

    def action_move_cursor(self, cells: int) -> None:
        """Move the cursor; it begins at the newest sample."""
        begin, end = self.shown_view()
        bounds = self.x_bounds()
        if bounds is None:
            return
        if self.cursor_x is None:
            self._choose_cursor(min(end, max(begin, bounds[1])))
            return
        moved = self.cursor_x + cells * (end - begin) / self._body()[1]
        self._choose_cursor(min(end, max(begin, moved)))

    def action_drop_cursor(self) -> None:
        """Show the last values again."""
        self._choose_cursor(None)

    def zoom(self, factor: float, around: float | None = None) -> None:
        """Show `factor` times less of x; `around` stays where it is, without it the end does."""
        begin, end = self.shown_view()
        bounds = self.x_bounds()
        if bounds is None:
            return
        whole = growing_range(*bounds)
        width = max((end - begin) / factor, (whole[1] - whole[0]) * _SMALLEST_SHARE)
        if width >= (whole[1] - whole[0]) * (1 - 1e-9):  # all of it, but for rounding
            self._choose_view(None)
            return
        fixed = end if around is None or not begin <= around <= end else around
        new_begin = fixed - (fixed - begin) / (end - begin) * width
        self._choose_view(self._within_bounds(new_begin, new_begin + width, 0))

    def _within_bounds(self, begin: float, end: float, offset: float) -> View | None:
        """The view moved by `offset`, no further than there are samples."""
        bounds = self.x_bounds()
        if bounds is None:
            return None
        first, last = growing_range(*bounds)
        offset = max(first - begin, min(last - end, offset))
        return begin + offset, end + offset

    def _choose_view(self, view: View | None) -> None:
        self.view = view
        self.post_message(self.ViewChanged(self, self.view))

    def _choose_cursor(self, x: float | None) -> None:
        self.cursor_x = x
        self.post_message(self.CursorMoved(self, x))

    def _body(self) -> tuple[int, int]:
        """The first cell of the curves, and how many cells wide they are."""
        left, right = gutters(len(self._curves), self.size.width)
        return left, max(1, self.size.width - left - right)

    def _x_at(self, cell: int) -> float:
        begin, end = self.shown_view()
        left, width = self._body()
        return begin + (end - begin) * min(1.0, max(0.0, (cell - left + 0.5) / width))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor there."""
        if self.x_bounds() is not None:
            self._choose_cursor(self._x_at(event.x))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in, around the pointer."""
        event.stop()
        self.zoom(_ZOOM, self._x_at(event.x))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out, around the pointer."""
        event.stop()
        self.zoom(1 / _ZOOM, self._x_at(event.x))
