"""Every key of the dashboard, at the smallest and the largest size."""

import re
import shutil
from types import SimpleNamespace

import pytest
from monitor_runs import RunWriter, healthy_run
from monitor_screen import SIZES, drive
from textual.widgets import Input

from xtuner.tui.monitor import help_page
from xtuner.tui.monitor.page_screen import PageScreen
from xtuner.tui.monitor.run_picker import RunPicker
from xtuner.tui.widgets.alert_list import AlertList
from xtuner.tui.widgets.key_line import KeyLine

at_each_size = pytest.mark.parametrize("size", [SIZES[0], SIZES[-1]], ids=str)


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))


@pytest.fixture
def work_dir(tmp_path):
    healthy_run(tmp_path, num_ranks=3)
    return tmp_path


def charts(screen):
    return screen.app._panes["overview"]._charts


def shown_charts(screen):
    return [chart.id for chart in charts(screen) if chart.display]


@at_each_size
def test_the_header_and_the_tabs(work_dir, size):
    async def steps(screen):
        assert "RUNNING" in screen.header and "step 300/1,000" in screen.header and "30.0 %" in screen.header
        assert "ETA 0:58:" in screen.header
        assert "model Qwen3-0.6B" in screen.lines[1] and "attempt 1" in screen.lines[1]
        names = {"1": "overview", "2": "ranks", "3": "logs", "4": "alerts", "5": "run"}
        for key in "23451":
            await screen.press(key)
            assert screen.tab == names[key] and f"[{key} " in screen.lines[2]
            assert screen.app.focused is not None and screen.pane in screen.app.focused.ancestors_with_self

    drive(steps, work_dir, size)


@at_each_size
def test_tabs_can_be_clicked(work_dir, size):
    async def steps(screen):
        await screen.pilot.click("TabLine", offset=(screen.lines[2].index("3 Logs"), 0))
        await screen.settle()
        assert screen.tab == "logs"
        await screen.pilot.click("NoticeLine")
        await screen.settle()
        assert screen.tab == "alerts"

    drive(steps, work_dir, size)


@at_each_size
def test_cards_and_charts(work_dir, size):
    async def steps(screen):
        num_shown = {80: 1, 200: 7}[size[0]]
        assert shown_charts(screen) == ["loss", "memory", "throughput", "grad-norm", "lr", "time", "key-6"][:num_shown]
        text = screen.text
        for title in ("loss", "lr", "tokens", "step", "data", "memory", "grad", "ranks"):
            assert title in text
        assert "3/3" in text and "best" in text and "E" in text and "15.9/80 G" in text
        assert "peak 15.9" in text or size[0] < 200

    drive(steps, work_dir, size)


@at_each_size
def test_arrows_go_from_chart_to_chart_and_enter_enlarges(work_dir, size):
    async def steps(screen):
        await screen.press("down")
        assert screen.app.focused.id == "memory" and "memory" in shown_charts(screen)
        await screen.press("up", "up")
        assert screen.app.focused is charts(screen)[-1]
        await screen.press("down")
        assert screen.app.focused.id == "loss"
        before = shown_charts(screen)
        await screen.press("enter")
        assert shown_charts(screen) == ["loss"]
        await screen.press("down")
        assert shown_charts(screen) == ["memory"] and screen.app.focused.id == "memory"
        await screen.press("enter", "up")
        assert shown_charts(screen) == before

    drive(steps, work_dir, size)


@at_each_size
def test_smoothing_and_its_curves(work_dir, size):
    async def steps(screen):
        overview = screen.pane
        loss = charts(screen)[0]
        smooth = loss._curves[0]
        assert smooth.envelope is not None and overview.choice.weight == 0.9
        await screen.press("s")
        assert overview.choice.weight == 0.97 and "smoothing 0.97" in screen.text
        await screen.press("s", "s", "s")
        assert overview.choice.weight == 0.99
        await screen.press(*"SSSS")
        assert overview.choice.weight == 0 and "no smoothing" in screen.text
        assert loss._curves[0].envelope is None
        await screen.press("S")
        assert overview.choice.weight == 0

    drive(steps, work_dir, size)


@at_each_size
def test_cursor_zoom_and_pan_are_those_of_all_charts(work_dir, size):
    async def steps(screen):
        everyone = charts(screen)
        await screen.press("left")
        assert {chart.cursor_x for chart in everyone} == {300.0}
        await screen.press("left", "left", "right")
        (x,) = {chart.cursor_x for chart in everyone}
        assert 290 < x < 300 and f"step {round(x):,}"[:6] in screen.text
        await screen.press("escape")
        assert {chart.cursor_x for chart in everyone} == {None}
        await screen.press("plus")
        (view,) = {chart.view for chart in everyone}
        assert view is not None and view[0] > 50
        await screen.press("shift+left")
        assert everyone[1].view[0] < view[0]
        await screen.press("shift+right")
        assert everyone[1].view == pytest.approx(view)
        await screen.press("minus", "minus")
        assert {chart.view for chart in everyone} == {None}
        await screen.press("plus", "0")
        assert {chart.view for chart in everyone} == {None}

    drive(steps, work_dir, size)


@at_each_size
def test_log_scale_of_one_and_of_all(work_dir, size):
    async def steps(screen):
        await screen.press("y")
        assert [chart.is_log for chart in charts(screen)] == [True] + [False] * (len(charts(screen)) - 1)
        assert "log" in screen.text
        await screen.press("Y")
        assert all(chart.is_log for chart in charts(screen))
        await screen.press("Y")
        assert not any(chart.is_log for chart in charts(screen))

    drive(steps, work_dir, size)


@at_each_size
def test_window_band_and_single_ranks(work_dir, size):
    async def steps(screen):
        everyone = charts(screen)
        await screen.press("w")
        assert {chart.window for chart in everyone} == {1000.0}
        await screen.press("w")
        assert {chart.window for chart in everyone} == {200.0} and "the newest 200 steps" in screen.text
        await screen.press("w")
        assert {chart.window for chart in everyone} == {None}
        await screen.press("down", "down")  # throughput
        throughput = screen.app.focused
        assert throughput._curves[0].band is not None
        await screen.press("b")
        assert screen.pane.choice.rank == 0 and throughput._curves[0].band is None
        assert "rank 0 alone" in screen.text
        await screen.press("right_square_bracket")
        assert screen.pane.choice.rank == 1
        await screen.press("left_square_bracket", "left_square_bracket")
        assert screen.pane.choice.rank is None and throughput._curves[0].band is not None
        await screen.press("left_square_bracket")
        assert screen.pane.choice.rank == 2
        await screen.press("b")
        assert screen.pane.choice.rank is None

    drive(steps, work_dir, size)


@at_each_size
def test_pause_freezes_the_view_and_reading_goes_on(tmp_path, size):
    writer = healthy_run(tmp_path)

    async def steps(screen):
        await screen.press("space")
        assert "PAUSED" in screen.header
        before = screen.text
        writer.add_steps(5)
        await screen.until(lambda: screen.app._show_frame(0) or screen.app.session.store.step == 305)
        assert screen.text == before
        await screen.press("left")
        assert "step 305" not in screen.header
        await screen.press("space")
        assert "PAUSED" not in screen.header and "step 305/" in screen.header

    drive(steps, tmp_path, size)


@at_each_size
def test_the_table_of_ranks(work_dir, size):
    async def steps(screen):
        await screen.press("2")
        table = screen.pane._table
        assert table.ranks == [0, 1, 2] and "300" in screen.text
        await screen.press("greater_than_sign")
        assert table.sort_column == "step"
        await screen.press("less_than_sign", "o")
        assert table.sort_column == "rank" and table.ranks == [2, 1, 0]
        await screen.press("slash", *"300 nobody", "enter")
        assert table.ranks == []
        await screen.press("escape")
        assert table.ranks == [2, 1, 0]
        await screen.press("home", "down")
        assert table.rank_under_cursor() == 1
        await screen.press("enter")
        assert screen.tab == "overview" and screen.pane.choice.rank == 1

    drive(steps, work_dir, size)


@at_each_size
def test_the_heat_map(work_dir, size):
    async def steps(screen):
        await screen.press("2")
        pane = screen.pane
        assert pane._heat.display == (size[1] >= 30)
        await screen.press("h")
        assert pane._heat.display and not pane._table.display and "data time" in screen.text and "rank 2" in screen.text
        await screen.press("t")
        assert "step time" in screen.text
        await screen.press("h")
        assert pane._table.display and screen.app.focused is pane._table

    drive(steps, work_dir, size)


@at_each_size
def test_following_and_scrolling_a_log(tmp_path, size):
    writer = healthy_run(tmp_path)

    async def steps(screen):
        await screen.press("3")
        view = screen.pane._view
        await screen.until_shown("Step 300/1000")
        assert view.is_following and "all ranks" in screen.text
        await screen.press("up")
        assert not view.is_following
        writer.add_steps(2)
        await screen.until_shown("+4 lines")
        await screen.press("f")
        assert view.is_following and "Step 302/1000" in screen.text
        await screen.press("pageup", "pageup", "pagedown")
        while "Step 1/1000" not in screen.text:  # the first line that was counted yet: of a long log more comes above
            await screen.press("home")
        await screen.press("down", "end")
        assert view.is_following

    drive(steps, tmp_path, size)


@at_each_size
def test_levels_and_warnings_of_a_log(work_dir, size):
    async def steps(screen):
        await screen.press("3")
        await screen.until_shown("Step 300/1000")
        view = screen.pane._view
        await screen.press("w")
        await screen.until_shown("gradient norm is high")
        assert view.target is not None and not view.is_following
        await screen.press("w")
        await screen.until_shown("nothing below")
        await screen.press("W")
        await screen.until_shown("nothing above")
        await screen.press("escape", "f", "l")
        await screen.until(lambda: screen.frame() or view.num_lines == 1)
        assert "gradient norm is high" in screen.text and "Step 300/" not in "\n".join(screen.lines[4:])
        await screen.press("l")
        await screen.until(lambda: screen.frame() or view.num_lines == 0)
        assert "no lines" in screen.text
        await screen.press("l")
        await screen.until_shown("Step 300/1000")

    drive(steps, work_dir, size)


@at_each_size
def test_filter_and_search_of_a_log(work_dir, size):
    async def steps(screen):
        await screen.press("3")
        await screen.until_shown("Step 300/1000")
        view, field = screen.pane._view, screen.pane.query_one(Input)
        await screen.press("ampersand", *"Step 2.4/")
        assert field.value == "Step 2.4/"
        await screen.until(lambda: screen.frame() or view.num_lines == 30)
        await screen.press("enter")
        assert "with /Step 2.4//" in screen.text and "Step 294/" in screen.text
        await screen.press("slash", *"step 24", "enter")
        await screen.until(lambda: screen.frame() or view.target is not None)
        assert "Step 244/" in view._source.read(view.target)
        first = view.target
        await screen.press("N")
        await screen.until(lambda: screen.frame() or view.target != first)
        await screen.press("n")
        await screen.until(lambda: screen.frame() or view.target == first)
        await screen.press("ampersand", "ctrl+u", "left_parenthesis")
        assert "no regular expression" in screen.text
        await screen.press("escape")
        await screen.until(lambda: screen.frame() or view.num_lines == 30)
        await screen.press("escape")
        await screen.until(lambda: screen.frame() or view.num_lines > 200)
        assert screen.app.focused is view

    drive(steps, work_dir, size)


@at_each_size
def test_the_log_of_one_rank(work_dir, size):
    async def steps(screen):
        await screen.press("3", "right_square_bracket")
        await screen.until_shown("rank 0")
        await screen.press("left_square_bracket", "left_square_bracket")
        await screen.until_shown("rank 2")
        assert "[RANK 1]" not in screen.text
        await screen.press("number_sign", "1", "enter")
        await screen.until_shown("[RANK 1]")
        assert "[RANK 2]" not in screen.text
        await screen.press("number_sign", *"77", "enter")
        assert "there is no rank 77" in screen.text
        await screen.press("number_sign", "enter")
        await screen.until_shown("[RANK 2]")

    drive(steps, work_dir, size)


def test_a_line_is_copied_without_what_terminals_act_on(tmp_path):
    writer = RunWriter(tmp_path)
    writer.say("\x1b]52;c;aGk=\x07 here")

    async def steps(screen):
        copied = []
        screen.app.copy_to_clipboard = copied.append
        await screen.press("3")
        await screen.until_shown("here")
        await screen.press("c")
        assert "copied" in screen.text
        (text,) = copied
        assert text.endswith("\\x1b]52;c;aGk=\\x07 here") and text.isprintable()

    drive(steps, tmp_path)


@at_each_size
def test_alerts_and_their_page(tmp_path, size):
    writer = healthy_run(tmp_path)
    writer.add_steps(1, lambda rank, step: {"reduced_llm_loss": float("nan")})

    async def steps(screen):
        await screen.until_shown("Alerts (1)")
        assert "reduced_llm_loss of rank 0 is nan in step 301" in screen.lines[-2]
        await screen.press("4")
        assert "✗ ERROR" in screen.text and "-> stop the run" in screen.text
        await screen.press("up", "down", "enter")
        assert isinstance(screen.app.screen, PageScreen) and "since" in screen.text
        assert "float32" in screen.text
        await screen.press("escape")
        assert isinstance(screen.app.focused, AlertList)

    drive(steps, tmp_path, size)


@at_each_size
def test_the_run_tab(work_dir, size):
    async def steps(screen):
        await screen.press("5")
        await screen.until_shown("torchrun sft.py --lr 6e-5")
        await screen.press("end")
        assert "fsdp_config.cpu_offload" in screen.text
        await screen.press("up", "pageup", "pagedown", "down", "home")
        assert "models/Qwen3-0.6B" in screen.text
        assert "hf-100" in screen.text or size[1] < 30

    drive(steps, work_dir, size)


@at_each_size
def test_help_lists_every_key(work_dir, size):
    async def steps(screen):
        await screen.press("question_mark")
        assert isinstance(screen.app.screen, PageScreen) and "everywhere" in screen.text
        await screen.press("end", "home", "pagedown", "up", "2")
        assert screen.tab == "overview", "what lies below hears no digits"
        await screen.press("q")
        assert not isinstance(screen.app.screen, PageScreen) and screen.app.is_running
        await screen.press("question_mark", "question_mark")
        assert len(screen.app.screen_stack) == 1 and screen.app.focused is not None

    drive(steps, work_dir, size)


def test_a_click_on_a_key_is_as_good_as_the_key(work_dir):
    async def steps(screen):
        await screen.pilot.click(KeyLine, offset=(screen.lines[-1].index("? Help"), 0))
        assert isinstance(screen.app.screen, PageScreen)

    drive(steps, work_dir)


def test_no_key_is_missing_on_the_help_page():
    from xtuner.tui.monitor.actions import ACTIONS

    rows = [row for keys in help_page.KEYS.values() for row in keys]
    listed = [name for row in rows for name in [*row.actions.split(), *re.findall(r"<([\w.-]+)>", row.about)]]
    assert set(listed) == set(ACTIONS)


@at_each_size
def test_another_run_is_picked(tmp_path, size):
    older = RunWriter(tmp_path)
    older.run.path.rename(tmp_path / "20240101-000000-0000")
    healthy_run(tmp_path)

    async def steps(screen):
        assert "step 300/" in screen.header
        await screen.press("r")
        assert isinstance(screen.app.screen, RunPicker) and "20240101-000000-0000" in screen.text
        await screen.press("escape")
        assert "step 300/" in screen.header
        await screen.press("r", "down", "enter")
        await screen.until_shown("20240101-000000-0000"[-12:])
        assert "step 0/1,000" in screen.header and screen.app.focused.id == "loss"
        await screen.press("r", "r", "r", "q")
        assert len(screen.app.screen_stack) == 1 and screen.app.is_running

    drive(steps, tmp_path, size)


@at_each_size
def test_another_run_is_compared(tmp_path, size):
    older = healthy_run(tmp_path, num_steps=200)
    older.run.path.rename(tmp_path / "20240101-000000-0000")
    newer = healthy_run(tmp_path, num_steps=100)

    async def steps(screen):
        await screen.press("x")
        assert "compared over tokens or hours" in screen.text
        await screen.press("r", "down", "c")
        await screen.until_shown("is compared")
        loss = charts(screen)[0]
        await screen.until(lambda: screen.frame() or loss.x_bounds() == (1, 200))
        assert [(curve.name, curve.colour) for curve in loss._curves] == [
            (newer.run.name, 0), ("20240101-000000-0000", 1)
        ]  # fmt: skip
        await screen.press("plus", "x")
        assert "over tokens" in screen.text and loss.view is None
        assert loss.x_bounds()[1] == pytest.approx(2 * 200 * 4000, rel=0.02)
        await screen.press("w")
        assert "of which there are windows" in screen.text
        await screen.press("x")
        assert loss.x_bounds() == (0, pytest.approx(199 * 5 / 3600))
        await screen.press("x", "r", "down", "c")
        await screen.until_shown("no longer compared")
        assert charts(screen)[0]._curves[0].name == "train"

    drive(steps, tmp_path, size)


@at_each_size
def test_the_command_palette(work_dir, size):
    async def steps(screen):
        await screen.press("ctrl+p")
        await screen.press(*"ranks")
        await screen.until(lambda: "Show this tab (2)" in screen.text)
        while len(screen.app.screen_stack) > 1:  # the first one takes what was found
            await screen.press("enter")
        await screen.until(lambda: screen.tab == "ranks")

    drive(steps, work_dir, size)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_leaving(work_dir, key):
    async def steps(screen):
        for tab in "12345":
            await screen.press(tab)
        await screen.pilot.press(key)
        await screen.until(lambda: not screen.app.is_running or screen.app._exit)

    drive(steps, work_dir)
