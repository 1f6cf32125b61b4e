"""The table of ranks: in place, sorted, filtered, aligned."""

import math

import pytest
from rich.cells import cell_len
from tui_pictures import show, text_on

from xtuner.tui.widgets.rank_table import RANK_COLUMNS, RankColumn, RankTable, cell_text, sort_key


def values_of(num_ranks, **more):
    return {rank: {"step": 100, "time": 5.0, "data_time": 0.05, "tgs": 800.0, **more} for rank in range(num_ranks)}


def drive(steps, size=(100, 20)):
    async def begin(app, pilot):
        table = app.query_one(RankTable)
        table.update_ranks(values_of(4) | {2: {"step": 97, "data_time": 0.82, "reason": "rank 2: data_time 0.82 s"}})
        table.focus()
        await pilot.pause()
        await steps(table, pilot, app)

    show(RankTable, begin, size)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.1123, "   3.112"),
        (1234.5, "   1,234"),  # all three decimals have no room
        (math.nan, "     nan"),
        (None, "       –"),
        ("数据集数据集", " 数据集…"),
        (-0.5, "  -0.500"),
    ],
)
def test_cells_have_their_width(value, text):
    assert cell_text(value, RankColumn("x", "x", 8, 3)) == text and cell_len(text) == 8


def test_values_sort_before_texts_before_nothing():
    values = [None, "b", 2.0, math.nan, "a", -1.0, math.inf, ""]
    ordered = sorted(values, key=sort_key)
    assert ordered[:5] == [-1.0, 2.0, math.inf, "a", "b"]


def test_the_reason_begins_on_a_screen_of_80_cells():
    assert sum(column.width + 2 for column in RANK_COLUMNS[:-1]) <= 72 and RANK_COLUMNS[-1].key == "reason"

    async def steps(table, pilot, app):
        assert "rank 2:" in text_on(app)

    drive(steps, (80, 20))


def test_only_what_changed_is_written(monkeypatch):
    async def steps(table, pilot, app):
        written = []
        update = table.update_cell
        monkeypatch.setattr(table, "update_cell", lambda *a, **k: written.append(a[:2]) or update(*a, **k))
        monkeypatch.setattr(table, "add_row", None)
        monkeypatch.setattr(table, "clear", None)
        values = dict(table._values)
        values[1] = values[1] | {"step": 101}
        table.update_ranks(values)
        await pilot.pause()
        assert written == [("1", "step")] and " 101 " in text_on(app)

    drive(steps)


def test_ranks_come_and_go():
    async def steps(table, pilot, app):
        table.update_ranks(values_of(6))
        assert table.ranks == [0, 1, 2, 3, 4, 5]
        table.update_ranks({5: {}, 1: {}})
        assert table.ranks == [1, 5] and table.row_count == 2
        table.update_ranks({})
        await pilot.pause()
        assert table.ranks == [] and table.rank_under_cursor() is None

    drive(steps)


def test_sorts_by_any_column_both_ways_and_what_is_unknown_comes_last():
    async def steps(table, pilot, app):
        table.sort_by("data_time")
        await pilot.pause()
        assert table.ranks == [0, 1, 3, 2]
        table.sort_by("data_time")
        assert table.ranks == [2, 3, 1, 0]
        table.sort_by("time")
        assert table.ranks == [0, 1, 3, 2]
        table.sort_by("time")
        assert table.ranks == [3, 1, 0, 2]
        table.update_ranks(table._values | {3: {"time": 1.0}, 2: {"time": 9.0}})
        assert table.ranks == [2, 1, 0, 3]
        for column in RANK_COLUMNS:
            table.sort_by(column.key)

    drive(steps)


def test_the_sorted_column_is_marked():
    async def steps(table, pilot, app):
        table.sort_by("step", is_reversed=True)
        await pilot.pause()
        heading = text_on(app).splitlines()[0]
        assert "step ▼" in heading and "▲" not in heading

    drive(steps)


def test_keys_and_clicks_sort():
    async def steps(table, pilot, app):
        await pilot.press("greater_than_sign")
        assert table.sort_column == "step" and table.ranks[0] == 2
        await pilot.press("o")
        assert table.is_reversed and table.ranks[-1] == 2
        await pilot.press("less_than_sign", "less_than_sign")
        assert table.sort_column == "reason"
        await pilot.click(RankTable, offset=(6, 0))
        await pilot.pause()
        assert table.sort_column == "rank" and table.ranks == [0, 1, 2, 3]

    drive(steps)


def test_filter_takes_words_in_any_case():
    async def steps(table, pilot, app):
        table.set_filter("DATA_TIME 0.82")
        assert table.ranks == [2]
        table.set_filter("nothing like it")
        assert table.ranks == []
        table.set_filter("")
        assert table.ranks == [0, 1, 2, 3]

    drive(steps)


def test_the_cursor_stays_on_its_rank():
    async def steps(table, pilot, app):
        await pilot.press("down", "down")
        assert table.rank_under_cursor() == 2
        table.sort_by("data_time", is_reversed=True)
        assert table.ranks[0] == 2 and table.rank_under_cursor() == 2
        table.update_ranks({rank: values for rank, values in table._values.items() if rank != 0})
        assert table.rank_under_cursor() == 2

    drive(steps)


def test_a_rank_can_be_chosen():
    chosen = []

    class Listening(RankTable):
        def post_message(self, message):
            if isinstance(message, RankTable.RankChosen):
                chosen.append(message.rank)
            return super().post_message(message)

    async def steps(app, pilot):
        table = app.query_one(RankTable)
        table.update_ranks(values_of(3))
        table.focus()
        await pilot.press("down", "enter")
        await pilot.pause()
        assert chosen == [1]

    show(Listening, steps)
