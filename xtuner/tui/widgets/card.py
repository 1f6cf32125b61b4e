"""A card: one number that matters, how it changes, and how it went."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from textual.reactive import reactive

from xtuner.tui.widgets.braille import BRAILLE, GlyphSet
from xtuner.tui.widgets.cells import num_cells, one_line
from xtuner.tui.widgets.picture import Picture, Row, Run, fit_row, justify
from xtuner.tui.widgets.series_view import SeriesView
from xtuner.tui.widgets.sparkline import sparkline_of

Mood = Literal["", "good", "bad"]


@dataclass(frozen=True)
class Reading:
    """What a card shows.

    Attributes:
        value: with its unit, as the owner writes it; an empty one is a dash.
        change: with its sign, and over what: `-0.012/100`.
        mood: whether the change, or the value, is good or bad news; said by a mark too.
        detail: what the value stands against: `of 80 GB`.
    """

    value: str = ""
    change: str = ""
    mood: Mood = ""
    detail: str = ""


def draw_card(
    title: str, reading: Reading, series: SeriesView | None, width: int, height: int, glyphs: GlyphSet
) -> list[Row]:
    """The card in `height` rows: title and value in one, or in two with the change, then the sparkline."""
    value = Run(one_line(reading.value) or "–", "value")
    detail = [Run(f" {reading.detail}", "title")] if reading.detail else []
    change = _change(reading, glyphs)
    if height == 1:
        name = Run(f"{title} ", "title")
        return [justify(*_what_fits([name, value], [], change, width), width)]
    if height == 2:
        room = width - num_cells(value.text) - 1
        spark = [Run(sparkline_of(series, min(room, width // 2), glyphs=glyphs), "spark")] if series else []
        return [justify([Run(title, "title")], change, width), justify([value], spark if room > 3 else [], width)]
    top: list[Row] = [[Run(title, "title")], justify(*_what_fits([value], detail, change, width), width)]
    if height >= 3 and series is not None:
        top.append([Run(sparkline_of(series, width, glyphs=glyphs), "spark")])
    return [fit_row(row, width) for row in top]


def _what_fits(value: Row, detail: Row, change: Row, width: int) -> tuple[Row, Row]:
    """What stands left and right: half a change would be another one, so it is left out as a whole."""
    room = width - _cells_of(value)
    if _cells_of(change) >= room:
        change = []
    has_room = _cells_of(detail) + _cells_of(change) < room
    return [*value, *(detail if has_room else [])], change


def _cells_of(row: Row) -> int:
    return sum(num_cells(one_line(run.text)) for run in row)


def _change(reading: Reading, glyphs: GlyphSet) -> Row:
    mark = {"": "", "good": "+", "bad": "!"} if glyphs.is_ascii else {"": "", "good": "✓", "bad": "!"}
    said = f"{reading.change}{' ' if reading.change and reading.mood else ''}{mark[reading.mood]}"
    return [Run(said, reading.mood or "title")] if said else []


class Card(Picture):
    """A title, a value, its change, and a sparkline of `series`; `redraw` when the series has grown."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"picture--{look}" for look in ("title", "value", "spark", "good", "bad")}
    DEFAULT_CSS = """
    Card {
        height: 3;
        width: 1fr;
        padding: 0 1;
        background: $panel;
        & > .picture--title { text-style: dim; }
        & > .picture--value { text-style: bold; }
        & > .picture--spark { color: ansi_cyan; }
        & > .picture--good { color: ansi_green; }
        & > .picture--bad { color: ansi_red; text-style: bold; }
    }
    """

    reading: reactive[Reading] = reactive(Reading())

    def __init__(
        self,
        title: str,
        series: SeriesView | None = None,
        *,
        glyphs: GlyphSet = BRAILLE,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(glyphs=glyphs, id=id, classes=classes)
        self.title = title
        self.series = series

    def watch_reading(self) -> None:
        """Another value."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The card."""
        return draw_card(self.title, self.reading, self.series, width, height, self.glyphs)
