"""`supervisor.json`: written by the supervising process, read by whoever comes back."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from xtuner.run.layout import RunDir
from xtuner.run.status import start_status, write_status
from xtuner.run.supervision import elapsed_s, judge_launch, read_supervision, state_of, supervise_here, supervised_runs


def _edit(run_dir, **changes):
    values = json.loads(run_dir.supervisor_json.read_text())
    run_dir.supervisor_json.write_text(json.dumps({**values, **changes}))


def test_a_launch_goes_on_until_it_says_how_it_ended(tmp_path):
    run_dir = RunDir.create(tmp_path)
    assert read_supervision(run_dir) is None and supervised_runs(tmp_path) == []
    file = supervise_here(run_dir, is_detached=True)
    known = read_supervision(run_dir)
    assert known.pid == os.getpid() and known.is_detached and not known.has_ended and not known.is_lost
    assert supervised_runs(tmp_path) == [run_dir] == supervised_runs(run_dir.path)
    file.update(num_stop_signals=1)
    file.update(exit_code=7, message="stopped", hint="go on")
    known = read_supervision(run_dir)
    assert (known.num_stop_signals, known.exit_code, known.message, known.hint) == (1, 7, "stopped", "go on")
    assert supervised_runs(tmp_path) == []


def test_a_process_that_is_gone_or_another_with_its_number_is_lost(tmp_path):
    run_dir = RunDir.create(tmp_path)
    program = "import sys; from pathlib import Path; from xtuner.run.layout import RunDir\n"
    program += "from xtuner.run.supervision import supervise_here\n"
    program += "supervise_here(RunDir(Path(sys.argv[1])), is_detached=False)"
    subprocess.run([sys.executable, "-c", program, run_dir.path], check=True)
    assert read_supervision(run_dir).is_lost and supervised_runs(tmp_path) == []
    _edit(run_dir, pid=os.getpid())
    assert read_supervision(run_dir).is_lost and supervised_runs(tmp_path) == []


def test_on_another_host_the_heartbeat_of_the_run_tells(tmp_path):
    run_dir = RunDir.create(tmp_path)
    supervise_here(run_dir, is_detached=True)
    _edit(run_dir, host="another-host")
    assert supervised_runs(tmp_path) == [run_dir]  # it may be starting
    _edit(run_dir, begun_at=0)
    assert supervised_runs(tmp_path) == []
    write_status(run_dir, start_status(10))
    assert supervised_runs(tmp_path) == [run_dir]
    assert not read_supervision(run_dir).is_lost


@pytest.mark.parametrize(
    ("launch", "ranks", "state", "expected_s"),
    [
        ({"begun_at": 9100}, None, "starting", 40),  # no rank has begun
        ({"begun_at": 9100, "exit_code": 6}, None, "failed", None),  # nor will one
        ({"begun_at": 9100}, (9120, 9135), "running", 40),
        ({"begun_at": 9100, "exit_code": 0}, (9120, 9135), "finished", 35),  # until the last word
        ({"begun_at": 9100}, (9050, 9060), "starting", 40),  # gone on with
        ({"begun_at": 9100, "exit_code": 6}, (9050, 9060), "failed", None),
        ({"begun_at": 9100, "restarted_at": 9130, "num_restarts": 1}, (9132, 9135), "running", 40),  # by torchrun
        ({"begun_at": 100, "exit_code": 6}, (9120, 9135), "running", 20),  # gone on with by torchrun itself, later
        (None, (9120, 9135), "finished", 15),
        (None, None, "unknown", None),
    ],
)
def test_time_counts_from_the_launch(tmp_path, launch, ranks, state, expected_s):
    run_dir = RunDir.create(tmp_path)
    if launch is not None:
        supervise_here(run_dir, is_detached=False).update(**launch)
    status = ranks and replace(start_status(9), started_at=ranks[0], heartbeat_at=ranks[1])
    assert elapsed_s(read_supervision(run_dir), status, state, 9140) == expected_s


# How ranks end that torchrun starts again: one fails, one is stopped as another was killed, the first one is killed.
_FAILURES = [
    {"state": "failed", "exit_code": 6},
    {"state": "failed"},
    {"state": "stopped", "exit_code": 8},
    {"state": "running", "pid": 0},
]


@pytest.mark.parametrize("end", _FAILURES, ids=lambda end: "-".join(map(str, end.values())))
def test_a_run_whose_ranks_failed_is_restarting_while_they_may_be_started_again(tmp_path, end):
    run_dir = RunDir.create(tmp_path)
    write_status(run_dir, replace(start_status(10), **end))
    without = state_of(run_dir, time.time())
    assert without != "restarting", "started by torchrun itself"
    file = supervise_here(run_dir, is_detached=True, max_restarts=1)
    ended = replace(start_status(10), **end)
    write_status(run_dir, ended)
    assert state_of(run_dir, time.time()) == "restarting" and supervised_runs(tmp_path) == [run_dir]
    file.update(num_restarts=1, restarted_at=ended.heartbeat_at + 1)
    assert state_of(run_dir, time.time()) == "restarting", "the new ranks have said nothing yet"
    write_status(run_dir, replace(start_status(10), heartbeat_at=ended.heartbeat_at + 2))
    assert state_of(run_dir, time.time()) == "starting"
    write_status(run_dir, replace(ended, heartbeat_at=ended.heartbeat_at + 3))
    assert state_of(run_dir, time.time()) == without, "none is left"
    file.update(num_restarts=0, restarted_at=0, num_stop_signals=1)
    assert state_of(run_dir, time.time()) == without, "a launch that is stopped starts nothing"
    file.update(num_stop_signals=0, exit_code=6)
    assert state_of(run_dir, time.time()) == without


@pytest.mark.parametrize(
    "end",
    [
        {"state": "failed", "exit_code": 4},
        {"state": "stopped", "exit_code": 7},
        {"state": "finished", "exit_code": 0},
        {"state": "running"},
    ],
    ids=lambda end: "-".join(map(str, end.values())),
)
def test_what_is_no_failure_or_there_the_next_time_too_is_no_restart(tmp_path, end):
    run_dir = RunDir.create(tmp_path)
    supervise_here(run_dir, is_detached=True, max_restarts=5)
    write_status(run_dir, replace(start_status(10), **end))
    assert state_of(run_dir, time.time()) == end["state"]


def test_a_supervisor_on_another_host_is_believed_for_ten_minutes_to_restart_ranks_that_said_they_failed(tmp_path):
    run_dir = RunDir.create(tmp_path)
    supervise_here(run_dir, is_detached=True, max_restarts=1)
    _edit(run_dir, host="another-host", begun_at=0)
    failed = replace(start_status(10), state="failed", exit_code=6)
    write_status(run_dir, failed)
    assert state_of(run_dir, failed.heartbeat_at + 599) == "restarting" and supervised_runs(tmp_path) == [run_dir]
    assert state_of(run_dir, failed.heartbeat_at + 601) == "failed"
    write_status(run_dir, replace(failed, state="running", exit_code=None))
    assert state_of(run_dir, failed.heartbeat_at + 100) == "lost", "the whole machine may be gone"
    _edit(run_dir, num_restarts=1, restarted_at=failed.heartbeat_at + 100)
    assert state_of(run_dir, failed.heartbeat_at + 200) == "restarting"
    assert state_of(run_dir, failed.heartbeat_at + 701) == "lost"


def test_a_process_that_is_gone_restarts_nothing(tmp_path):
    run_dir = RunDir.create(tmp_path)
    supervise_here(run_dir, is_detached=True, max_restarts=1)
    write_status(run_dir, replace(start_status(10), state="failed", exit_code=6))
    _edit(run_dir, born="long ago")
    assert state_of(run_dir, time.time()) == "failed" and supervised_runs(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 2, "pid": 1}', '{"schema": 1, "pid": "1"}']
)
def test_a_broken_file_says_nothing(tmp_path, text):
    run_dir = RunDir.create(tmp_path)
    run_dir.supervisor_json.write_text(text)
    assert read_supervision(run_dir) is None and supervised_runs(tmp_path) == []


def test_the_state_of_a_run_before_its_ranks_have_said_anything(tmp_path):
    run_dir = RunDir.create(tmp_path)
    old = start_status(10)
    file = supervise_here(run_dir, is_detached=True)

    def state(status=None, now=old.heartbeat_at):
        return judge_launch(read_supervision(run_dir), status, now)

    assert judge_launch(None, None, 0.0) == "unknown" and judge_launch(None, old, old.heartbeat_at) == "starting"
    stopped = replace(old, state="stopped", heartbeat_at=0.0)
    assert state() == "starting" == state(stopped), "that is the state of the launch before"
    assert state(replace(stopped, heartbeat_at=time.time())) == "stopped"
    for exit_code, ended in ((0, "finished"), (7, "stopped"), (8, "stopped"), (6, "failed"), (5, "failed")):
        file.update(exit_code=exit_code)
        assert state() == ended == state(stopped)
    _edit(run_dir, exit_code=None, host="another-host")
    assert state() == "starting" and state(now=old.heartbeat_at + 3600) == "lost"
    _edit(run_dir, host=socket.gethostname(), born="long ago")
    assert state() == "lost"
