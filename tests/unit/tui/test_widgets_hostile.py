"""Hostile strings through every widget that shows text: no control reaches the terminal, no column moves."""

import pytest
from hostile import CONTROLS, STRINGS, WIDTHLESS
from list_series import ListSeries
from rich.cells import cell_len
from textual.containers import Vertical
from tui_pictures import show, strips_of

from xtuner.tui.widgets.alert_list import AlertEntry, AlertList
from xtuner.tui.widgets.card import Card, Reading
from xtuner.tui.widgets.chart import LineChart
from xtuner.tui.widgets.heatmap import Heat, HeatMap
from xtuner.tui.widgets.log_view import LogView
from xtuner.tui.widgets.plot import Curve, Marker
from xtuner.tui.widgets.progress_line import Progress, ProgressLine
from xtuner.tui.widgets.rank_table import RankColumn, RankTable
from xtuner.tui.widgets.state_pill import StatePill

SIZE = (60, 14)
REASON = RankColumn("reason", "r", 30, is_text=True)


def assert_sane(app, text):
    strips = strips_of(app)
    for strip in strips:
        shown = strip.text
        assert not (CONTROLS | WIDTHLESS) & set(shown), (ascii(text), ascii(shown))
        assert sum(map(cell_len, shown)) == SIZE[0], (ascii(text), ascii(shown))
        assert not any(segment.style and (segment.style.link or segment.style.meta.get("@click")) for segment in strip)


def set_chart(widget, texts):
    widget.title, widget.unit, first, second, marker = texts
    widget.set_curves([Curve(first, ListSeries([1, 2])), Curve(second, ListSeries([2, 1]))])
    widget.set_markers([Marker(1, marker)])


def set_axes(widget, texts):
    widget.title, widget._x_name, label = texts
    widget._format_x = lambda x: label
    widget.redraw()


def set_card(widget, texts):
    widget.title, value, change, detail = texts
    widget.reading = Reading(value, change, "bad", detail)


def set_heat(widget, texts):
    title, unit, *labels = texts
    widget.heat = Heat(title, labels, [[1.0, 2.0]] * len(labels), unit)
    widget.picked = 0


def set_ranks(widget, texts):
    half = len(texts) // 2
    widget.update_ranks({rank: {"step": texts[rank], "reason": texts[rank + half]} for rank in range(half)})
    widget.set_filter(texts[0][:3])
    widget.set_filter("")


def set_alerts(widget, texts):
    first, when, evidence, advice, *others = texts
    entries = [AlertEntry("error", first, when, evidence, advice), *(AlertEntry("warning", text) for text in others)]
    widget.set_entries(entries)


class Lines:
    """Each text is a line, and the reason why the line after it cannot be read."""

    def __init__(self, texts):
        self.texts = texts

    def bounds(self):
        return 0, 2 * len(self.texts)

    def read(self, number):
        if number % 2:
            raise OSError(self.texts[number // 2])
        return self.texts[number // 2]


def set_log(widget, texts):
    widget.set_source(Lines(texts))
    widget.jump_to(0)


def set_progress(widget, texts):
    widget.progress = Progress(1, 3, *texts)


def set_state(widget, texts):
    for pill, text in zip(widget.children, texts, strict=True):
        pill.state = text


# The widget, what shows texts in it, and how many it shows at once.
WIDGETS = {
    "chart": (lambda: LineChart("x"), set_chart, 5),
    "axes": (lambda: LineChart("x", [Curve("", ListSeries([1, 2]))], best="low"), set_axes, 3),
    "card": (lambda: Card("x", ListSeries([1, 2])), set_card, 4),
    "heat": (HeatMap, set_heat, 12),
    "ranks": (lambda: RankTable((RankColumn("rank", "rank", 6), RankColumn("step", "s", 9), REASON)), set_ranks, 20),
    "alerts": (AlertList, set_alerts, 10),
    "log": (LogView, set_log, 6),
    "pill": (lambda: Vertical(*(StatePill() for _ in range(10))), set_state, 10),
    "progress": (ProgressLine, set_progress, 2),
}


@pytest.mark.parametrize("name", WIDGETS)
def test_300_hostile_strings(name):
    make, set_texts, num_at_once = WIDGETS[name]
    assert 300 % num_at_once == 0

    async def steps(app, pilot):
        [widget] = app.screen.children
        for place in range(0, 300, num_at_once):
            texts = STRINGS[place : place + num_at_once]
            set_texts(widget, texts)
            await pilot.pause()
            assert_sane(app, texts)

    show(make, steps, SIZE)


def test_the_check_sees_what_it_is_for():
    from textual.content import Content
    from textual.widgets import Static

    async def steps(app, pilot):
        with pytest.raises(AssertionError):
            assert_sane(app, "")

    show(lambda: Static(Content("a\u202eb")), steps, SIZE)
