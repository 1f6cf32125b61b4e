"""Reading a status that anyone could have written; a beat that never harms the training."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import PIPE

import pytest

from xtuner.run import status as status_module
from xtuner.run.layout import RunDir
from xtuner.run.status import Status, StatusBeat, judge, read_status, start_status, write_status

PRINT_STATUS = """
import json
from dataclasses import asdict
from xtuner.run.status import start_status
print(json.dumps(asdict(start_status(10))), flush=True)
input()
"""


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path)


def test_a_status_goes_round(run):
    status = replace(start_status(10), step=3, exit_code=6, message="好 \udcff")
    write_status(run, status)
    assert read_status(run) == status


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "1"},
        {"heartbeat_at": None},
        {"state": ["running"]},
        {"step": 1.5},
        {"message": 3},
        {"exit_code": "0"},
    ],
)
def test_a_status_of_wrong_types_is_none(run, changes):
    run.status_json.write_text(json.dumps({**asdict(start_status(10)), **changes}))
    assert read_status(run) is None


@pytest.mark.parametrize("text", ["", "{", "3", "[]", '"state"', "{}", '{"state": "running"}'])
def test_a_broken_status_is_none(run, text):
    assert read_status(run) is None
    run.status_json.write_text(text)
    assert read_status(run) is None


def test_keys_of_a_later_version_are_no_harm(run):
    status = start_status(10)
    run.status_json.write_text(json.dumps({**asdict(status), "boot_id": "x"}))
    assert read_status(run) == status


def test_states_and_pids_from_outside_are_judged_with_care():
    status = start_status(10)
    now = status.heartbeat_at
    assert judge(replace(status, state="\x1b[2J"), now) == "unknown"
    for pid in (0, -1, 10**30):
        assert judge(replace(status, pid=pid), now) == "lost"
    assert judge(replace(status, heartbeat_at=float("nan")), now) == "lost"
    assert judge(replace(status, pid=1, born=""), now) == "starting"  # there, though perhaps not ours to signal
    assert judge(replace(status, state="exporting"), now + 59) == "exporting"
    assert judge(replace(status, state="evaluating"), now + 59) == "evaluating"


@pytest.mark.parametrize("knows_birth", [True, False], ids=["with birth", "of an older version"])
def test_a_zombie_is_lost(knows_birth):
    """Nobody asks it how it ended, as in a container without an init: its number is still there."""
    with subprocess.Popen([sys.executable, "-c", PRINT_STATUS], stdin=PIPE, stdout=PIPE, text=True) as process:
        status = Status(**json.loads(process.stdout.readline()))
        status = status if knows_birth else replace(status, born="")
        assert judge(status, time.time()) == "starting"
        process.kill()
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        os.kill(process.pid, 0)  # the control: it is there
        assert judge(status, time.time()) == "lost"


def test_another_process_of_the_same_number_is_no_sign_of_life():
    """Numbers come again at once where a container starts anew."""
    status = start_status(10)
    assert judge(status, time.time()) == "starting"
    assert judge(replace(status, born=f"{status.born}0"), time.time()) == "lost"


def test_update_writes_only_when_the_state_changes(run):
    beat = StatusBeat(run, start_status(10), interval_s=600)
    beat.update(step=5)
    assert read_status(run).step == 0
    beat.update(state="running")
    assert (read_status(run).state, read_status(run).step) == ("running", 5)
    beat.update(step=6)
    beat.stop()
    assert read_status(run).step == 6


def test_update_does_not_wait_for_a_slow_disk(run, monkeypatch):
    beat = StatusBeat(run, start_status(10), interval_s=0.01)
    is_writing, may_go_on = status_module.threading.Event(), status_module.threading.Event()

    def slow_write(*_):
        is_writing.set()
        may_go_on.wait(30)

    monkeypatch.setattr(status_module, "write_status", slow_write)
    try:
        assert is_writing.wait(30)
        start = time.monotonic()
        beat.update(step=7)
        assert time.monotonic() - start < 5
    finally:
        may_go_on.set()
        beat.stop()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("any")])
def test_a_failed_write_is_tried_again(run, monkeypatch, error):
    write, failures = status_module.write_status, []

    def failing(run_dir, status):
        if len(failures) < 3:
            failures.append(1)
            raise error
        write(run_dir, status)

    monkeypatch.setattr(status_module, "write_status", failing)
    beat = StatusBeat(run, start_status(10), interval_s=0.01)
    beat.update(state="running")
    deadline = time.monotonic() + 20
    while read_status(run) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(failures) == 3 and read_status(run).state == "running"
    beat.stop()


def test_a_stopped_beat_does_not_come_back(run):
    beat = StatusBeat(run, start_status(10), interval_s=0.01)
    beat.stop()
    os.unlink(run.status_json)
    beat.stop()
    time.sleep(0.05)
    assert not run.status_json.exists()
