"""`xtuner sft` with all flags on a terminal: errors as lines, then the dashboard of a run that outlives it."""

import signal

import psutil
import pytest
from commands import run
from processes import end_all, processes_of, wait_until_gone
from terminals import ScreenTerminal, Terminal

from xtuner.run.layout import list_runs
from xtuner.run.status import read_status
from xtuner.run.supervision import read_supervision, supervised_runs

_SIZE = (160, 40)


@pytest.fixture
def flags(tiny_model, chats, tmp_path):
    """Of a run that goes on for long; whatever is left of it is killed."""
    yield [
        *("sft", "--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path / "w"),
        *("--nproc-per-node", 1, "--total-step", 100_000),
    ]
    end_all(tmp_path)


def test_the_dashboard_is_left_and_the_run_goes_on_until_it_is_stopped_from_there(flags, tmp_path):
    with ScreenTerminal(*flags, size=_SIZE) as terminal:
        terminal.wait_for_text("[1 Overview]")
        terminal.wait_for_text("RUNNING")
        terminal.type("q")
        terminal.wait_for_text("The run goes on without this screen")
        terminal.type("\r")
        terminal.wait_for_text("xtuner attach")
        assert terminal.read_to_end()[0] == 0
        [run_dir] = supervised_runs(tmp_path / "w")
        assert f"xtunermonitor{run_dir.path}" in terminal.text
    assert run("xtuner", "stop", run_dir.path).returncode == 0
    step = read_status(run_dir).step

    # The same run again: it starts, whatever was its state before.
    with ScreenTerminal(*flags, "--resume", run_dir.path, size=_SIZE) as terminal:
        terminal.wait_for_text("STARTING")
        terminal.wait_for_text("RUNNING")
        terminal.type("\x03")
        terminal.wait_for_text("The run goes on without this screen")
        terminal.type("s")
        terminal.wait_for_text("error: stopped by SIGTERM")
        assert terminal.read_to_end()[0] == 7, "as the run"
    assert read_supervision(run_dir).exit_code == 7 and read_status(run_dir).step >= step


def test_a_launch_that_dies_at_once_is_seen_and_its_exit_code_is_that_of_the_command(flags, tmp_path):
    with ScreenTerminal(*flags, size=_SIZE) as terminal:
        terminal.wait_for_text("STARTING")
        processes = processes_of(tmp_path)
        [run_dir] = list_runs(tmp_path / "w")
        psutil.Process(read_supervision(run_dir).pid).send_signal(signal.SIGKILL)
        terminal.wait_for_text("LOST")
        terminal.type("q")
        terminal.wait_for_text("is gone, and its ranks with it")
        assert terminal.read_to_end()[0] == 6
    wait_until_gone([process for process in processes if process.pid != terminal.pid])


def test_what_is_wrong_before_training_is_said_in_lines(flags, tmp_path):
    (tmp_path / "broken.jsonl").write_text("{}\n")
    for wrong, exit_code in ((["--load-from", tmp_path], 3), (["--dataset", tmp_path / "broken.jsonl"], 4)):
        with Terminal(*flags, *wrong, NO_COLOR="1") as terminal:
            code, shown = terminal.read_to_end()
        assert code == exit_code and "error: " in shown and "\x1b[?1049h" not in shown
    assert not (tmp_path / "w").exists()
