"""A chart as SVG: the curves that the screen draws, for a report or a slide."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from xtuner.run.text import visible
from xtuner.tui.widgets.axis import Tick, format_count, format_value, linear_ticks, log_ticks
from xtuner.tui.widgets.plot import Curve, Plot, look_of
from xtuner.tui.widgets.series_view import SeriesView

WIDTH, HEIGHT = 760, 300
# What desktops have, and what servers may have; resvg, which draws PNGs, knows no `sans-serif` by itself.
FONTS = "system-ui, 'Noto Sans', 'DejaVu Sans', 'Liberation Sans', Arial, sans-serif"
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 48, 36
_NUM_COLUMNS = (WIDTH - _LEFT - _RIGHT) // 2
# Middle tones and no background: readable on a white and on a black page; as many as a chart has colours.
_COLOURS = ("#2f7fd6", "#e0913a", "#3aa657", "#b05bc0", "#d0503a", "#7a8a20")
_TEXT, _GRID, _BAD = "#808080", "#80808040", "#d02020"
_DASHES = ' stroke-dasharray="6 4"'
_MARGIN = 0.04  # of the height, above and below the values


@dataclass(frozen=True)
class _Frame:
    """From values to places in the picture."""

    view: tuple[float, float]
    low: float
    high: float
    is_log: bool

    def x(self, value: float) -> float:
        begin, end = self.view
        return round(_LEFT + (value - begin) / (end - begin) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (self._scaled(self.high) - self._scaled(value)) / (self._scaled(self.high) - self._scaled(self.low))
        return round(_TOP + share * (HEIGHT - _TOP - _BOTTOM), 1)

    def column_x(self, place: int) -> float:
        return round(_LEFT + (place + 0.5) / _NUM_COLUMNS * (WIDTH - _LEFT - _RIGHT), 1)

    def _scaled(self, value: float) -> float:
        return math.log(max(value, self.low)) if self.is_log else value


def draw_svg(plot: Plot) -> str:
    """`plot` as a picture of 760 x 300 that scales; no spike is lost, values that are no numbers are marked."""
    frame = _frame_of(plot)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label={quoteattr(_safe(plot.title))} font-family="{FONTS}" font-size="12" '
        f'fill="{_TEXT}">',
        *_legend(plot),
    ]
    if frame is None:
        parts.append(_text(WIDTH / 2, HEIGHT / 2, "no values", "middle"))
    else:
        parts += _axes(plot, frame)
        for place, curve in enumerate(plot.curves):
            parts += _draw_curve(curve, _colour(curve, place), frame)
    return "\n".join([*parts, "</svg>", ""])


def _colour(curve: Curve, place: int) -> str:
    return _COLOURS[int(look_of(curve, place))]


def _frame_of(plot: Plot) -> _Frame | None:
    """None where there is no finite value to show; a log scale needs one above 0."""
    views = [view for curve in plot.curves for view in _views_of(curve)]
    columns = [column for view in views for column in view.columns(*plot.view, _NUM_COLUMNS)]
    finite = [value for column in columns if column.low <= column.high for value in (column.low, column.high)]
    is_log = plot.is_log and any(value > 0 for value in finite)
    if is_log:
        finite = [value for value in finite if value > 0]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    if is_log:
        return _Frame(plot.view, low / 1.1, high * 1.1, is_log=True)
    margin = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
    return _Frame(plot.view, low - margin, high + margin, is_log=False)


def _views_of(curve: Curve) -> Iterator[SeriesView]:
    yield curve.line
    if curve.envelope is not None:
        yield curve.envelope
    if curve.band is not None:
        yield from curve.band


def _draw_curve(curve: Curve, colour: str, frame: _Frame) -> Iterator[str]:
    """Behind it the band of the ranks, or the values that were smoothed."""
    if curve.band is not None:
        yield _draw_band(*curve.band, colour, frame)
    if curve.envelope is not None:
        yield _draw_line(curve.envelope, colour, frame, width=1.0, opacity=0.35)
    yield _draw_line(curve.line, colour, frame, width=1.6, opacity=1.0, is_broken=curve.is_level)
    yield from _draw_bad(curve.envelope or curve.line, frame)


def _draw_line(
    view: SeriesView, colour: str, frame: _Frame, *, width: float, opacity: float, is_broken: bool = False
) -> str:
    """Each column from its lowest to its highest value; a value that is no number breaks the line."""
    commands: list[str] = []
    is_apart = True
    for place, column in enumerate(view.columns(*frame.view, _NUM_COLUMNS)):
        if column.low <= column.high:
            x = frame.column_x(place)
            ends = [column.low, column.high] if column.last != column.low else [column.high, column.low]
            for value in dict.fromkeys(ends):
                commands.append(f"{'M' if is_apart else 'L'}{x} {frame.y(value)}")
                is_apart = False
        is_apart = is_apart or column.num_bad > 0
    return (
        f'<path d="{"".join(commands)}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-linejoin="round" stroke-linecap="round"{_DASHES if is_broken else ""}/>'
    )


def _draw_band(low: SeriesView, high: SeriesView, colour: str, frame: _Frame) -> str:
    places = range(_NUM_COLUMNS)
    lows, highs = (view.columns(*frame.view, _NUM_COLUMNS) for view in (low, high))
    above = [f"{frame.column_x(i)},{frame.y(highs[i].high)}" for i in places if highs[i].low <= highs[i].high]
    below = [f"{frame.column_x(i)},{frame.y(lows[i].low)}" for i in places if lows[i].low <= lows[i].high]
    return f'<polygon points="{" ".join([*above, *reversed(below)])}" fill="{colour}" fill-opacity="0.18"/>'


def _draw_bad(view: SeriesView, frame: _Frame) -> Iterator[str]:
    for place, column in enumerate(view.columns(*frame.view, _NUM_COLUMNS)):
        if column.num_bad:
            yield f'<text x="{frame.column_x(place)}" y="{_TOP + 10}" text-anchor="middle" fill="{_BAD}">✗</text>'


def _axes(plot: Plot, frame: _Frame) -> Iterator[str]:
    ticks: Sequence[Tick] = (log_ticks if frame.is_log else linear_ticks)(frame.low, frame.high, 6)
    for tick in ticks:
        y = frame.y(tick.value)
        yield f'<path d="M{_LEFT} {y}H{WIDTH - _RIGHT}" stroke="{_GRID}"/>'
        yield _text(_LEFT - 8, y + 4, tick.label, "end")
    for tick in linear_ticks(*frame.view, 8):
        yield _text(frame.x(tick.value), HEIGHT - _BOTTOM + 18, tick.label, "middle")
    for marker in plot.markers:
        if frame.view[0] <= marker.x <= frame.view[1]:
            x = frame.x(marker.x)
            yield f'<path d="M{x} {_TOP}V{HEIGHT - _BOTTOM}" stroke="{_GRID}" stroke-dasharray="3 3"/>'
            yield _text(x, _TOP - 3, marker.letter, "middle")


def _legend(plot: Plot) -> Iterator[str]:
    unit = f", {plot.unit}" if plot.unit else ""
    best = f"   best {format_value(plot.best.y)} at {plot.x_name} {format_count(plot.best.x)}" if plot.best else ""
    yield _text(_LEFT, 16, f"{plot.title}{unit}{best}", "start", is_bold=True)
    x = float(_LEFT)
    for place, curve in enumerate(plot.curves):
        dashes = _DASHES if curve.is_level else ""
        yield f'<path d="M{x} 30h18" stroke="{_colour(curve, place)}" stroke-width="2"{dashes}/>'
        yield _text(x + 24, 34, curve.name, "start")
        x += 48 + 7 * len(curve.name)


def _text(x: float, y: float, text: str, anchor: str, *, is_bold: bool = False) -> str:
    weight = ' font-weight="600"' if is_bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(_safe(text))}</text>'


def _safe(text: str) -> str:
    """What XML can hold, controls as escapes."""
    return visible(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def shared_view(views: Iterable[SeriesView]) -> tuple[float, float] | None:
    """The part of x in which any of `views` has samples; None where none has."""
    ranges = [bounds for view in views if (bounds := view.x_range())]
    if not ranges:
        return None
    begin, end = min(first for first, _ in ranges), max(last for _, last in ranges)
    return (begin, end) if begin < end else (begin - 0.5, end + 0.5)
