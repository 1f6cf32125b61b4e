"""The first tab: cards, and charts that share cursor and view."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.message import Message

from xtuner.tui.monitor.cards import CARDS
from xtuner.tui.monitor.compare import AXES, AXIS_LABELS, Axis, Compared, curves_of
from xtuner.tui.monitor.key_hint import key_of
from xtuner.tui.monitor.plots import CHARTS, SMOOTHING_WEIGHTS, ChartSpec, PlotChoice, PlotMaker, markers, other_charts
from xtuner.tui.monitor.session import Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.braille import GlyphSet
from xtuner.tui.widgets.card import Card
from xtuner.tui.widgets.chart import LineChart
from xtuner.tui.widgets.plot import Curve, Marker

_CARD_CELLS = 15
_CHART_CELLS = 60
_CHART_ROWS = 9
_WINDOWS = (None, 1000.0, 200.0)


class OverviewLayout(NamedTuple):
    """How many cards are in a row and how high, and how many charts there are side by side and below each other."""

    card_columns: int
    card_height: int
    chart_columns: int
    chart_rows: int

    @property
    def num_charts(self) -> int:
        """Charts that are seen at once."""
        return self.chart_columns * self.chart_rows


def layout_for(width: int, height: int, num_charts: int) -> OverviewLayout:
    """One chart in 80 x 24, all of the first six from 120 x 36 on."""
    card_rows = -(-len(CARDS) // max(1, width // _CARD_CELLS))
    card_height = 3 if height >= 28 else 1
    room = height - card_rows * card_height
    columns = max(1, min(3, width // _CHART_CELLS, num_charts))
    rows = max(1, min(room // _CHART_ROWS, -(-num_charts // columns)))
    if rows == 1 and columns > 1 and room < _CHART_ROWS:
        columns = 1
    return OverviewLayout(-(-len(CARDS) // card_rows), card_height, columns, rows)


class Overview(TabPane):
    """What one wants to see all day."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "next_chart(-1)", "Previous chart", show=False, id="overview.previous-chart"),
        Binding("down", "next_chart(1)", "Next chart", show=False, id="overview.next-chart"),
        Binding("enter", "toggle_single", "Enlarge", show=False, id="overview.enlarge"),
        Binding("s", "smooth(1)", "Smooth", id="overview.smoother"),
        Binding("S", "smooth(-1)", "Less smooth", show=False, id="overview.rougher"),
        Binding("Y", "log_all", "Log scale everywhere", show=False, id="overview.log-all"),
        Binding("w", "next_window", "Window", id="overview.window"),
        Binding("x", "next_axis", "Over tokens, hours", show=False, id="overview.x-axis"),
        Binding("b", "band", "All ranks", show=False, id="overview.band"),
        Binding("left_square_bracket", "next_rank(-1)", "Previous rank", show=False, id="overview.previous-rank"),
        Binding("right_square_bracket", "next_rank(1)", "Next rank", show=False, id="overview.next-rank"),
    ]

    class Said(Message):
        """Something was changed; how, in words."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, session: Session, plots: PlotMaker, glyphs: GlyphSet, others: Sequence[Session] = ()) -> None:
        super().__init__(session, glyphs)
        self.choice = PlotChoice()
        runs = (session, *others)
        self._compared = [Compared(run, colour) for colour, run in enumerate(runs)] if others else []
        self._axis: Axis = AXES[0]
        self._plots = plots
        self._specs: list[ChartSpec] = list(CHARTS)
        self._cards = [Card(spec.title, glyphs=glyphs) for spec in CARDS]
        self._charts = [self._make_chart(spec) for spec in CHARTS]
        self._card_grid = Grid(*self._cards, id="cards")
        self._chart_grid = Grid(*self._charts, id="charts")
        self._drawn: dict[str, tuple[object, ...]] = {}
        self._layout: OverviewLayout | None = None
        self._current = self._next_part = 0
        self._is_single = False

    def _make_chart(self, spec: ChartSpec) -> LineChart:
        return LineChart(spec.title, unit=spec.unit, best=spec.best, glyphs=self._glyphs, id=spec.id)

    def compose(self) -> ComposeResult:
        """Cards above charts."""
        yield self._card_grid
        yield self._chart_grid

    def take_focus(self) -> None:
        """Give the keys to the chart that had them last."""
        self.screen.set_focus(self._charts[self._current])

    def repaint(self, now: float) -> None:
        """Show what is new; `now` is seconds since the epoch."""
        self._add_charts()
        for part in range(1 + len(self._shown)):
            self._paint(part)

    def repaint_part(self, now: float) -> None:
        """The cards, then chart after chart."""
        self._add_charts()
        self._next_part = (self._next_part + 1) % (1 + len(self._shown))
        self._paint(self._next_part)

    @property
    def _shown(self) -> list[tuple[ChartSpec, LineChart]]:
        return [both for both in zip(self._specs, self._charts, strict=True) if both[1].display]

    def _paint(self, part: int) -> None:
        if part:
            spec, chart = self._shown[part - 1]
            self._draw_chart(spec, chart)
            chart.set_markers(self._markers())
            return
        for card_spec, card in zip(CARDS, self._cards, strict=True):
            card.series = card_spec.view(self._session, self._plots)
            card.reading = card_spec.read(self._session, self._plots)
            card.redraw()

    def _draw_chart(self, spec: ChartSpec, chart: LineChart) -> None:
        curves = (
            curves_of(self._compared, spec, self.choice, self._axis)
            if self._compared
            else self._plots.curves(spec, self.choice)
        )
        drawn = _identity(curves)
        if self._drawn.get(spec.id) != drawn:
            self._drawn[spec.id] = drawn
            chart.set_curves(curves)
        else:
            chart.redraw()

    def _markers(self) -> list[Marker]:
        """Of this run, by its steps: over anything else, or among other runs, they would say something wrong."""
        return [] if self._compared else markers(self._session)

    def _add_charts(self) -> None:
        """A chart for each key that was said for the first time."""
        known = {spec.title for spec in self._specs}
        for spec in other_charts(self._session.store):
            if spec.title not in known:
                spec = ChartSpec(f"key-{len(self._specs)}", spec.title, spec.keys)
                chart = self._make_chart(spec)
                shown = self._charts[0]
                chart.cursor_x, chart.view, chart.window = shown.cursor_x, shown.view, shown.window
                self._specs.append(spec)
                self._charts.append(chart)
                self._chart_grid.mount(chart)
                self._layout = None
        if self._layout is None:
            self._arrange()

    # How it is arranged.

    def on_resize(self) -> None:
        """Another size."""
        self._arrange()

    def _arrange(self) -> None:
        width, height = self.size
        if not width or not height:
            return
        layout = layout_for(width, height, len(self._charts))
        self._layout = layout
        if self._is_single:
            layout = layout._replace(chart_columns=1, chart_rows=1)
        card_rows = -(-len(CARDS) // layout.card_columns)
        self._card_grid.styles.height = card_rows * layout.card_height
        self._card_grid.styles.grid_size_columns = layout.card_columns
        self._card_grid.styles.grid_size_rows = card_rows
        for card in self._cards:
            card.styles.height = layout.card_height
        self._chart_grid.styles.grid_size_columns = layout.chart_columns
        self._chart_grid.styles.grid_size_rows = layout.chart_rows
        page = self._current // layout.num_charts
        for place, (spec, chart) in enumerate(zip(self._specs, self._charts, strict=True)):
            was_shown, chart.display = chart.display, place // layout.num_charts == page
            is_one_of_more = layout.num_charts < len(self._charts)
            chart.set_title(f"{spec.title} [{place + 1}/{len(self._charts)}]" if is_one_of_more else spec.title)
            if chart.display and not was_shown:
                self._draw_chart(spec, chart)
                chart.set_markers(self._markers())

    # What charts tell.

    def on_line_chart_cursor_moved(self, message: LineChart.CursorMoved) -> None:
        """One cursor for all."""
        message.stop()
        for chart in self._charts:
            chart.cursor_x = message.x

    def on_line_chart_view_changed(self, message: LineChart.ViewChanged) -> None:
        """One part of x for all."""
        message.stop()
        for chart in self._charts:
            chart.view = message.view

    def on_descendant_focus(self) -> None:
        """The chart with the keys is the one that `enter` enlarges."""
        for place, chart in enumerate(self._charts):
            if chart.has_focus:
                self._current = place

    def freeze(self, is_frozen: bool) -> None:
        """Keep the part of x that is shown, or follow the newest sample again."""
        for chart in self._charts:
            if is_frozen and chart.view is None and chart.x_bounds() is not None:
                chart.view = chart.shown_view()
            elif not is_frozen:
                chart.view = None

    # Keys.

    def action_next_chart(self, step: int) -> None:
        """Go to the chart beside, on another page if need be."""
        self._current = (self._current + step) % len(self._charts)
        self._arrange()
        self.call_after_refresh(self.take_focus)

    def action_toggle_single(self) -> None:
        """Show the chart with the keys alone, or all again."""
        self._is_single = not self._is_single
        self._arrange()
        self.call_after_refresh(self.take_focus)

    def action_smooth(self, step: int) -> None:
        """Smooth more, or less."""
        place = SMOOTHING_WEIGHTS.index(self.choice.weight) + step
        self.choice.weight = SMOOTHING_WEIGHTS[max(0, min(place, len(SMOOTHING_WEIGHTS) - 1))]
        self._say(f"smoothing {self.choice.weight:g}" if self.choice.weight else "no smoothing")

    def action_log_all(self) -> None:
        """Logarithmic scales on all charts, or on none."""
        is_log = not all(chart.is_log for chart in self._charts)
        for chart in self._charts:
            chart.is_log = is_log

    def action_next_window(self) -> None:
        """Follow all steps, the newest thousand, or fewer."""
        if self._axis != "step":
            self.post_message(self.Said(f"all {self._axis}; x shows steps, of which there are windows"))
            return
        window = _WINDOWS[(_WINDOWS.index(self._charts[0].window) + 1) % len(_WINDOWS)]
        for chart in self._charts:
            chart.view, chart.window = None, window
        self.post_message(self.Said(f"the newest {window:,.0f} steps" if window else "all steps"))

    def action_next_axis(self) -> None:
        """Compare runs over steps, tokens or hours."""
        if not self._compared:
            pick = key_of(self.screen, "runs")
            self.post_message(self.Said(f"runs are compared over tokens or hours: choose another one with {pick}"))
            return
        self._axis = AXES[(AXES.index(self._axis) + 1) % len(AXES)]
        for chart in self._charts:
            chart.set_x_axis(*AXIS_LABELS[self._axis])
        self._say(f"over {self._axis}" if self._axis != "step" else "over steps")

    def action_band(self) -> None:
        """Show all ranks as a band, or the first one alone."""
        ranks = sorted(self._session.store.ranks)
        self.show_rank(ranks[0] if self.choice.rank is None and ranks else None)

    def action_next_rank(self, step: int) -> None:
        """Show the next rank alone; beside the last one are all."""
        ranks: list[int | None] = [None, *sorted(self._session.store.ranks)]
        here = ranks.index(self.choice.rank) if self.choice.rank in ranks else 0
        self.show_rank(ranks[(here + step) % len(ranks)])

    def show_rank(self, rank: int | None) -> None:
        """Show this rank alone, or all of them."""
        self.choice.rank = rank
        band = key_of(self.screen, "overview.band")
        self._say("all ranks" if rank is None else f"rank {rank} alone; {band} shows all ranks")

    def _say(self, text: str) -> None:
        for spec, chart in zip(self._specs, self._charts, strict=True):
            if chart.display:
                self._draw_chart(spec, chart)
        self.post_message(self.Said(text))


def _identity(curves: Sequence[Curve]) -> tuple[object, ...]:
    return tuple(
        (curve.name, id(curve.line), id(curve.envelope), id(curve.band and curve.band.low)) for curve in curves
    )
