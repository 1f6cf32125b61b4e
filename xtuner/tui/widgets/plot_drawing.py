"""A chart as rows of text: curves, axes, marks and labels laid out in any size from one cell upwards."""

import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from xtuner.tui.widgets.axis import Scale, format_value, linear_ticks, scale_for
from xtuner.tui.widgets.braille import Canvas, GlyphSet, Layer, Span, dashed, join, mask_of
from xtuner.tui.widgets.cells import crop, num_cells, one_line
from xtuner.tui.widgets.picture import Row, Run, fit_row, justify
from xtuner.tui.widgets.plot import Curve, Plot, look_of
from xtuner.tui.widgets.series_view import ColumnView, SeriesView
from xtuner.tui.widgets.trace import Sample, sample_after, spans_of

# Curves differ in their dashes too, for those who see no colours.
DASHES = ("1", "11110", "10", "1111010", "110", "11111100")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# What needs room, and from how much on it gets it.
_LABELS_FROM_WIDTH = 30
_LAST_VALUES_FROM_WIDTH = 44
_LEGEND_FROM_HEIGHT = 7
_AXIS_FROM_HEIGHT = 5
_EVENTS_FROM_HEIGHT = 4
_ROWS_PER_TICK = 4
_CELLS_PER_TICK = 14
_MAX_LABEL = 10
_DENSE_SAMPLES = 8  # of the whole series for each column


class _Drawn(NamedTuple):
    """The columns of one curve."""

    line: Sequence[ColumnView]
    envelope: Sequence[ColumnView]
    band_low: Sequence[ColumnView]
    band_high: Sequence[ColumnView]


class _Rows(NamedTuple):
    """How many rows each part has."""

    header: int
    legend: int
    body: int
    events: int
    axis: int


def gutters(num_curves: int, width: int) -> tuple[int, int]:
    """Cells to the left and to the right of the curves, for labels, in a chart of `width` cells."""
    left = _MAX_LABEL if width >= _LABELS_FROM_WIDTH else 0
    letters = 2 if num_curves > 1 else 0
    return left, 10 + letters if width >= _LAST_VALUES_FROM_WIDTH else 0


def draw_plot(plot: Plot, width: int, height: int, glyphs: GlyphSet) -> list[Row]:
    """The chart in exactly `height` rows of `width` cells.

    Costs time in proportion to `width` and the number of curves, not to the number of samples.
    """
    rows = _share_rows(plot, height)
    left, right = gutters(len(plot.curves), width)
    num_columns = max(1, width - left - right) * glyphs.dots_wide
    columns = [_columns(plot, curve, num_columns, glyphs.dots_wide) for curve in plot.curves]
    scale = _scale_of(columns, plot.is_log)
    picture = _heading(plot, rows, width, glyphs)
    if rows.body and scale is None:
        picture += _empty(plot, rows.body + rows.events + rows.axis, width)
    elif rows.body and scale is not None:
        picture += _Body(plot, scale, columns, rows, (left, right, width), glyphs).draw()
    return [fit_row(row, width) for row in picture[:height]]


def _share_rows(plot: Plot, height: int) -> _Rows:
    header = 1
    legend = 1 if len(plot.curves) > 1 and height >= _LEGEND_FROM_HEIGHT else 0
    axis = 2 if height - legend >= _AXIS_FROM_HEIGHT + 1 else 1 if height >= _AXIS_FROM_HEIGHT else 0
    events = 1 if height - legend - axis >= _EVENTS_FROM_HEIGHT else 0
    return _Rows(header, legend, max(0, height - header - legend - axis - events), events, axis)


def _columns(plot: Plot, curve: Curve, num_columns: int, dots_wide: int) -> _Drawn:
    low, high = curve.band or (None, None)
    begin, end = plot.view

    def behind(view: SeriesView | None) -> Sequence[ColumnView]:
        """Columns as wide as cells where there are many samples: a cloud needs no finer edge, and costs half."""
        if view is None:
            return ()
        if len(view) < _DENSE_SAMPLES * num_columns:
            return view.columns(begin, end, num_columns)
        coarse = view.columns(begin, end, num_columns // dots_wide)
        return [column for column in coarse for _ in range(dots_wide)]

    line = curve.line.columns(begin, end, num_columns)
    return _Drawn(line, behind(curve.envelope), behind(low), behind(high))


def _scale_of(columns: Sequence[_Drawn], is_log: bool) -> Scale | None:
    parts = [part for drawn in columns for part in drawn]
    return scale_for([(c.low, c.high) for part in parts for c in part if c.low <= c.high], is_log=is_log)


def _empty(plot: Plot, height: int, width: int) -> list[Row]:
    said = "no values here yet" if any(len(curve.line) for curve in plot.curves) else "no values yet"
    if plot.is_log and any(len(curve.line) for curve in plot.curves):
        said = "no value above 0, which a log scale needs"
    said = crop(said, width)
    blank = [fit_row([], width) for _ in range(height)]
    blank[height // 2] = [Run(" " * ((width - len(said)) // 2)), Run(said, "note")]
    return blank


def _heading(plot: Plot, rows: _Rows, width: int, glyphs: GlyphSet) -> list[Row]:
    unit = f" ({plot.unit})" if plot.unit else ""
    name: Row = [
        Run(plot.title, "here" if plot.is_here else "title"),
        Run(f"{unit}{' log' if plot.is_log else ''}", "axis"),
    ]
    said = _cursor(plot) or _best(plot, glyphs)
    values = _values(plot)
    if rows.legend:
        return [justify(name, said, width), values]
    if len(plot.curves) == 1 or plot.cursor_x is not None:
        values = [*said, Run("  " if said else ""), *values]
    return [justify(name, values, width)]


def _cursor(plot: Plot) -> Row:
    """Where the cursor stands: at the sample of the first curve that has one there."""
    if plot.cursor_x is None:
        return []
    found = next((found for curve in plot.curves if (found := curve.line.value_at(plot.cursor_x))), None)
    return [Run(f"{plot.x_name} {plot.format_x(found[0] if found else plot.cursor_x)}", "note")]


def _best(plot: Plot, glyphs: GlyphSet) -> Row:
    if plot.best is None:
        return []
    mark = "*" if glyphs.is_ascii else "◆"
    x, y = plot.best
    return [Run(mark, "best"), Run(f" best {format_value(y)} @ {plot.format_x(x)}", "note")]


def _values(plot: Plot) -> Row:
    """Each curve with its value at the cursor, or with its last one."""
    said: Row = []
    for place, curve in enumerate(plot.curves):
        found = _value_of(curve, plot.cursor_x)
        value = "–" if found is None else format_value(found)
        letter = f"{_LETTERS[place % 26]} " if len(plot.curves) > 1 else ""
        name = f"{one_line(curve.name)} " if len(plot.curves) > 1 else ""
        said += [Run("  " if said else ""), Run(f"{letter}{name}{value}", f"line-{look_of(curve, place)}")]
    return said


def _value_of(curve: Curve, x: float | None) -> float | None:
    bounds = curve.line.x_range()
    if bounds is None:
        return None
    found = curve.line.value_at(bounds[1] if x is None else x)
    return None if found is None else found[1]


class _Body:
    """The rows below the heading, while they are drawn."""

    def __init__(
        self,
        plot: Plot,
        scale: Scale,
        columns: Sequence[_Drawn],
        rows: _Rows,
        widths: tuple[int, int, int],
        glyphs: GlyphSet,
    ) -> None:
        self._plot, self._scale, self._columns, self._rows, self._glyphs = plot, scale, columns, rows, glyphs
        self._left, self._right, whole = widths
        self._width = max(1, whole - self._left - self._right)
        self._canvas = Canvas(self._width, rows.body, glyphs)
        self._to_pixel = scale.to_pixel(rows.body * glyphs.dots_high)
        self._spans = [self._spans_of(curve, drawn) for curve, drawn in zip(plot.curves, columns, strict=True)]

    def draw(self) -> list[Row]:
        """Body, events and axis."""
        self._draw_bands()
        self._draw_curves()
        self._draw_letters()
        self._draw_marks()
        return [*self._body_rows(), *self._event_rows(), *self._axis_rows()]

    @property
    def _ascii(self) -> bool:
        return self._glyphs.is_ascii

    def _spans_of(self, curve: Curve, drawn: _Drawn) -> list[Span | None]:
        begin, end = self._plot.view
        per_x = len(drawn.line) / (end - begin)
        entry = curve.line.value_at(begin)
        shown_entry = Sample((entry[0] - begin) * per_x - 0.5, entry[1]) if entry and entry[0] < begin else None
        after = sample_after(curve.line, end) if drawn.line and drawn.line[-1].low > drawn.line[-1].high else None
        leaving = Sample((after.x - begin) * per_x - 0.5, after.y) if after else None
        above = 0.0 if self._scale.is_log else -math.inf
        return spans_of(drawn.line, self._to_pixel, above=above, entry=shown_entry, leaving=leaving)

    def _draw_bands(self) -> None:
        layers = []
        chess = sum(1 << bit for bit in range(0, self._rows.body * self._glyphs.dots_high, 2))
        above = 0.0 if self._scale.is_log else -math.inf
        for place, (curve, drawn) in enumerate(zip(self._plot.curves, self._columns, strict=True)):
            look = look_of(curve, place)
            if drawn.band_low:
                lows = spans_of(drawn.band_low, self._to_pixel, above=above)
                highs = spans_of(drawn.band_high, self._to_pixel, above=above)
                both = zip(lows, highs, strict=True)
                masks = [mask_of((low[0], max(low[0], high[1]))) if low and high else 0 for low, high in both]
                shaded = [mask & (chess << (x & 1)) for x, mask in enumerate(masks)]
                layers.append(Layer(shaded, f"band-{look}"))
            if drawn.envelope:
                spans = join(spans_of(drawn.envelope, self._to_pixel, above=above))
                layers.append(Layer([mask_of(span) if span else 0 for span in spans], f"raw-{look}"))
        self._canvas.draw(layers)

    def _draw_curves(self) -> None:
        layers = []
        for place, (curve, spans) in enumerate(zip(self._plot.curves, self._spans, strict=True)):
            pattern = DASHES[place % len(DASHES)]
            layers.append(Layer(dashed(join(spans), pattern), f"line-{look_of(curve, place)}"))
        self._canvas.draw(layers)

    def _draw_letters(self) -> None:
        """Each curve of several bears its letter, at another place than the others."""
        num_curves = len(self._plot.curves)
        if num_curves < 2:
            return
        for place, (curve, spans) in enumerate(zip(self._plot.curves, self._spans, strict=True)):
            x = self._width * (place + 1) // (num_curves + 1)
            span = spans[x * self._glyphs.dots_wide] if spans else None
            if span is not None:
                look = f"line-{look_of(curve, place)}"
                self._canvas.put(x, self._row_of_pixel(span[1]), _LETTERS[place % 26], look)

    def _draw_marks(self) -> None:
        for marker in self._plot.markers:
            x = self._cell_of(marker.x)
            for y in range(self._rows.body) if x is not None else ():
                self._canvas.put(x or 0, y, ":" if self._ascii else "┊", "marker", is_behind=True)
        best = self._plot.best
        if best is not None and (x := self._cell_of(best.x)) is not None and (best.y > 0 or not self._scale.is_log):
            self._canvas.put(x, self._row_of_pixel(self._to_pixel(best.y)), "*" if self._ascii else "◆", "best")
        if self._plot.cursor_x is not None and (x := self._cell_of(self._plot.cursor_x)) is not None:
            for y in range(self._rows.body):
                self._canvas.put(x, y, "|" if self._ascii else "│", "cursor", is_behind=True)
                self._canvas.looks[x][y] = "cursor"

    def _row_of_pixel(self, pixel: int) -> int:
        return self._rows.body - 1 - pixel // self._glyphs.dots_high

    def _cell_of(self, x: float) -> int | None:
        begin, end = self._plot.view
        if not begin <= x <= end:
            return None
        return min(self._width - 1, int((x - begin) / (end - begin) * self._width))

    def _body_rows(self) -> list[Row]:
        labels = self._tick_labels()
        last = self._last_values()
        rows = []
        cells = zip(zip(*self._canvas.characters, strict=True), zip(*self._canvas.looks, strict=True), strict=True)
        for y, (characters, looks) in enumerate(cells):
            row: Row = []
            if self._left:
                label = labels.get(y, "")
                corner = ("+" if label else "|") if self._ascii else ("┤" if label else "│")
                row.append(Run(f"{crop(label, self._left - 1):>{self._left - 1}}{corner}", "axis"))
            row += _runs(characters, looks)
            if self._right and y in last:
                row.append(last[y])
            rows.append(row)
        return rows

    def _tick_labels(self) -> dict[int, str]:
        ticks = self._scale.ticks(max(2, self._rows.body // _ROWS_PER_TICK + 1))
        return {self._row_of_pixel(self._to_pixel(tick.value)): tick.label for tick in ticks}

    def _last_values(self) -> dict[int, Run]:
        """The value at the right end of each curve, in its row or in the nearest that is free."""
        taken: dict[int, Run] = {}
        for place, (curve, drawn) in enumerate(zip(self._plot.curves, self._columns, strict=True)):
            value = next((c.last for c in reversed(drawn.line) if c.low <= c.high), None)
            if value is None:
                continue
            wanted = self._row_of_pixel(self._to_pixel(value))
            free = [y for y in range(self._rows.body) if y not in taken]
            if free:
                letter = f"{_LETTERS[place % 26]} " if len(self._plot.curves) > 1 else ""
                y = min(free, key=lambda row: (abs(row - wanted), row))
                taken[y] = Run(f" {letter}{format_value(value)}", f"line-{look_of(curve, place)}")
        return taken

    def _event_rows(self) -> list[Row]:
        """Letters of markers, and marks where a value is NaN or infinite: they matter more."""
        if not self._rows.events:
            return []
        cells = [" "] * self._width
        looks = [""] * self._width
        for marker in self._plot.markers:
            if (x := self._cell_of(marker.x)) is not None:
                letter = crop(one_line(marker.letter), 1) or "?"
                cells[x] = letter if cells[x] in (" ", letter) and num_cells(letter) == 1 else "+"
                looks[x] = "marker"
        wide = self._glyphs.dots_wide
        for drawn in self._columns:
            for place, column in enumerate(drawn.envelope or drawn.line):
                if column.num_bad:
                    cells[place // wide], looks[place // wide] = "x" if self._ascii else "✗", "bad"
        edge = [Run(" " * (self._left - 1) + ("|" if self._ascii else "│"), "axis")] if self._left else []
        return [[*edge, *_runs(cells, looks)]]

    def _axis_rows(self) -> list[Row]:
        if not self._rows.axis:
            return []
        line, tick_mark, corner = ("-", "+", "+") if self._ascii else ("─", "┴", "└")
        begin, end = self._plot.view
        cells, labels = [line] * self._width, [" "] * self._width
        free_from = 0
        for tick in linear_ticks(begin, end, max(2, self._width // _CELLS_PER_TICK)):
            label = one_line(self._plot.format_x(tick.value))
            x = self._cell_of(tick.value)
            place = max(0, min((x or 0) - num_cells(label) // 2, self._width - num_cells(label)))
            if x is None or place < free_from or len(label) != num_cells(label) or len(label) > self._width:
                continue
            cells[x] = tick_mark
            labels[place : place + len(label)] = label
            free_from = place + len(label) + 1
        edge = " " * (self._left - 1)
        name = f" {self._plot.x_name}" if self._right else ""
        rows: list[Row] = [[Run(f"{edge}{corner if self._left else ''}{''.join(cells)}", "axis")]]
        rows.append([Run(f"{edge}{' ' if self._left else ''}{''.join(labels)}{name}", "axis")])
        return rows[-self._rows.axis :]


def _runs(characters: Sequence[str], looks: Sequence[str]) -> Row:
    """Neighbours of the same look in one run."""
    pairs = zip(looks, characters, strict=True)
    return [Run("".join(map(itemgetter(1), group)), look) for look, group in groupby(pairs, key=itemgetter(0))]
