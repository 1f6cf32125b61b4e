"""The chart on a screen: keys, mouse, caching, sizes, no colours."""

import math

import pytest
from list_series import ListSeries
from tui_pictures import SIZES, samples, show, strips_of, text_on

from xtuner.tui.widgets import chart as chart_module
from xtuner.tui.widgets.chart import LineChart
from xtuner.tui.widgets.plot import Curve


class Said(LineChart):
    """A chart that remembers what it said."""

    def __init__(self, *values, **more):
        curves = [Curve(f"run{place}", ListSeries(each)) for place, each in enumerate(values)]
        super().__init__("loss", curves, **more)
        self.said = []

    def post_message(self, message):
        if isinstance(message, LineChart.CursorMoved):
            self.said.append(("cursor", message.x))
        elif isinstance(message, LineChart.ViewChanged):
            self.said.append(("view", message.view))
        return super().post_message(message)


def drive(steps, *values, size=(80, 24), **more):
    async def begin(app, pilot):
        chart = app.query_one(Said)
        chart.focus()
        await pilot.pause()
        await steps(chart, pilot, app)

    show(lambda: Said(*values, **more), begin, size)


RAMP = [float(place) for place in range(101)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(samples()))
def test_every_widget_in_every_size(name, size):
    async def steps(app, pilot):
        assert [strip.cell_length for strip in strips_of(app)] == [size[0]] * size[1]
        if size == SIZES[0]:
            assert text_on(app).strip()
        for other in (SIZES[-1], SIZES[1], size):
            await pilot.resize_terminal(*other)
            await pilot.pause()
        assert [strip.cell_length for strip in strips_of(app)] == [size[0]] * size[1]

    show(samples()[name], steps, size)


def test_the_cursor_moves_and_others_hear_of_it():
    async def steps(chart, pilot, app):
        await pilot.press("left")
        assert chart.cursor_x == 100 and chart.said[-1] == ("cursor", 100)
        await pilot.press("left", "left")
        cell = (chart.shown_view()[1] - chart.shown_view()[0]) / 60
        assert chart.cursor_x == pytest.approx(100 - 2 * cell)
        assert "step 96" in text_on(app) and " 96" in text_on(app).splitlines()[0]
        await pilot.press("right", "right", "right", "right", "right")
        assert chart.cursor_x == chart.shown_view()[1]
        await pilot.press("escape")
        assert chart.cursor_x is None and chart.said[-1] == ("cursor", None)

    drive(steps, RAMP)


def test_a_cursor_set_from_outside_is_shown_and_not_said():
    async def steps(chart, pilot, app):
        chart.cursor_x = 50.0
        await pilot.pause()
        assert "step 50" in text_on(app) and chart.said == []

    drive(steps, RAMP)


def test_zoom_pan_and_follow():
    async def steps(chart, pilot, app):
        assert chart.view is None and chart.shown_view() == (0, 100)
        await pilot.press("plus")
        assert chart.view == pytest.approx((100 / 3, 100)) and chart.said[-1] == ("view", chart.view)
        await pilot.press("shift+left")
        assert chart.view == pytest.approx((20, 20 + 200 / 3))
        for _ in range(9):
            await pilot.press("shift+left")
        assert chart.view == pytest.approx((0, 200 / 3))
        for _ in range(9):
            await pilot.press("shift+right")
        assert chart.view == pytest.approx((100 / 3, 100))
        await pilot.press("minus")
        assert chart.view is None and chart.said[-1] == ("view", None)
        await pilot.press("plus", "plus", "0")
        assert chart.view is None

    drive(steps, RAMP)


def test_zoom_keeps_the_cursor_in_its_place_and_has_an_end():
    async def steps(chart, pilot, app):
        chart.cursor_x = 25.0
        await pilot.press("plus")
        begin, end = chart.view
        assert (25 - begin) / (end - begin) == pytest.approx(0.25)
        for _ in range(60):
            await pilot.press("plus")
        begin, end = chart.view
        assert end - begin == pytest.approx(100e-6) and begin <= 25 <= end

    drive(steps, RAMP)


def test_the_window_follows_the_newest_sample():
    async def steps(chart, pilot, app):
        chart.window = 10.0
        assert chart.shown_view() == (90, 100)
        series = chart._curves[0].line
        series.x.append(101)
        series.y.append(101.0)
        chart.redraw()
        assert chart.shown_view()[1] >= 101 and chart.shown_view()[1] - chart.shown_view()[0] == 10

    drive(steps, RAMP)


def test_log_scale_is_a_key():
    async def steps(chart, pilot, app):
        await pilot.press("y")
        await pilot.pause()
        assert chart.is_log and "loss log" in text_on(app)

    drive(steps, RAMP)


def test_the_mouse_puts_the_cursor_and_zooms():
    async def steps(chart, pilot, app):
        await pilot.click(Said, offset=(10 + 30, 5))
        assert chart.cursor_x == pytest.approx(100 * 30.5 / 60)
        await pilot.click(Said, offset=(0, 5))
        assert chart.cursor_x == pytest.approx(0)

    drive(steps, RAMP)


def test_it_draws_only_when_something_changed(monkeypatch):
    drawn = []
    monkeypatch.setattr(chart_module, "draw_plot", lambda *a, draw=chart_module.draw_plot: drawn.append(1) or draw(*a))

    async def steps(chart, pilot, app):
        num_drawn = len(drawn)
        assert num_drawn
        for _ in range(3):
            chart.refresh()
            await pilot.pause()
        assert len(drawn) == num_drawn
        chart.redraw()
        chart.redraw()
        await pilot.pause()
        assert len(drawn) == num_drawn + 1
        await pilot.resize_terminal(60, 20)
        await pilot.pause()
        assert len(drawn) > num_drawn + 1

    drive(steps, RAMP)


def test_the_best_is_sought_again_only_when_it_is_no_longer_the_best(monkeypatch):
    sought = []
    find = chart_module.find_extreme
    monkeypatch.setattr(chart_module, "find_extreme", lambda *a, **k: sought.append(1) or find(*a, **k))

    async def steps(chart, pilot, app):
        series = chart._curves[0].line
        assert "best 1 @ 2" in text_on(app) and len(sought) == 1
        for value, best in ((3.0, "best 1 @ 2"), (0.5, "best 0.5 @ 4")):
            series.x.append(len(series.x))
            series.y.append(value)
            chart.redraw()
            await pilot.pause()
            assert best in text_on(app)
        assert len(sought) == 2

    drive(steps, [3.0, 2.0, 1.0], best="low")


@pytest.mark.parametrize("values", [[], [[]], [[1.0]], [[math.nan]], [[math.inf, -math.inf]], [[1e308, -1e308]]])
def test_keys_on_what_has_hardly_any_values(values):
    async def steps(chart, pilot, app):
        for key in ("left", "plus", "y", "shift+left", "minus", "shift+right", "right", "0", "escape", "y"):
            await pilot.press(key)
        assert len(strips_of(app)) == 24

    drive(steps, *values, best="low")


def test_without_colours_a_line_is_brighter_than_its_envelope(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(app, pilot):
        greys = {True: set(), False: set()}  # by whether the text is bold
        for strip in strips_of(app):
            for segment in strip:
                if any("\u2800" < character <= "\u28ff" for character in segment.text):
                    red, green, blue = segment.style.color.triplet
                    assert red == green == blue
                    greys[bool(segment.style.bold)].add(red)
        assert greys[False] and min(greys[True]) > max(greys[False]) + 20

    show(samples()["chart"], steps)


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
@pytest.mark.parametrize("name", sorted(samples()))
def test_a_terminal_of_16_colours_gets_no_other(name, theme):
    async def steps(app, pilot):
        own = [segment for strip in strips_of(app) for segment in strip if segment.style and segment.text.strip()]
        assert own
        for segment in own:
            for colour in (segment.style.color, segment.style.bgcolor):
                assert colour is None or colour.triplet is None, (segment.text, colour)

    show(samples()[name], steps, (80, 20), theme)


def test_a_chart_that_loses_the_keys_and_gets_them_again_is_not_drawn_again(monkeypatch):
    drawn = []
    draw_plot = chart_module.draw_plot

    def count(plot, *place):
        drawn.append(plot.is_here)
        return draw_plot(plot, *place)

    monkeypatch.setattr(chart_module, "draw_plot", count)

    async def steps(chart, pilot, app):
        texts = []
        for focused in (None, chart, None, chart):
            app.screen.set_focus(focused)
            await pilot.pause()
            texts.append(text_on(app))
        assert sorted(drawn) == [False, True] and texts[:2] == texts[2:]
        chart.set_title("another")
        await pilot.pause()
        assert "another" in text_on(app) and drawn[2:] == [True]
        app.theme = "textual-light"
        await pilot.pause()
        assert drawn[3:] == [True]
        await pilot.resize_terminal(60, 24)
        await pilot.pause()
        assert drawn[4:] == [True]

    drive(steps, RAMP)
