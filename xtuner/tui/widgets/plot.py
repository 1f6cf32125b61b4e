"""What a chart shows, as data; `plot_drawing` makes rows of text of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xtuner.tui.widgets.axis import format_count
from xtuner.tui.widgets.series_view import SeriesView
from xtuner.tui.widgets.trace import Sample

NUM_COLOURS = 6


class Band(NamedTuple):
    """What all ranks lie between."""

    low: SeriesView
    high: SeriesView


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: shown in the legend.
        line: drawn bright: the smoothed values, the median of the ranks, or the values themselves.
        envelope: drawn dim behind it: the values that were smoothed.
        band: shaded behind it.
        colour: from 0 to `NUM_COLOURS` - 1; without, by its place among the curves.
        is_level: whether it is no measurement but a value to hold the others against; broken in pictures too.
    """

    name: str
    line: SeriesView
    envelope: SeriesView | None = None
    band: Band | None = None
    colour: int | None = None
    is_level: bool = False


@dataclass(frozen=True)
class Marker:
    """Something that happened at `x`: a letter of one cell says what (`C` a checkpoint, for example)."""

    x: float
    letter: str


@dataclass(frozen=True)
class Plot:
    """All that a chart shows.

    Attributes:
        view: the part of x that is shown; its end is larger than its begin.
        best: the best value, which is marked and named.
        cursor_x: the values there are shown in place of the last ones.
        is_here: whether the keys are for this chart.
    """

    title: str
    curves: Sequence[Curve]
    view: tuple[float, float]
    unit: str = ""
    is_log: bool = False
    markers: Sequence[Marker] = ()
    cursor_x: float | None = None
    best: Sample | None = None
    x_name: str = "step"
    format_x: Callable[[float], str] = field(default=format_count)
    is_here: bool = False


def look_of(curve: Curve, place: int) -> str:
    """The name of a curve's colour."""
    return str((place if curve.colour is None else curve.colour) % NUM_COLOURS)
