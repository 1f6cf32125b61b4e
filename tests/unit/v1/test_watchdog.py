"""A process whose training does not go on ends itself, and says where it was."""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from processes import wait_for

from xtuner.run.failure import read_failures
from xtuner.run.hang import HANG_HINT
from xtuner.run.layout import RunDir
from xtuner.run.pulse import read_pulses
from xtuner.v1.train.watchdog import COMPUTING, EVALUATING, FETCHING, RECORDING, SAVING, STACKS_SIGNAL, Watchdog

# Three steps, so that it is no longer the first ones; then what a test asks for.
PROGRAM = """
import sys, time
from pathlib import Path
from xtuner.run.layout import RunDir
from xtuner.v1.train.watchdog import COMPUTING, EVALUATING, FETCHING, RECORDING, SAVING, Watchdog
run_dir, timeout_s, what = RunDir(Path(sys.argv[1])), float(sys.argv[2]), sys.argv[3]
dog = Watchdog(run_dir, 0, timeout_s or None, on_hang=lambda message: print("told:", message, flush=True))
for step in (1, 2, 3):
    for phase in (FETCHING, COMPUTING, RECORDING):
        dog.reach(phase, step)
def stand_still():
    print("still", flush=True)
    time.sleep(600)
def said():
    return run_dir.rank_log(0).read_text()
"""
ACTIONS = {
    "hang": "dog.reach(COMPUTING, 4); stand_still()",
    "recover": "dog.reach(COMPUTING, 4)\nwhile 'no progress' not in said(): time.sleep(0.01)\n"
    "dog.reach(RECORDING)\nwhile 'goes on by itself' not in said(): time.sleep(0.01)\ndog.stop()",
    "evaluate": "dog.reach(EVALUATING)\nfor batch in range(30): time.sleep(0.1); dog.tick()\n"
    "dog.reach(SAVING); time.sleep(3)\ndog.stop()",
    "work": "print('still', flush=True)\nfor number in range(30): time.sleep(0.1); dog.reach(COMPUTING)\ndog.stop()",
    "off": "dog.reach(COMPUTING, 4); stand_still()",
}


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path)


def _start(run_dir, what, timeout_s):
    return subprocess.Popen(
        [sys.executable, "-c", f"{PROGRAM}\n{ACTIONS[what]}", run_dir.path, str(timeout_s), what],
        env={**os.environ, "TORCHELASTIC_ERROR_FILE": str(run_dir.path / "error.json")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_it_ends_with_its_stacks_a_note_and_the_exit_code_of_a_failure(run_dir):
    process = _start(run_dir, "hang", 1)
    told, _ = process.communicate()
    assert process.returncode == 6
    said = run_dir.rank_log(0).read_text()
    assert "no progress for 1 s in step 4 (forward and backward pass)" in said and "in stand_still" in said
    [failure] = read_failures(run_dir.failures)
    assert (failure.rank, failure.step, failure.exit_code, failure.hint) == (0, 4, 6, HANG_HINT)
    assert failure.message.startswith("hung: no progress for 1 s; the rank is in step 4 (forward and backward pass); ")
    assert "stand_still" in failure.traceback and told == f"still\ntold: {failure.message}\n"
    assert json.loads((run_dir.path / "error.json").read_text())["message"]["extraInfo"]["message"] == failure.message


@pytest.mark.parametrize(("what", "timeout_s"), [("recover", 2), ("evaluate", 1)])
def test_it_goes_on_when_the_training_does(run_dir, what, timeout_s):
    process = _start(run_dir, what, timeout_s)
    process.communicate()
    assert process.returncode == 0 and not read_failures(run_dir.failures)
    assert ("it goes on by itself" in run_dir.rank_log(0).read_text()) == (what == "recover")


def test_a_job_that_was_suspended_as_a_whole_goes_on(run_dir):
    with _start(run_dir, "work", 1) as process:
        assert process.stdout.readline() == "still\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # longer than the timeout
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0 and "no progress" not in run_dir.rank_log(0).read_text()


def test_stacks_are_written_when_a_signal_asks_for_them_also_where_nothing_is_watched(run_dir):
    with _start(run_dir, "off", 0) as process:
        assert process.stdout.readline() == "still\n"
        process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "in stand_still" in run_dir.rank_log(0).read_text())
        assert process.poll() is None and not read_pulses(run_dir)
        process.kill()


def test_how_long_each_phase_may_take(run_dir):
    dog = Watchdog(run_dir, 0, 60.0, on_hang=lambda message: None)
    try:
        wait_for(lambda: read_pulses(run_dir))
        assert read_pulses(run_dir)[0].patience_s == 360
        patience = []
        for step in range(1, 9):
            for phase in (FETCHING, COMPUTING, RECORDING, EVALUATING, SAVING):
                dog.reach(phase, step)
                patience.append((step, phase, dog._place.patience_s))
    finally:
        dog.stop()
        faulthandler.unregister(STACKS_SIGNAL)
    assert read_pulses(run_dir)[0].patience_s == 0, "nobody watches the end"
    first = [seconds for step, phase, seconds in patience if step == 1]
    assert set(first) == {360}  # whatever they do: kernels are compiled, for example
    last = {phase: seconds for step, phase, seconds in patience if step == 8}
    assert 360 < last[SAVING] < 361 and all(60 < last[phase] < 61 for phase in (FETCHING, COMPUTING, EVALUATING))
