"""Alerts, state, progress."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tui_pictures import show, text_on

from xtuner.tui.widgets.alert_list import AlertEntry, AlertList, lay_out_alert
from xtuner.tui.widgets.braille import ASCII
from xtuner.tui.widgets.picture import text_of
from xtuner.tui.widgets.progress_line import Progress, bar, draw_progress
from xtuner.tui.widgets.state_pill import StatePill, pill_text

STATES = ("starting", "running", "paused", "stalled", "stopped", "finished", "failed", "lost")
ENTRIES = [AlertEntry("error", f"alert {place}", "09:17", f"evidence {place}", f"advice {place}") for place in range(9)]


def test_states_have_marks_of_their_own_and_words():
    texts = [pill_text(state) for state in STATES]
    assert pill_text("running") == " ► RUNNING " and pill_text("failed", ASCII) == " x FAILED "
    assert len({text[1] for text in texts}) == len(STATES)
    assert all(state.upper() in text for state, text in zip(STATES, texts, strict=True))
    assert all(pill_text(state, ASCII).isascii() for state in STATES)
    assert pill_text("") == " ? UNKNOWN " and cell_len(pill_text("数" * 99)) <= 16


def test_the_pill_changes_its_look_with_the_state():
    async def steps(app, pilot):
        pill = app.query_one(StatePill)
        assert "STARTING" in text_on(app) and pill.has_class("-waiting")
        pill.state = "failed"
        await pilot.pause()
        assert "✗ FAILED" in text_on(app) and pill.has_class("-bad") and not pill.has_class("-waiting")

    show(StatePill, steps)


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "    "),
        (0.5, "██  "),
        (0.53125, "██▏ "),
        (1, "████"),
        (0.999, "███▉"),
        (math.nan, "    "),
        (7, "████"),
        (-1, "    "),
    ],
)
def test_bars(share, shown):
    assert bar(share, 4) == shown


def test_bars_in_ascii():
    assert (
        bar(0.5, 4, is_ascii=True) == "==>." and bar(1, 4, is_ascii=True) == "====" and bar(0, 2, is_ascii=True) == ".."
    )


def progress(width, **more):
    return text_of([draw_progress(Progress(1234, 5000, "ETA 3:41:07"), width, **more)])


def test_progress_gives_way_from_the_bar_on():
    assert progress(80).startswith("step 1,234/5,000 ▕█████▉") and progress(80).rstrip().endswith("24.6 %  ETA 3:41:07")
    assert progress(44).startswith("step 1,234/5,000 24.6 %  ETA 3:41:07")
    assert progress(24).strip() == "step 1,234/5,000 24.6 %"
    assert text_of([draw_progress(Progress(7), 30)]).strip() == "step 7"
    assert "100.0 %" not in text_of([draw_progress(Progress(99_999, 100_000), 40)])
    assert progress(60, is_ascii=True).isascii()


@given(st.integers(-5, 10**12), st.integers(-5, 10**12), st.integers(0, 90), st.booleans())
def test_progress_of_any_size(done, total, width, is_ascii):
    assert cell_len(text_of([draw_progress(Progress(done, total, "ETA 1:00"), width, is_ascii=is_ascii)])) == width


def test_an_alert_says_what_why_and_what_to_do():
    shown = text_of(lay_out_alert(ENTRIES[1], 40, is_here=True)).splitlines()
    assert [line.rstrip() for line in shown] == [">✗ ERROR 09:17 alert 1", "    evidence 1", "    -> advice 1"]
    assert len(lay_out_alert(AlertEntry("info", "x"), 40)) == 1
    marks = {text_of(lay_out_alert(AlertEntry(level, ""), 40))[1] for level in ("error", "warning", "info")}
    assert len(marks) == 3


def drive_alerts(steps):
    chosen = []

    class Listening(AlertList):
        def post_message(self, message):
            if isinstance(message, AlertList.Chosen):
                chosen.append(message.entry)
            return super().post_message(message)

    async def begin(app, pilot):
        alerts = app.query_one(AlertList)
        alerts.focus()
        await steps(alerts, pilot, app, chosen)

    show(Listening, begin, (50, 7))


def test_the_cursor_moves_through_alerts_and_is_always_seen():
    async def steps(alerts, pilot, app, chosen):
        assert text_on(app).strip() == "no alerts"
        alerts.set_entries(ENTRIES)
        for place in range(1, 9):
            await pilot.press("down")
            await pilot.pause()
            assert alerts.cursor == place and f">✗ ERROR 09:17 alert {place}" in text_on(app)
            assert f"advice {place}" in text_on(app)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert chosen == [ENTRIES[8]]
        for _ in range(9):
            await pilot.press("up")
        await pilot.pause()
        assert alerts.cursor == 0 and ">✗ ERROR 09:17 alert 0" in text_on(app)

    drive_alerts(steps)


def test_the_cursor_stays_on_its_alert():
    async def steps(alerts, pilot, app, chosen):
        alerts.set_entries(ENTRIES[1:3])
        await pilot.press("down")
        alerts.set_entries(ENTRIES[:4])
        assert alerts.entries[alerts.cursor] == ENTRIES[2]
        alerts.set_entries([])
        assert alerts.cursor == 0
        await pilot.press("down", "up", "enter")
        assert chosen == []

    drive_alerts(steps)


def test_a_click_chooses():
    async def steps(alerts, pilot, app, chosen):
        alerts.set_entries(ENTRIES)
        await pilot.pause()
        await pilot.click(AlertList, offset=(10, 4))
        await pilot.pause()
        assert chosen == [ENTRIES[1]] and alerts.cursor == 1

    drive_alerts(steps)
