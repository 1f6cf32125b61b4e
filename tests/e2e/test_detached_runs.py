"""Launches that go on without their terminal: started, followed, left, stopped."""

import signal
import subprocess
from pathlib import Path

import pytest
from commands import BIN, ROOT, run
from processes import end_all, processes_of, wait_for, wait_for_step, wait_until_gone
from terminals import Terminal

from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.run.layout import RunDir
from xtuner.run.status import read_status
from xtuner.run.supervision import read_supervision


@pytest.fixture
def flags(tiny_model, chats, tmp_path):
    """Of a run that goes on for long; whatever is left of it is killed."""
    yield [
        *("sft", "--load-from", tiny_model("llama"), "--dataset", chats, "--work-dir", tmp_path / "w"),
        *("--nproc-per-node", 1, "--total-step", 100_000),
    ]
    end_all(tmp_path)


def _attached(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [BIN / "xtuner", "attach", path], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _read_until(process: "subprocess.Popen[str]", text: str) -> None:
    assert any(text in line for line in process.stderr), f"it ended before it said {text!r}"


def test_a_detached_run_outlives_its_terminal_is_come_back_to_and_stopped(flags, tmp_path):
    with Terminal(*flags, "--detach") as terminal:
        exit_code, shown = terminal.read_to_end()  # which comes when no process has the terminal open
    assert exit_code == 0, shown
    run_dir = wait_for_step(tmp_path / "w", 3)
    for words in ("xtuner monitor", "xtuner attach", "xtuner stop"):
        assert f"{words} {run_dir.path}" in shown
    assert read_supervision(run_dir).is_detached

    with _attached(tmp_path / "w") as left:
        _read_until(left, " Step ")
        left.send_signal(signal.SIGINT)
        said = left.stderr.read()
    assert left.returncode == 0 and "goes on" in said and "xtuner stop" in said
    step = read_status(run_dir).step
    wait_for(lambda: read_status(run_dir).step > step)

    twice = run("xtuner", *flags, "--resume", run_dir.path)
    assert twice.returncode in (2, 9), twice.stderr  # no checkpoint yet, or the run goes on

    with _attached(run_dir.path) as attached:
        _read_until(attached, " Step ")
        processes = processes_of(tmp_path)
        stopped = run("xtuner", "stop", tmp_path / "w")
        said = attached.stderr.read()
    assert stopped.returncode == 0, stopped.stderr
    assert "the state is saved" in stopped.stderr and f"--resume {run_dir.path}" in stopped.stderr
    assert attached.returncode == 7 and "stopped by SIGTERM" in said
    [checkpoint] = list_checkpoints(run_dir)
    assert fault_of(checkpoint) is None and read_status(run_dir).state == "stopped"
    wait_until_gone(processes)

    again = run("xtuner", "stop", tmp_path / "w")
    assert again.returncode == 2 and f"{run_dir.name}, is stopped: stopped by SIGTERM" in again.stderr


def test_stop_now_neither_waits_nor_saves_and_a_failure_is_told_to_who_is_attached(flags, tmp_path):
    done = run("xtuner", *flags, "--global-batch-size", 10_000, "--detach")  # steps that take a quarter of an hour
    assert done.returncode == 0, done.stderr
    run_dir = RunDir(Path(done.stdout.strip()))
    wait_for(lambda: (status := read_status(run_dir)) and status.state == "running")
    with _attached(tmp_path / "w") as attached:
        _read_until(attached, "following")
        stopped = run("xtuner", "stop", tmp_path / "w", "--now")
        said = attached.stderr.read()
    assert stopped.returncode == 8 and "not saved" in stopped.stderr, stopped.stderr
    assert attached.returncode == 8 and "not saved" in said
    assert not list_checkpoints(run_dir)


def test_a_detached_run_ends_by_itself_and_wrong_data_is_told_at_once(flags, tmp_path):
    done = run("xtuner", *flags, "--total-step", 30, "--detach")
    attached = run("xtuner", "attach", tmp_path / "w")
    run_dir = Path(done.stdout.strip())
    assert attached.returncode == 0, attached.stderr
    assert attached.stdout.strip() == str(run_dir / "hf-latest") and " Step 30/30 " in attached.stderr
    assert attached.stderr.endswith(f"talk with it: xtuner chat {run_dir / 'hf-latest'}\n")
    assert (run_dir / "logs" / "torchrun" / "torchrun.log").exists()
    assert "finished" in (run_dir / "logs" / "torchrun" / "supervisor.log").read_text()

    (tmp_path / "broken.jsonl").write_text("{}\n")
    refused = run("xtuner", *flags, "--dataset", tmp_path / "broken.jsonl", "--work-dir", tmp_path / "v", "--detach")
    assert refused.returncode == 4 and not (tmp_path / "v").exists()


def test_a_terminal_that_closes_under_a_launch_costs_no_step(flags, tmp_path):
    with Terminal(*flags, "--plain") as terminal:
        terminal.read_until(" Step 2/")
        assert terminal.hang_up() == 7
    run_dir = wait_for_step(tmp_path / "w", 2)
    [checkpoint] = list_checkpoints(run_dir)
    assert fault_of(checkpoint) is None and read_supervision(run_dir).exit_code == 7
