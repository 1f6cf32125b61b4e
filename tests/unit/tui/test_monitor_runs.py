"""What the dashboard can be pointed at, and what may happen to it meanwhile."""

import json
import shutil
from types import SimpleNamespace

import pytest
from monitor_runs import BEGUN, RunWriter, healthy_run, values_of
from monitor_screen import SIZES, drive
from textual.app import App
from tui_pictures import strips_of

from xtuner.errors import UsageError
from xtuner.run.logline import StepLine, format_step
from xtuner.run.supervision import supervise_here
from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.launched import LaunchedApp
from xtuner.tui.monitor.runs import RunList
from xtuner.tui.monitor.watch import watch


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))


def snapshot(directory):
    return {str(path): path.lstat().st_mtime_ns for path in [directory, *directory.rglob("*")]}


def logs_of(run, folder, name="rank{}.log"):
    """The logs of a run elsewhere, without the rest."""
    folder.mkdir(parents=True)
    for rank in range(2):
        text = run.rank_log(rank).read_text().replace(f"[RANK {rank}]", "")
        (folder / name.format(rank)).write_text(text)


@pytest.mark.parametrize("size", [SIZES[0], SIZES[-1]], ids=str)
def test_the_work_dir_of_an_older_version(tmp_path, size):
    writer = healthy_run(tmp_path / "ours")
    logs_of(writer.run, tmp_path / "theirs" / "20250829091740" / "logs")

    async def steps(screen):
        assert "20250829091740" in screen.header and "step 300/1,000" in screen.header
        await screen.until_shown("1.477")
        await screen.press("2")
        await screen.until_shown("300")
        assert screen.pane._table.ranks == [0, 1]
        await screen.press("3")
        await screen.until_shown("[RANK 1] [XTuner]")

    drive(steps, tmp_path / "theirs", size)


@pytest.mark.parametrize("size", [SIZES[0]], ids=str)
def test_a_bare_directory_of_rank_logs(tmp_path, size):
    writer = healthy_run(tmp_path / "ours")
    logs_of(writer.run, tmp_path / "bare", "rank_{}.log")

    async def steps(screen):
        assert "bare" in screen.header and "step 300/1,000" in screen.header
        assert "1.477" in screen.text
        await screen.press("5")
        assert "none" in screen.text

    drive(steps, tmp_path / "bare", size)


@pytest.mark.parametrize("size", [SIZES[-1]], ids=str)
def test_a_console_log_with_all_ranks_mixed(tmp_path, size):
    lines = ["torchrun says hello"]
    for step in range(1, 61):
        for rank in (0, 1):
            lines.append(format_step(StepLine(step, 100, values_of(step, rank), BEGUN, rank=rank)))
    (tmp_path / "console.txt").write_text("\n".join([*lines, ""]))

    async def steps(screen):
        assert "console.txt" in screen.header and "step 60/100" in screen.header
        await screen.press("2")
        assert screen.pane._table.ranks == [0, 1]
        await screen.press("3", "right_square_bracket", "right_square_bracket")
        await screen.until(lambda: screen.frame() or screen.pane._view.num_lines == 60)
        assert "rank 1" in screen.text and "[RANK 0]" not in screen.text
        await screen.press("escape")
        await screen.until(lambda: screen.frame() or screen.pane._view.num_lines == 121)

    drive(steps, tmp_path / "console.txt", size)


def test_an_empty_work_dir_is_waited_for_and_newer_runs_follow_ended_ones(tmp_path):
    async def steps(screen):
        assert "WAITING" in screen.header and "holds no runs yet" in screen.text
        await screen.press("1", "2", "3", "space", "r", "question_mark", "escape", "1")
        first = healthy_run(tmp_path)
        screen.app._runs._looked_at = float("-inf")
        screen.frame()
        await screen.settle()
        await screen.until_shown("step 300/1,000")
        first.run.path.rename(tmp_path / "20240101-000000-0000")
        second = RunWriter(tmp_path)
        screen.app.session.is_gone = False
        screen.app._runs._looked_at = float("-inf")
        await screen.until_shown(second.run.name[-8:])

    drive(steps, tmp_path)


def test_a_live_run_is_not_left_for_a_newer_one(tmp_path):
    older = healthy_run(tmp_path)
    older.run.path.rename(tmp_path / "20240101-000000-0000")

    async def steps(screen):
        RunWriter(tmp_path)
        screen.app._runs._looked_at = float("-inf")
        await screen.until_shown("a newer run has begun")
        assert "step 300/" in screen.header

    drive(steps, tmp_path)


def test_a_run_is_read_only(tmp_path):
    healthy_run(tmp_path)
    before = snapshot(tmp_path)

    async def steps(screen):
        for key in "123451":
            await screen.press(key)

    drive(steps, tmp_path)
    assert snapshot(tmp_path) == before


def test_steps_ranks_and_charts_come_later(tmp_path):
    writer = RunWriter(tmp_path, num_ranks=1, state="starting")

    async def steps(screen):
        assert "STARTING" in screen.header and "no values yet" in screen.text
        writer.add_steps(3)
        writer.set_state("running")
        screen.app.session._looked_at = float("-inf")
        await screen.until_shown("step 3/1,000")
        assert "RUNNING" in screen.header and "throughput" in screen.text
        writer.add_steps(3, lambda rank, step: {"new_thing": 7.5})
        await screen.until_shown("step 6/1,000")
        assert [chart.title for chart in screen.pane._charts if "new_thing" in chart.title]

    drive(steps, tmp_path)


@pytest.mark.parametrize("tab", "12345")
def test_a_directory_that_is_deleted_keeps_its_last_values(tmp_path, tab):
    writer = healthy_run(tmp_path)

    async def steps(screen):
        await screen.press(tab)
        shutil.rmtree(writer.run.path)
        screen.app.session._looked_at = float("-inf")
        await screen.until_shown("the run is gone, what was read last is shown")
        assert "LOST" in screen.header and "step 300/" in screen.header
        await screen.press(*"12345")

    drive(steps, tmp_path / writer.run.name)


def test_a_log_that_is_truncated_or_replaced(tmp_path):
    writer = healthy_run(tmp_path, num_ranks=1)

    async def steps(screen):
        await screen.press("3")
        await screen.until_shown("Step 300/1000")
        writer.run.rank_log(0).write_text("")
        writer.say("written anew")
        await screen.until(lambda: screen.frame() or len(screen.app.session.store.gaps) == 1)
        await screen.until_shown("written anew")
        assert "Step 300/" not in screen.text
        await screen.press("5")
        await screen.until_shown("was truncated or replaced")

    drive(steps, tmp_path)


def test_restarts_evaluations_and_exports_are_marked(tmp_path):
    writer = healthy_run(tmp_path)
    writer.write_record(resumed=[{"after_step": 150, "command": ["x"]}])

    async def steps(screen):
        marks = {(mark.x, mark.letter) for mark in screen.pane._charts[0]._markers}
        assert marks == {(100, "X"), (100, "E"), (200, "E"), (150, "R")}
        assert "attempt 2" in screen.lines[1]
        await screen.press("5")
        assert "resumed after step 150" in screen.text

    drive(steps, tmp_path)


def test_the_state_and_the_worst_alert_are_seen_at_once(tmp_path):
    writer = healthy_run(tmp_path)
    writer.set_state("failed", message="rank 1: out of memory")

    async def steps(screen):
        await screen.until_shown("FAILED")
        assert "✗ the run failed at step 300" in screen.lines[-2] and "ETA" not in screen.header

    drive(steps, tmp_path)


def test_an_alert_that_is_over_stands_below(tmp_path):
    writer = healthy_run(tmp_path, num_ranks=1)
    writer.add_steps(1, lambda rank, step: {"reduced_llm_loss": float("nan")})

    async def steps(screen):
        await screen.press("4")
        await screen.until_shown("✗ ERROR")
        writer.add_steps(30)
        screen.app.session._looked_at = float("-inf")
        await screen.until(lambda: screen.frame() or screen.app.session.store.step == 331)
        screen.app.session._looked_at = float("-inf")
        await screen.until_shown("over: reduced_llm_loss of rank 0 is nan")

    drive(steps, tmp_path)


@pytest.mark.parametrize("size", [(40, 12), (20, 5), (10, 4), (1, 1), (200, 10), (49, 60)], ids=str)
def test_tiny_terminals_show_text_and_never_crash(tmp_path, size):
    writer = healthy_run(tmp_path)
    writer.add_steps(1, lambda rank, step: {"reduced_llm_loss": float("nan")})

    async def steps(screen):
        await screen.until(lambda: screen.frame() or screen.app.session.alerts)
        assert screen.lines[0].startswith("RUNNING step 301/1,000"[: size[0] - 1])  # the last cell may be an ellipsis
        await screen.press(*"1234512", "question_mark", "escape", "space", "space", "r", "escape", "s", "left")
        await screen.pilot.resize_terminal(120, 36)
        await screen.settle()
        assert "Alerts (1)" in screen.text
        await screen.pilot.resize_terminal(*size)
        await screen.settle()

    drive(steps, tmp_path, size)


def test_all_is_painted_again_when_another_size_has_settled(tmp_path, monkeypatch):
    """Textual drops the first painting where a tab is just being mounted."""
    healthy_run(tmp_path)
    painted, display, paint_all = [], App._display, MonitorApp._paint_all

    def displayed(app, screen, renderable):
        painted.append(type(renderable).__name__)
        display(app, screen, renderable)

    def called(app):
        painted.clear()
        painted.append("all")
        paint_all(app)

    monkeypatch.setattr(App, "_display", displayed)
    monkeypatch.setattr(MonitorApp, "_paint_all", called)

    async def steps(screen):
        await screen.pilot.resize_terminal(100, 30)
        await screen.until(lambda: {"all", "LayoutUpdate"} <= set(painted))

    drive(steps, tmp_path)


def test_a_storm_of_sizes(tmp_path):
    healthy_run(tmp_path)

    async def steps(screen):
        for tab in "12345":
            await screen.press(tab)
            for width, height in [(200, 60), (3, 40), (80, 2), (41, 13), (60, 15), (120, 36)] * 2:
                await screen.pilot.resize_terminal(width, height)
                await screen.pilot.pause()
                assert len(strips_of(screen.app)) == height
        await screen.settle()
        assert "5 Run" in screen.text

    drive(steps, tmp_path)


def test_a_thousand_ranks(tmp_path):
    writer = RunWriter(tmp_path, num_ranks=1000)
    writer.add_steps(12, lambda rank, step: {"data_time": 3.0} if rank == 700 else {})

    async def steps(screen):
        assert "1000/1000" in screen.text
        await screen.press("2")
        assert len(screen.pane._table.ranks) == 1000
        await screen.press("slash", *"700", "enter")
        assert screen.pane._table.ranks == [700]
        await screen.press("3")
        await screen.until_shown("Step 12/1000")

    drive(steps, tmp_path)


def test_a_path_that_is_no_run_is_refused_before_there_is_a_screen(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": []}) + "\n")
    for path in (tmp_path / "none", tmp_path / "data.jsonl"):
        with pytest.raises(UsageError, match=path.name):
            watch(path)


def test_a_bug_in_the_reader_is_raised_and_not_hidden(tmp_path):
    healthy_run(tmp_path)

    async def steps(screen):
        screen.app.session._reader.error = ZeroDivisionError("a bug")
        await screen.until(lambda: screen.app._exit)

    with pytest.raises(ZeroDivisionError, match="a bug"):
        drive(steps, tmp_path)


def test_runs_that_cannot_be_listed_for_a_moment_stay(tmp_path):
    healthy_run(tmp_path / "w")
    runs = RunList(tmp_path / "w")
    (tmp_path / "w").rename(tmp_path / "away")
    assert not runs.look(0.0) and runs.newest is not None
    (tmp_path / "away").rename(tmp_path / "w")
    assert not runs.look(100.0) and runs.newest is not None


@pytest.mark.parametrize(
    ("keys", "wants_stop"), [(["enter"], False), (["l"], False), (["s"], True), (["escape", "q", "ctrl+c"], False)]
)
def test_who_leaves_a_run_that_was_launched_here_is_asked(tmp_path, keys, wants_stop):
    healthy_run(tmp_path)
    app = LaunchedApp(RunList(tmp_path))

    async def steps(screen):
        await screen.press("3", "q")
        assert "The run goes on without this screen." in screen.text
        for key in keys:
            assert screen.app.is_running and not screen.app._exit
            await screen.pilot.press(key)
            await screen.pilot.pause()
        await screen.until(lambda: screen.app._exit)

    drive(steps, tmp_path, app=app)
    assert app.wants_stop == wants_stop


def test_a_run_whose_ranks_are_started_again_is_not_over(tmp_path):
    writer = healthy_run(tmp_path)
    launch = supervise_here(writer.run, is_detached=True, max_restarts=2)
    writer.set_state("failed", exit_code=6, message="rank 1: out of memory")
    app = LaunchedApp(RunList(tmp_path))

    async def steps(screen):
        await screen.until_shown("RESTARTING")
        assert "the ranks failed at step 300; the ranks are started again, restart 1 of 2" in screen.text
        await screen.press("q")
        assert "The run goes on without this screen." in screen.text
        await screen.press("escape")
        launch.update(num_restarts=2)
        app.session._looked_at = float("-inf")
        await screen.until_shown("FAILED")
        await screen.pilot.press("q")
        await screen.until(lambda: screen.app._exit)

    drive(steps, tmp_path, app=app)
    assert not app.wants_stop


def test_a_run_that_is_over_is_left_at_once(tmp_path):
    healthy_run(tmp_path).set_state("finished")
    app = LaunchedApp(RunList(tmp_path))

    async def steps(screen):
        await screen.pilot.press("q")
        await screen.until(lambda: screen.app._exit)

    drive(steps, tmp_path, app=app)
    assert not app.wants_stop
