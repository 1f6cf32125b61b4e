"""Ranks over time as shades: which rank is unlike the others, and since when."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from textual import events
from textual.message import Message
from textual.reactive import reactive

from xtuner.tui.widgets.axis import format_value
from xtuner.tui.widgets.cells import crop, one_line
from xtuner.tui.widgets.picture import Picture, Row, Run, fit_row, justify

# Shades read without colour; the lowest is seen too, as blank means that nothing is known.
SHADES, ASCII_SHADES = "·░▒▓█", ".:+*#"
BAD, ASCII_BAD = "✗", "x"
_LABEL_CELLS = 9
_LABELS_FROM_WIDTH = 24


@dataclass(frozen=True)
class Heat:
    """Values of ranks over time.

    Attributes:
        labels: of the ranks.
        values: a sequence a rank, all from the same time on and in equal parts of it, the newest last; None where
            nothing is known, NaN or an infinity where a value is bad.
        bounds: what the lowest and the highest shade stand for; without, the least and the largest value.
    """

    title: str = ""
    labels: Sequence[str] = ()
    values: Sequence[Sequence[float | None]] = ()
    unit: str = ""
    bounds: tuple[float, float] | None = None


def shade(value: float | None, low: float, high: float, *, is_ascii: bool = False) -> Run:
    """The character of a value, in the look of its shade: `heat-0` to `heat-4`, or `bad`."""
    if value is None:
        return Run(" ")
    if not math.isfinite(value):
        return Run(ASCII_BAD if is_ascii else BAD, "bad")
    shades = ASCII_SHADES if is_ascii else SHADES
    half = high * 0.5 - low * 0.5
    share = min(1.0, max(0.0, (value * 0.5 - low * 0.5) / half)) if half > 0 else 0.0
    place = min(len(shades) - 1, int(share * len(shades)))
    return Run(shades[place], f"heat-{place}")


def worst(values: Sequence[float | None]) -> float | None:
    """What stands for several values in one cell: a bad one, or the largest, or that nothing is known."""
    known = [value for value in values if value is not None]
    bad = [value for value in known if not math.isfinite(value)]
    return bad[0] if bad else max(known, default=None)


def squeeze(values: Sequence[float | None], num_cells: int) -> list[float | None]:
    """The values in at most so many cells, the worst of each part; fewer values stay as they are."""
    if len(values) <= num_cells:
        return list(values)
    edges = [place * len(values) // num_cells for place in range(num_cells + 1)]
    return [worst(values[begin:end]) for begin, end in pairwise(edges)]


def rank_groups(num_ranks: int, num_rows: int) -> list[range]:
    """Which ranks share a row, where there are more than rows; as even as can be."""
    num_rows = max(1, min(num_rows, num_ranks))
    edges = [row * num_ranks // num_rows for row in range(num_rows + 1)]
    return [range(begin, end) for begin, end in pairwise(edges) if begin < end]


def draw_heat(heat: Heat, width: int, height: int, *, is_ascii: bool = False, picked: int | None = None) -> list[Row]:
    """Title with legend, then a row a rank or group of ranks; the newest value is at the right end."""
    low, high = heat.bounds or _bounds(heat.values)
    unit = f" {heat.unit}" if heat.unit else ""
    shades = ASCII_SHADES if is_ascii else SHADES
    legend = [Run(f"{format_value(low)} {shades} {format_value(high)}{unit}", "note")] if heat.values else []
    rows: list[Row] = [justify([Run(heat.title, "title")], legend, width)]
    if not heat.values:
        return [*rows, [Run("no ranks yet", "note")]]
    label_cells = _LABEL_CELLS if width >= _LABELS_FROM_WIDTH else 0
    room = width - label_cells
    for group in rank_groups(len(heat.values), height - 1):
        columns = squeeze(_worst_of([heat.values[rank] for rank in group]), room)
        label = crop(one_line(_label(heat.labels, group)), label_cells - 1)
        look = "picked" if picked is not None and picked in group else "note"
        head = [*fit_row([Run(label, look)], label_cells - 1), Run(">" if look == "picked" else " ", look)]
        cells = [shade(value, low, high, is_ascii=is_ascii) for value in columns]
        rows.append([*(head if label_cells else []), Run(" " * (room - len(cells))), *_merged(cells)])
    return rows


def _bounds(rows: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    known = [value for row in rows for value in row if value is not None and math.isfinite(value)]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _worst_of(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    if len(rows) == 1:
        return list(rows[0])
    length = max(map(len, rows))
    nothing: list[float | None] = [None]
    padded = [nothing * (length - len(row)) + list(row) for row in rows]  # the newest of each is the last
    return [worst(column) for column in zip(*padded, strict=True)]


def _label(labels: Sequence[str], group: range) -> str:
    names = [labels[rank] if rank < len(labels) else str(rank) for rank in (group[0], group[-1])]
    return names[0] if len(group) == 1 else f"{names[0]}-{names[1]}"


def _merged(cells: Sequence[Run]) -> Row:
    row: Row = []
    for run in cells:
        if row and row[-1].look == run.look:
            row[-1] = Run(row[-1].text + run.text, run.look)
        else:
            row.append(run)
    return row


class HeatMap(Picture):
    """Ranks over time; a click picks a rank."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *(f"picture--{look}" for look in ("title", "note", "bad", "picked")),
        *(f"picture--heat-{place}" for place in range(len(SHADES))),
    }
    DEFAULT_CSS = """
    HeatMap {
        height: 1fr;
        min-height: 1;
        background: $surface;
        & > .picture--title { text-style: bold; }
        & > .picture--note { text-style: dim; }
        & > .picture--picked { text-style: bold reverse; }
        & > .picture--bad { color: ansi_red; text-style: bold reverse; }
        & > .picture--heat-0 { color: ansi_blue; }
        & > .picture--heat-1 { color: ansi_cyan; }
        & > .picture--heat-2 { color: ansi_green; }
        & > .picture--heat-3 { color: ansi_yellow; }
        & > .picture--heat-4 { color: ansi_red; text-style: bold; }
    }
    """

    heat: reactive[Heat] = reactive(Heat())
    picked: reactive[int | None] = reactive(None)

    class RankPicked(Message):
        """The user chose the first rank of a row."""

        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank = rank

    def watch_heat(self) -> None:
        """Other values."""
        self.redraw()

    def watch_picked(self) -> None:
        """Another rank."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The map."""
        return draw_heat(self.heat, width, height, is_ascii=self.glyphs.is_ascii, picked=self.picked)

    def on_click(self, event: events.Click) -> None:
        """Pick the rank of that row."""
        groups = rank_groups(len(self.heat.values), self.size.height - 1)
        if self.heat.values and 1 <= event.y <= len(groups):
            self.picked = groups[event.y - 1][0]
            self.post_message(self.RankPicked(self.picked))
