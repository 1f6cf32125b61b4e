"""Which failures are not tried again, whatever `--max-restarts` says."""

import json
from dataclasses import replace

import pytest

from xtuner.errors import DataError, StoppedAndSaved
from xtuner.launch.attempts import Attempts
from xtuner.launch.job import Job
from xtuner.launch.restarts import Restarts
from xtuner.run.layout import RunDir
from xtuner.run.status import start_status, write_status


@pytest.fixture
def job(tmp_path):
    run_dir = RunDir.create(tmp_path)
    job = Job(("torchrun",), run_dir.logs / "torchrun", run_dir, 1, max_restarts=5)
    job.log_dir.mkdir()
    job.torchrun_log.write_text("")
    return job


def _fail(job, attempt, exit_code, message):
    """What rank 0 leaves in an attempt."""
    directory = job.log_dir / "abc" / f"attempt_{attempt}" / "0"
    directory.mkdir(parents=True)
    extra = {"rank": 0, "step": 3, "timestamp": "1", "exit_code": exit_code, "message": message, "py_callstack": ""}
    (directory / "error.json").write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))


def _watched(job):
    """What judges the restarts of `job`, and what it says."""
    said = []
    restarts = Restarts(job, job.run_dir, said.append)
    return restarts, said


def test_a_mistake_is_there_the_next_time_too(job):
    restarts, said = _watched(job)
    _fail(job, 0, 4, "chats.jsonl:3: no messages")
    restarts.attempt_began(job.log_dir / "abc" / "attempt_0")
    assert isinstance(restarts.error, DataError) and restarts.error.message == "chats.jsonl:3: no messages" and not said


def test_ranks_that_left_because_a_signal_told_them_to_are_not_called_back(job):
    status = replace(start_status(9), state="stopped", exit_code=7, message="stopped by SIGTERM after step 3 of 9")
    write_status(job.run_dir, replace(status, heartbeat_at=0))  # of a launch before
    restarts, said = _watched(job)
    _fail(job, 0, 6, "it broke")
    restarts.attempt_began(job.log_dir / "abc" / "attempt_0")
    assert restarts.error is None and said[0].startswith("rank 0 failed in step 3: it broke; restart 1 of 5")

    write_status(job.run_dir, replace(status, heartbeat_at=start_status(9).heartbeat_at))
    _fail(job, 1, 7, "stopped by SIGTERM after step 3 of 9")
    restarts.attempt_began(job.log_dir / "abc" / "attempt_1")
    assert isinstance(restarts.error, StoppedAndSaved) and len(said) == 1


def test_attempts_are_linked_in_their_order_and_those_of_launches_before_counted_on(job):
    (job.run_dir.logs / "attempt_0").mkdir()
    attempts = Attempts(job)
    assert attempts.look() == [] and attempts.newest is None
    for number in (9, 10):
        (job.log_dir / "abc" / f"attempt_{number}").mkdir(parents=True)
    assert [path.name for path in attempts.look()] == ["attempt_9"] and attempts.newest.name == "attempt_10"
    assert attempts.look() == []
    (job.log_dir / "abc" / "attempt_11").mkdir()
    assert [path.name for path in attempts.look()] == ["attempt_10"]
    links = {link.name: link.resolve().name for link in job.run_dir.logs.glob("attempt_*") if link.is_symlink()}
    assert links == {"attempt_1": "attempt_9", "attempt_2": "attempt_10", "attempt_3": "attempt_11"}
