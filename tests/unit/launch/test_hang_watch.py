"""Ranks that cannot end themselves are ended by the supervising process."""

import signal
import subprocess
import sys
import time

import pytest
from processes import wait_for

from xtuner.launch import hang
from xtuner.launch.failure import explain_failure
from xtuner.launch.hang import HangWatch
from xtuner.run.layout import RunDir
from xtuner.run.status import read_status, start_status, write_status

# A rank that says how far it is, and then stands still: its thread too when it is stopped.
RANK = """
import ctypes, faulthandler, os, signal, sys, time
from dataclasses import replace
from pathlib import Path
from xtuner.run.layout import RunDir
from xtuner.run.pulse import own_pulse, write_pulse
run_dir, patience_s = RunDir(Path(sys.argv[1])), float(sys.argv[2])
log = open(run_dir.rank_log(0), "a")
faulthandler.register(signal.SIGUSR2, file=log)
pulse = replace(own_pulse(0, 0.1), step=3, phase="save", patience_s=patience_s)
for beat in range(1_000_000):
    write_pulse(run_dir, replace(pulse, num_beats=beat, progress=beat if "alive" in sys.argv else 7))
    time.sleep(0.05)
    while beat == 5 and "held" in sys.argv:
        ctypes.PyDLL(None).sleep(600)  # keeps the interpreter, until a signal comes and again after it
"""


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(hang, "_LOOK_EVERY_S", 0.05)
    run_dir = RunDir.create(tmp_path)
    write_status(run_dir, start_status(9))
    return run_dir


@pytest.fixture
def start(run_dir, tmp_path):
    """`start(patience_s, *words)` starts a rank, as torchrun's first."""
    started = []

    def call(*words):
        note = tmp_path / "error.json"
        process = subprocess.Popen(
            [sys.executable, "-c", RANK, run_dir.path, *map(str, words)],
            env={"TORCHELASTIC_ERROR_FILE": str(note), "PYTHONPATH": ":".join(sys.path)},
        )
        started.append(process)
        wait_for(run_dir.pulse(0).exists)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


def test_a_rank_that_stands_still_is_asked_for_its_stacks_and_ended(run_dir, start, tmp_path):
    process = start(0.2)
    watch = HangWatch(run_dir)
    wait_for(lambda: watch.look() or process.poll() is not None)
    assert process.returncode == -signal.SIGKILL
    said = run_dir.rank_log(0).read_text()
    assert 'File "<string>"' in said and "[ERROR] hung: no progress for " in said
    error = explain_failure(tmp_path, "")
    assert error.exit_code == 6 and "rank 0 failed in step 3: hung: no progress" in error.message
    assert "--hang-timeout" in error.hint
    status = read_status(run_dir)
    assert (status.state, status.exit_code) == ("failed", 6) and status.message in error.message
    watch.look()  # a pulse that is left says nothing


def test_a_call_that_holds_the_interpreter_cannot_hide(run_dir, start):
    process = start(0.2, "held")
    watch = HangWatch(run_dir)
    wait_for(lambda: watch.look() or process.poll() is not None)
    assert "its process runs, but none of its Python threads does" in read_status(run_dir).message
    assert 'File "<string>"' in run_dir.rank_log(0).read_text()  # written by the handler of the signal


def test_a_rank_that_is_stopped_by_a_signal_is_named_so(run_dir, start):
    process = start(0.2, "alive")
    process.send_signal(signal.SIGSTOP)
    watch = HangWatch(run_dir)
    wait_for(lambda: watch.look() or process.poll() is not None)
    assert "rank 0 hangs: its process is stopped (SIGSTOP); last seen in step 3 (save)" in read_status(run_dir).message


@pytest.mark.parametrize("words", [(0.05, "alive"), (0, "stuck")])
def test_one_that_goes_on_or_may_take_for_ever_is_left_alone(run_dir, start, words):
    process = start(*words)
    watch = HangWatch(run_dir)
    for _ in range(60):  # thrice the patience of a rank that stands still
        watch.look()
        time.sleep(0.05)
    assert process.poll() is None and read_status(run_dir).state == "starting"
