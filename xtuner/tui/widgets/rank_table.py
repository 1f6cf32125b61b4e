"""The ranks in a table that is updated in place: sorted by any column, filtered by any text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.message import Message
from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey

from xtuner.tui.widgets.axis import format_value
from xtuner.tui.widgets.cells import fit, one_line

Value = float | str | None

_UP, _DOWN = " ▲", " ▼"


@dataclass(frozen=True)
class RankColumn:
    """A column: its key among the values, its heading, its cells; numbers are written as `decimals` says.

    Without `decimals`, in about four digits.
    """

    key: str
    heading: str
    width: int
    decimals: int | None = None
    is_text: bool = False


# 70 cells with the gaps between them: the reason begins on the screen at 80 cells too.
RANK_COLUMNS = (
    RankColumn("rank", "rank", 6, 0),
    RankColumn("step", "step", 8, 0),
    RankColumn("lag", "lag", 5, 0),
    RankColumn("data_time", "data s", 7, 3),
    RankColumn("time", "step s", 7, 3),
    RankColumn("tgs", "tok/s", 8, 1),
    RankColumn("max_memory", "GiB", 6, 2),
    RankColumn("heard", "heard s", 7, 0),
    RankColumn("reason", "reason", 72, is_text=True),
)


def cell_text(value: Value, column: RankColumn) -> str:
    """The value in exactly the column's cells: text to the left, numbers to the right."""
    if isinstance(value, str):
        return fit(value, column.width, is_right=not column.is_text)
    if value is None:
        return fit("–", column.width, is_right=not column.is_text)
    if column.decimals is None or not math.isfinite(value):
        return fit(format_value(value), column.width, is_right=True)
    said = f"{value:,.{column.decimals}f}"
    return fit(said if len(said) <= column.width else format_value(value), column.width, is_right=True)


def sort_key(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then texts, then what is not known, NaN included."""
    if isinstance(value, str):
        return (1, 0.0, value) if value else (2, 0.0, "")
    if value is None or math.isnan(value):
        return 2, 0.0, ""
    return 0, value, ""


class RankTable(DataTable[Text]):
    """One row a rank; `update_ranks` changes only the cells that changed, and keeps the cursor on its rank."""

    DEFAULT_CSS = """
    RankTable {
        height: 1fr;
        background: $surface;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
        & > .datatable--cursor {
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: $block-cursor-text-style;
        }
        &:focus { background-tint: transparent; & > .datatable--header { background-tint: transparent; } }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("greater_than_sign", "sort_next(1)", "Sort by next column", show=False, id="ranks.sort-next"),
        Binding("less_than_sign", "sort_next(-1)", "Sort by previous column", show=False, id="ranks.sort-previous"),
        Binding("o", "reverse", "Reverse order", show=False, id="ranks.reverse"),
    ]

    class RankChosen(Message):
        """The user chose a rank."""

        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank = rank

    def __init__(
        self, columns: Sequence[RankColumn] = RANK_COLUMNS, *, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(id=id, classes=classes, cursor_type="row", zebra_stripes=False)
        self._rank_columns = tuple(columns)
        self._values: dict[int, Mapping[str, Value]] = {}
        self._shown: dict[int, list[str]] = {}
        self._filter = ""
        self.sort_column = self._rank_columns[0].key
        self.is_reversed = False
        for column in self._rank_columns:
            self.add_column(self._heading(column), width=column.width, key=column.key)

    def watch_has_focus(self, has_focus: bool) -> None:
        """It looks the same with the keys and without: all styles need not be looked up again."""
        self.refresh()

    @property
    def ranks(self) -> list[int]:
        """The ranks that are shown, from the top."""
        return [int(row.key.value or 0) for row in self.ordered_rows]

    def update_ranks(self, values: Mapping[int, Mapping[str, Value]]) -> None:
        """Show these values of these ranks, and no other ranks."""
        self._values = dict(values)
        self._show()

    def set_filter(self, text: str) -> None:
        """Show only ranks that have all words of `text` in one of their cells, in any case."""
        self._filter = text
        self._show()

    def sort_by(self, key: str, *, is_reversed: bool | None = None) -> None:
        """Sort by this column; again by the same one turns the order round."""
        if is_reversed is None:
            is_reversed = not self.is_reversed if key == self.sort_column else False
        self.sort_column, self.is_reversed = key, is_reversed
        for column in self._rank_columns:
            self.columns[ColumnKey(column.key)].label = self._heading(column)
        self._update_count += 1  # what headings look like is kept by this count
        self._show()
        self.refresh()

    def action_sort_next(self, direction: int) -> None:
        """Sort by the column beside."""
        keys = [column.key for column in self._rank_columns]
        self.sort_by(keys[(keys.index(self.sort_column) + direction) % len(keys)], is_reversed=False)

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.sort_by(self.sort_column, is_reversed=not self.is_reversed)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a heading sorts."""
        event.stop()
        self.sort_by(str(event.column_key.value))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Say which rank."""
        event.stop()
        self.post_message(self.RankChosen(int(event.row_key.value or 0)))

    def _heading(self, column: RankColumn) -> Text:
        mark = (_DOWN if self.is_reversed else _UP) if column.key == self.sort_column else ""
        return Text(fit(one_line(column.heading) + mark, column.width, is_right=not column.is_text), end="")

    def _wanted(self) -> dict[int, list[str]]:
        """The texts of the ranks that pass the filter."""
        words = one_line(self._filter).lower().split()
        wanted = {}
        for rank, values in self._values.items():
            texts = [cell_text(self._value(rank, values, column), column) for column in self._rank_columns]
            searched = " ".join([*texts, *(value for value in values.values() if isinstance(value, str))]).lower()
            if all(word in searched for word in words):
                wanted[rank] = texts
        return wanted

    @staticmethod
    def _value(rank: int, values: Mapping[str, Value], column: RankColumn) -> Value:
        return rank if column.key == "rank" else values.get(column.key)

    def _show(self) -> None:
        wanted = self._wanted()
        under = self.ranks[self.cursor_row] if 0 <= self.cursor_row < self.row_count else None
        for rank in [rank for rank in self._shown if rank not in wanted]:
            self.remove_row(str(rank))
            del self._shown[rank]
        for rank, texts in wanted.items():
            if rank not in self._shown:
                self.add_row(*(Text(text, end="") for text in texts), key=str(rank))
                self._shown[rank] = texts
                continue
            for column, old, new in zip(self._rank_columns, self._shown[rank], texts, strict=True):
                if old != new:
                    self.update_cell(str(rank), column.key, Text(new, end=""))
            self._shown[rank] = texts
        self._sort_rows()
        if under is not None and under in self._shown:
            self.move_cursor(row=self.ranks.index(under), animate=False)

    def _sort_rows(self) -> None:
        column = next(column for column in self._rank_columns if column.key == self.sort_column)
        keys = {rank: sort_key(self._value(rank, self._values[rank], column)) for rank in self._shown}
        known = sorted((rank for rank in keys if keys[rank][0] < 2), key=lambda rank: (keys[rank], rank))
        if self.is_reversed:
            known.reverse()
        order = [*known, *sorted(rank for rank in keys if keys[rank][0] == 2)]  # what is not known comes last
        if order == self.ranks:
            return
        places = {self._shown[rank][0]: place for place, rank in enumerate(order)}
        self.sort(self._rank_columns[0].key, key=lambda cell: places.get(cell.plain, 0))

    def _render_cell(
        self,
        row_index: int,
        column_index: int,
        base_style: Style,
        width: int,
        cursor: bool = False,
        hover: bool = False,
    ) -> list[list[Segment]]:
        """One row of text in its place: each change of a cell draws all cells anew, the general way in 30 ms."""
        if row_index < 0:
            return super()._render_cell(row_index, column_index, base_style, width, cursor, hover)
        look = base_style
        if hover and self.show_cursor and self._show_hover_cursor:
            look += self.get_component_rich_style("datatable--hover")
        if cursor and self.show_cursor:
            look += self.get_component_rich_style("datatable--cursor")
        place = Style.from_meta({"row": row_index, "column": column_index})  # which a click is looked up by
        rank = int(self.ordered_rows[row_index].key.value or 0)
        text = self._shown[rank][column_index]
        return [[Segment(f" {text} ", look + place)]]

    def rank_under_cursor(self) -> int | None:
        """The rank of the row with the cursor; None where there is no row."""
        return self.ranks[self.cursor_row] if self.is_valid_coordinate(Coordinate(self.cursor_row, 0)) else None
