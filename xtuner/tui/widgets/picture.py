"""Pictures: rows of text with names of looks, drawn by pure functions, and the widget that shows one.

What a look is in colours is CSS; what stands where is code that needs no app to be tested.
"""

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from xtuner.tui.widgets.braille import BRAILLE, GlyphSet
from xtuner.tui.widgets.cells import crop, num_cells, one_line


class Run(NamedTuple):
    """Text of one look; a look without a name is the widget's own."""

    text: str
    look: str = ""


Row = list[Run]

# Of one picture: as it was drawn for the sizes and variants that were shown last.
_MAX_DRAWN = 4


def fit_row(row: Iterable[Run], width: int, fill: str = "") -> Row:
    """The row in exactly `width` cells: made safe, cut with an ellipsis, filled with blanks of the look `fill`."""
    fitted: Row = []
    room = width
    for text, look in row:
        if room <= 0:
            break
        whole = one_line(text)
        shown = crop(whole, room)
        room -= num_cells(shown)
        if shown:
            fitted.append(Run(shown, look))
        if shown != whole:
            break
    if room > 0:
        fitted.append(Run(" " * room, fill))
    return fitted


def justify(left: Row, right: Row, width: int) -> Row:
    """`left` and `right` at the ends of a row of `width` cells; the left is cut first, down to half the row."""
    right_width = sum(num_cells(one_line(run.text)) for run in right)
    left_width = sum(num_cells(one_line(run.text)) for run in left)
    if left_width + 1 + right_width > width and right:
        room = max(width // 2, width - right_width - 1)
        return fit_row([*fit_row(left, room), Run(" "), *right], width)
    return fit_row([*left, Run(" " * (width - right_width - left_width)), *right], width)


def text_of(rows: Iterable[Row]) -> str:
    """The rows as plain text."""
    return "\n".join("".join(run.text for run in row) for row in rows)


class Picture(Widget):
    """A widget that is a picture: drawn when it is first shown, and again after `redraw` or a change of size.

    A subclass says `draw`, which returns rows for the widget's width and height; rows that lack are blank, what is
    too long is cut. A look `name` is the component class `picture--name`, whose colours depend on the theme alone.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = set()

    def __init__(self, *, glyphs: GlyphSet = BRAILLE, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.glyphs = glyphs
        self._drawn: dict[tuple[object, ...], list[Strip]] = {}
        self._base = Style()

    @property
    def variant(self) -> object:
        """What the picture depends on that goes to and fro, so that it need not be drawn again each time."""
        return None

    def draw(self, width: int, height: int) -> list[Row]:
        """The rows, for at least one cell in both directions."""
        raise NotImplementedError

    def redraw(self) -> None:
        """What is shown has changed: draw before the next frame, once, and only if this is visible."""
        self._drawn.clear()
        self.refresh()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The rows of a part; what all parents give to the style is put together once for them, and not in each."""
        self._base = self.rich_style
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """One row, from the picture that was drawn last if it still holds."""
        width, height = self.size
        base = self._base
        key = (width, height, base, self.app.theme, self.variant)
        strips = self._drawn.get(key)
        if strips is None:
            if len(self._drawn) >= _MAX_DRAWN:
                self._drawn.clear()
            rows = self.draw(width, height)[:height] if width > 0 and height > 0 else []
            strips = self._drawn[key] = [self._to_strip(row, width, base) for row in rows]
        return strips[y] if y < len(strips) else Strip.blank(width, base)

    def _to_strip(self, row: Row, width: int, base: Style) -> Strip:
        return to_strip(self, "picture", row, width, base)


def to_strip(widget: Widget, prefix: str, row: Row, width: int, base: Style) -> Strip:
    """The row in the looks of the widget: the component classes `prefix--look`."""
    segments = [
        Segment(text, base + widget.get_component_rich_style(f"{prefix}--{look}", partial=True) if look else base)
        for text, look in fit_row(row, width)
    ]
    return Strip(segments, width)
