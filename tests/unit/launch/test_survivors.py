"""Ranks that torchrun asked to go, and that do not."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from processes import wait_until_gone

from xtuner.launch import survivors
from xtuner.launch.job import Job
from xtuner.launch.survivors import Survivors


@pytest.fixture
def deaf(tmp_path, monkeypatch):
    """A job, and a process that does not go when it is asked to, as torchrun has just said."""
    monkeypatch.setattr(survivors, "_PATIENCE_S", 0.0)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        job = Job(("torchrun",), tmp_path, None, 1)
        line = f"W0101 api.py:1028] Sending process {process.pid} closing signal SIGTERM\n"
        job.torchrun_log.write_text(line)
        yield job, process
        process.kill()


def _note(attempt, exit_code):
    extra = {"rank": 1, "timestamp": "1", "exit_code": exit_code, "py_callstack": ""}
    (attempt / "1").mkdir(parents=True)
    (attempt / "1" / "error.json").write_text(json.dumps({"message": {"message": "m", "extraInfo": extra}}))


@pytest.mark.parametrize("has_note", [False, True])
def test_it_is_ended_when_another_failed(deaf, tmp_path, has_note):
    job, process = deaf
    if has_note:
        _note(tmp_path / "attempt_0", 6)
    Survivors(job).look(os.getpid(), tmp_path / "attempt_0")
    assert process.wait(60) == -signal.SIGKILL
    Survivors(job).look(os.getpid(), tmp_path / "attempt_0")  # it is nobody's child now


def test_it_is_left_alone_while_the_others_save_and_when_it_is_no_child_of_torchrun(deaf, tmp_path):
    job, process = deaf
    Survivors(job).look(os.getpid() + 1, tmp_path / "attempt_0")
    _note(tmp_path / "attempt_0", 7)
    Survivors(job).look(os.getpid(), tmp_path / "attempt_0")
    assert process.poll() is None
    process.kill()
    wait_until_gone([psutil.Process(process.pid)])
