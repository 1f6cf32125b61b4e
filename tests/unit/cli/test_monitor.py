"""`xtuner monitor` as text."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import SimpleNamespace

import pytest

from xtuner.cli import monitor_text
from xtuner.cli.monitor_text import render
from xtuner.run.figures import duration
from xtuner.run.layout import RunDir
from xtuner.run.logline import StepLine, format_log, format_step
from xtuner.run.status import start_status, write_status
from xtuner.run.summary import RunSummary
from xtuner.run.supervision import supervise_here

NOW = datetime(2025, 8, 29, 9, 17, 51)


def step_line(step, rank=0, **values):
    numbers = {"data_time": 0.0, "lr": 2e-5, "time": 2.0, "reduced_llm_loss": 1.5, "max_memory": 10.0, "tgs": 100.0}
    return format_step(StepLine(step, 100, {**numbers, **values}, NOW, rank=rank))


def set_state(run, state, **changes):
    write_status(run, replace(start_status(100), state=state, **changes))


def append(run, text, rank=0):
    with run.rank_log(rank).open("a") as file:
        file.write(text + "\n")


@pytest.fixture
def monitor(xtuner, monkeypatch):
    """Polls fast, on a disk with room."""
    monkeypatch.setattr(monitor_text, "_POLL_S", 0.01)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))
    return partial(xtuner, "monitor")


def snapshot(directory):
    return {str(path): path.lstat().st_mtime_ns for path in [directory, *directory.rglob("*")]}


def test_once_is_one_screen(monitor, tmp_path):
    run = RunDir.create(tmp_path)
    set_state(run, "running")
    append(run, step_line(12))
    append(run, step_line(11, rank=1), rank=1)
    before = snapshot(tmp_path)
    code, out, err = monitor(tmp_path, "--once")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0 and err == "" and lines["run"] == str(run.path) and lines["state"] == "running"
    assert lines["step"] == "12/100 (12.0 %)" and lines["time"].endswith("so far, 0:02:56 left")
    assert lines["loss"] == "1.500 (mean of the last 12: 1.500)" and lines["lr"] == "0.000020"
    assert lines["tokens/s"] == "200.0 over all ranks" and lines["memory"] == "10.00 GiB at most"
    assert lines["ranks"] == "0: step 12, 1: step 11"
    assert snapshot(tmp_path) == before, "a reader writes nothing"


def test_json_says_the_same(monitor, tmp_path):
    run = RunDir.create(tmp_path)
    set_state(run, "running")
    append(run, step_line(12, reduced_llm_loss=float("nan")))
    for path in (tmp_path, run.path):
        code, out, _ = monitor(path, "--json")
        summary = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert code == 1 and summary["run"] == str(run.path)
        assert (summary["state"], summary["step"], summary["loss"]) == ("running", 12, "nan")
        assert (summary["eta_s"], summary["last_steps"]) == (176.0, {"0": 12})


@pytest.mark.parametrize("state", ["starting", "running", "exporting", "finished", "stopped", "failed", "lost"])
def test_exit_codes(monitor, tmp_path, state):
    run = RunDir.create(tmp_path)
    set_state(run, "running" if state == "lost" else state, heartbeat_at=0.0 if state == "lost" else time.time())
    code, out, _ = monitor(tmp_path, "--once")
    assert f"state     {state}\n" in out and code == (6 if state in ("failed", "lost") else 0)
    if state not in ("starting", "running", "exporting"):
        assert monitor(tmp_path)[0] == code


def test_alerts_are_listed_and_make_the_exit_code_1(monitor, tmp_path):
    run = RunDir.create(tmp_path)
    set_state(run, "running")
    append(run, step_line(12, reduced_llm_loss=float("nan")))
    code, out, _ = monitor(tmp_path, "--once")
    at = out.splitlines().index("alert     critical: reduced_llm_loss of rank 0 is nan in step 12")
    assert code == 1 and out.splitlines()[at + 1].strip() == "step 12: reduced_llm_loss nan"
    assert out.splitlines()[at + 2].strip().startswith("hint: ")
    code, out, _ = monitor(tmp_path, "--json")
    (alert,) = json.loads(out)["alerts"]
    assert code == 1 and (alert["kind"], alert["level"], alert["rank"]) == ("loss-nan", "critical", 0)
    set_state(run, "failed")
    assert monitor(tmp_path, "--once")[0] == 6


def test_rank_logs_and_consoles_of_other_launchers(monitor, tmp_path):
    lines = [step_line(step, rank) for step in (1, 2) for rank in (0, 1)]
    (tmp_path / "console.txt").write_text("\n".join(["torchrun says", *lines, ""]))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank_1.log").write_text(lines[1] + "\n")
    _, out, _ = monitor(tmp_path / "console.txt", "--once")
    assert "ranks     0: step 2, 1: step 2" in out and "tokens/s  200.0 over all ranks" in out
    assert json.loads(monitor(tmp_path / "logs", "--json")[1])["last_steps"] == {"1": 1}


def test_an_empty_work_dir_is_waited_for(monitor, tmp_path):
    code, out, _ = monitor(tmp_path, "--once")
    assert code == 0 and out.startswith("state     waiting") and str(tmp_path) in out
    assert json.loads(monitor(tmp_path, "--json")[1])["state"] == "waiting"


def test_wrong_paths_say_what_to_pass(monitor, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        code, out, err = monitor(path)
        assert code == 2 and out == "" and str(path) in err and "hint:" in err


def test_the_newest_run_is_shown(monitor, tmp_path):
    for name in ("20250102-000000-0000", "20250101-000000-ffff"):
        (tmp_path / name / "logs").mkdir(parents=True)
    assert "20250102-000000-0000" in monitor(tmp_path, "--once")[1]


def test_following_prints_lines_as_they_come_until_the_end(monitor, tmp_path):
    """The run appears, writes and ends while the monitor looks."""

    def train():
        time.sleep(0.05)
        run = RunDir.create(tmp_path)
        set_state(run, "running")
        for step in (1, 2, 3):
            append(run, step_line(step, rank=1), rank=1)
            append(run, step_line(step))
            time.sleep(0.03)
        append(run, format_log("exported to \x1b[2J", "INFO", NOW, 0))
        set_state(run, "finished", step=3)

    training = threading.Thread(target=train)
    training.start()
    code, out, err = monitor(tmp_path)
    training.join()
    shown = out.splitlines()
    assert code == 0 and shown[:3] == [step_line(step) for step in (1, 2, 3)]
    assert shown[3].endswith("exported to \\x1b[2J") and len(shown) == 4
    assert "waiting" in err and "following" in err
    assert f"these are the lines of rank 0, of 2 ranks; all: xtuner monitor {tmp_path}" in err
    assert err.splitlines()[-1].startswith("the run is finished at step 3/100, loss 1.500, after 0:00:0")


def test_following_goes_on_while_failed_ranks_are_started_again(monitor, tmp_path):
    """`--max-restarts`: between two attempts the status says `failed`, or is that of a process that was killed."""
    run = RunDir.create(tmp_path)
    launch = supervise_here(run, is_detached=True, max_restarts=2)
    append(run, step_line(1))
    set_state(run, "failed", exit_code=6)
    followed = threading.Event()

    def go_on():
        followed.wait()
        for step, state in ((2, "running"), (3, "lost"), (4, "failed"), (5, "finished")):
            append(run, step_line(step))
            set_state(
                run, "running" if state == "lost" else state, heartbeat_at=0.0 if state == "lost" else time.time()
            )
            time.sleep(0.05)
        launch.update(exit_code=0)

    training = threading.Thread(target=go_on)
    training.start()
    threading.Timer(0.2, followed.set).start()  # it has seen the first attempt fail
    code, out, err = monitor(run.path)
    training.join()
    assert (code, out.splitlines()) == (0, [step_line(step) for step in range(1, 6)])
    assert err.splitlines()[-1].startswith("the run is finished at step 5/100")


def test_the_closing_line_says_why(monitor, tmp_path):
    run = RunDir.create(tmp_path)
    append(run, step_line(3))
    set_state(run, "failed", exit_code=6, message="rank 1: out of memory")
    code, _, err = monitor(run.path)
    assert code == 6 and err.splitlines()[-1].endswith(": rank 1: out of memory")


def test_a_run_directory_that_vanishes_is_lost(monitor, tmp_path, monkeypatch):
    monkeypatch.setattr(monitor_text, "_GONE_AFTER_S", 0.05)
    run = RunDir.create(tmp_path)
    set_state(run, "running")
    threading.Timer(0.1, lambda: run.path.rename(tmp_path / "away")).start()
    code, _, err = monitor(tmp_path)
    assert code == 6 and "the run is lost" in err


@pytest.mark.parametrize("has_run", [True, False])
def test_ctrl_c_leaves_quietly(tmp_path, has_run):
    if has_run:
        run = RunDir.create(tmp_path)
        set_state(run, "running")
        append(run, step_line(3))
    process = subprocess.Popen(
        [sys.executable, "-m", "xtuner", "monitor", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr and "Ctrl-C leaves" in process.stderr.readline()
    if has_run:
        assert process.stdout and process.stdout.readline().rstrip("\n") == step_line(3)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err
    assert ("the run is running at step 3/100" in err) == has_run


def test_many_ranks_take_one_line():
    last_steps = dict.fromkeys(range(1000), 12) | {700: 9}
    (line,) = [line for line in render(RunSummary("r", "running", last_steps=last_steps)) if line.startswith("ranks")]
    assert line == "ranks     1000 ranks; step 12 at most, step 9 at least (rank 700)"


def test_what_is_not_known_is_a_dash():
    text = "\n".join(render(RunSummary("r", "unknown", message="why")))
    assert "- so far, - left" in text and "loss      - " in text and text.endswith("message   why")
    assert [duration(value) for value in (None, float("nan"), float("inf"), 3661.4)] == ["-", "-", "-", "1:01:01"]


def test_help_has_an_example_and_the_exit_codes(monitor):
    out = " ".join(monitor("--help")[1].split())
    assert "xtuner monitor work_dirs --once" in out and "6 it failed or is lost" in out
