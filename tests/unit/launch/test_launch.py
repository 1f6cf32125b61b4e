"""The launch command, the ports, and who is blamed for a failed launch."""

import json
import shlex
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.errors import DataError, EnvironmentFault, TrainingFailed, UsageError
from xtuner.launch.devices import count_accelerators
from xtuner.launch.failure import explain_failure
from xtuner.launch.job import Job, read_job, write_job
from xtuner.launch.plan import LaunchPlan, sft_command, torchrun_command
from xtuner.launch.ports import check_endpoint
from xtuner.run.failure import RankFailure, failures_of, first_failure, forget_failures, leave_note
from xtuner.run.layout import RunDir
from xtuner.v1.config import TrainerConfig

PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(PATHS, PATHS)
def test_the_printed_command_is_the_argv(model, data):
    config = TrainerConfig(load_from=Path("/m") / model, dataset=Path(data), total_step=3)
    command = torchrun_command(LaunchPlan(config=config, nproc_per_node=2))
    assert shlex.split(shlex.join(command)) == command
    assert command == torchrun_command(LaunchPlan(config=config, nproc_per_node=2))


def test_bash_agrees_with_shlex():
    config = TrainerConfig(load_from=Path("a b'\"$(x)`;\n模型"), dataset=Path("-d"))
    command = torchrun_command(LaunchPlan(config=config, nproc_per_node=2))
    program = f"printf '%s\\0' {shlex.join(command)}"
    printed = subprocess.run(["bash", "-c", program], capture_output=True, check=True).stdout
    assert printed.decode().split("\0")[:-1] == command


def test_machines_are_counted_from_zero_and_need_a_place_to_meet():
    LaunchPlan(config=TrainerConfig(), nproc_per_node=1).check()
    with pytest.raises(UsageError, match="--rdzv-endpoint"):
        LaunchPlan(config=TrainerConfig(), nproc_per_node=1, nnodes=2).check()
    with pytest.raises(UsageError, match="--node-rank 2"):
        LaunchPlan(config=TrainerConfig(), nproc_per_node=1, nnodes=2, node_rank=2, rdzv_endpoint="a:1").check()
    plan = LaunchPlan(config=TrainerConfig(), nproc_per_node=1, nnodes=2, node_rank=1, rdzv_endpoint="a:1")
    assert {"--nnodes=2", "--node-rank=1", "--rdzv-endpoint=a:1"} < set(torchrun_command(plan))


def test_restarts_are_torchruns():
    plan = LaunchPlan(config=TrainerConfig(), nproc_per_node=1, max_restarts=3)
    assert "--max-restarts=3" in torchrun_command(plan) and "--max-restarts=3" in sft_command(plan, default_nproc=1)
    plan = LaunchPlan(config=TrainerConfig(), nproc_per_node=1)
    assert not any("restarts" in argument for argument in torchrun_command(plan) + sft_command(plan, default_nproc=1))


def test_a_job_is_read_as_it_was_written(tmp_path):
    run_dir = RunDir(tmp_path / "a b\n模型\udc80")
    run_dir.path.mkdir()
    job = Job(("torchrun", "it's\n模型\udc80"), run_dir.logs / "torchrun", run_dir, 2, {"A": "b"}, 3)
    assert read_job(write_job(job)) == job
    elsewhere = Job(("torchrun",), tmp_path / "node1", None, 1)
    assert read_job(write_job(elsewhere)) == elsewhere and elsewhere.home == RunDir(tmp_path / "node1")


def test_endpoints():
    for wrong in ("host", "host:", ":1", "host:99999", "host:x"):
        with pytest.raises(UsageError, match="HOST:PORT"):
            check_endpoint(wrong, is_host_here=False)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        endpoint = f"localhost:{taken.getsockname()[1]}"
        check_endpoint(endpoint, is_host_here=False)
        with pytest.raises(EnvironmentFault, match="in use"):
            check_endpoint(endpoint, is_host_here=True)


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2), ("GPU-1,GPU-2,", 2)])
def test_visible_devices_win(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_accelerators() == count


SUMMARY = """Failures:
[1]:
  time      : 2026-01-01_00:00:00
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 10)
Root Cause (first observed failure):
[0]:
  rank      : 3 (local_rank: 3)
  exitcode  : -9 (pid: 11)
"""


def _note(log_dir, rank, **extra):
    path = log_dir / "abc" / "attempt_0" / str(rank) / "error.json"
    path.parent.mkdir(parents=True)
    extra = {"rank": rank, "step": 7, "time": 1.0 + rank, "exit_code": 6, "py_callstack": "Traceback\n  x\n", **extra}
    path.write_text(json.dumps({"message": {"message": "m", "extraInfo": {"timestamp": "1", **extra}}}))


def test_the_cause_is_blamed_and_not_what_followed(tmp_path):
    _note(tmp_path, 0, message="Connection closed by peer [127.0.0.1]", time=0.5)
    _note(tmp_path, 1, message="stopped by SIGTERM", exit_code=8, time=0.7)
    _note(tmp_path, 2, message="it broke", time=0.9)
    error = explain_failure(tmp_path, SUMMARY)
    assert isinstance(error, TrainingFailed) and error.message.startswith("rank 2 failed in step 7: it broke")


def test_of_a_rank_that_hung_its_own_note_is_told(tmp_path):
    """The others blame it too, a moment earlier, and cannot know its stack."""
    note = RankFailure(1, 7, 0.5, 6, "hung", "", "")
    leave_note(note, "TrainingFailed", tmp_path / "0" / "error.json")
    assert explain_failure(tmp_path, "").message == "rank 1 failed in step 7: hung"
    own = replace(note, time=0.7, traceback="Traceback\n  x\n")
    leave_note(own, "TrainingFailed", tmp_path / "1" / "error.json")
    assert explain_failure(tmp_path, "").message == "rank 1 failed in step 7: hung\n  Traceback\n    x"


def test_a_killed_rank_is_found_in_the_summary(tmp_path):
    _note(tmp_path, 0, message="Connection closed by peer [127.0.0.1]")
    error = explain_failure(tmp_path, SUMMARY)
    assert "rank 3 was ended by SIGKILL" in error.message and "memory" in error.hint


def test_the_rank_that_torchrun_takes_for_the_cause_is_named_before_those_that_had_to_be_killed_too(tmp_path):
    output = SUMMARY.replace("exitcode  : -15", "exitcode  : -9")
    assert "rank 3 was ended by SIGKILL" in explain_failure(tmp_path, output).message
    assert "rank 0 was ended by SIGKILL" in explain_failure(tmp_path, output.replace("Root Cause", "")).message


def test_a_rank_killed_before_a_restart_is_found_in_the_line_about_the_last_attempt(tmp_path):
    lines = "E0101 api.py:1002] failed (exitcode: 6) local_rank: 0 (pid: 7) of binary: python\n"
    lines += "E0101 api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 8) of binary: python\n"
    assert explain_failure(tmp_path, lines).message == "rank 1 was ended by SIGKILL and left no message"
    assert "SIGKILL" not in explain_failure(tmp_path, lines + lines.splitlines()[0]).message


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGKILL"])
def test_a_rank_that_was_asked_to_go_is_not_blamed(tmp_path, signal_name):
    """One that does not hear torchrun's signal is killed after it."""
    _note(tmp_path, 0, message="Connection closed by peer [127.0.0.1]")
    asked = f"W0101 api.py:900] Sending process 11 closing signal {signal_name}\n"
    assert explain_failure(tmp_path, asked + SUMMARY).message.startswith("rank 0 failed in step 7: Connection closed")
    line = "E0101 api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 11) of binary: python\n"
    assert "SIGKILL" not in explain_failure(tmp_path, asked + line).message


def test_a_users_mistake_keeps_its_class_and_hint(tmp_path):
    _note(tmp_path, 1, message="d.jsonl:3: bad", exit_code=4, hint="mend it")
    error = explain_failure(tmp_path, "")
    assert isinstance(error, DataError) and (error.message, error.hint) == ("d.jsonl:3: bad", "mend it")


def test_a_rank_of_another_machine_is_blamed_where_its_note_lies(tmp_path):
    """Here its machine's torchrun has no note of it; what the ranks here met is the end of their connection."""
    run_dir = RunDir.create(tmp_path / "w")
    log_dir = tmp_path / "torchrun"
    job = Job((), log_dir, run_dir, num_ranks=1)
    _note(log_dir, 0, message="Connection closed by peer [10.0.0.2]", time=9.0)
    lost = explain_failure(log_dir, "", job)
    assert lost.message.startswith("rank 0 failed in step 7: Connection closed by peer")
    there = RankFailure(2, 7, 99.0, 6, "it broke", "mend it", "Traceback\n  x\n", "node-b")  # a clock that is ahead
    here = RankFailure(0, 7, 1.0, 6, "an older note of the same rank", "", "", socket.gethostname())
    for failure in (there, here):
        leave_note(failure, "ValueError", run_dir.failure_note(failure.rank))
    error = explain_failure(log_dir, "", job)
    assert (
        error.message == "rank 2 on node-b failed in step 7: it broke\n  Traceback\n    x" and error.hint == "mend it"
    )
    alert = first_failure(failures_of(log_dir, run_dir))
    assert alert == there and here.who == "rank 0"
    forget_failures(run_dir)
    assert explain_failure(log_dir, "", job).message == lost.message


def test_no_notes_and_no_summary(tmp_path):
    (tmp_path / "error.json").write_text("{")
    assert "last words" in explain_failure(tmp_path, "first\nlast words\n").message
    assert "nothing" in explain_failure(tmp_path, "").message
