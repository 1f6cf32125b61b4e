"""The line at the top: which file, which row of how many, how much of it is trained."""

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from xtuner.run.text import visible
from xtuner.tui.preview.index import RowIndex
from xtuner.tui.preview.shower import RowSize
from xtuner.tui.preview.wrap import crop, crop_left

_MIN_NAME = 12  # cells that the file name keeps in any case
_GAP = "  "


@dataclass(frozen=True)
class Place:
    """What the header says about rows."""

    number: int
    row: int
    num_rows: int
    unit: str
    more: str = ""  # why there may be more rows than these

    def sentence(self) -> str:
        """`row 3 of 10`, and the line where that is another number."""
        said = f"row {self.row + 1:,} of {self.num_rows:,}{self.more}" if self.num_rows else f"no row yet{self.more}"
        return said if self.number == self.row + 1 else f"{self.unit} {self.number:,}, {said}"


def place_in(index: RowIndex, row: int) -> Place:
    """Where `row` stands among the rows that are known."""
    more = ""
    if index.is_limited:
        more = " held, the rest is not read"
    elif not index.is_done:
        more = f" so far, {100 * index.share_read:.0f} % read"
    number = index.number_of(row) if row < len(index) else row + 1
    return Place(number, row, len(index), "line" if index.counts_lines else "row", more)


class HeaderBar(Widget):
    """One line; the file name gives way first, as the rest changes and it does not."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"header--name", "header--place", "header--trained"}

    place: reactive[Place] = reactive(Place(1, 0, 0, "line"))
    row_size: reactive[RowSize | None] = reactive(None)

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name_shown = visible(name)

    def render(self) -> Text:
        """Name, place, share."""
        width = self.size.width
        place, trained = self.place.sentence(), self._trained()
        if cell_len(place) + cell_len(trained) + _MIN_NAME + 2 * len(_GAP) > width:
            trained = self._trained(is_short=True)
        room = width - cell_len(place) - cell_len(trained) - 2 * len(_GAP)
        name = crop_left(self._name_shown, max(room, 0))
        text = Text(no_wrap=True, end="")
        text.append(name, self.get_component_rich_style("header--name"))
        text.append(_GAP if name else "")
        text.append(crop(place, width), self.get_component_rich_style("header--place"))
        gap = width - cell_len(text.plain) - cell_len(trained)
        if gap > 0:
            text.append(" " * gap)
            text.append(trained, self.get_component_rich_style("header--trained"))
        return text

    def _trained(self, *, is_short: bool = False) -> str:
        if self.row_size is None or not self.row_size.num_tokens:
            return ""
        trained, tokens = self.row_size.num_trained, self.row_size.num_tokens
        share = f"{100 * trained // tokens} %"  # downwards: 100 % is all of it
        return f"{share} trained" if is_short else f"{trained:,} of {tokens:,} tokens trained, {share}"
