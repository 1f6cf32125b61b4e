"""Of launches that find a run dead at the same time, one goes on with it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from xtuner.errors import EnvironmentFault, WorkDirInUse
from xtuner.run.checkpoints import commit, temporary_directory
from xtuner.run.claim import claim_run, newest_claim, newest_number, require_dead, take_over_claim
from xtuner.run.layout import RunDir
from xtuner.run.process import this_process
from xtuner.run.resume import find_resume_point
from xtuner.run.status import Status, write_status
from xtuner.run.supervision import supervise_here


@pytest.fixture
def run_dir(tmp_path):
    """A dead run that can be resumed."""
    run_dir = RunDir.create(tmp_path)
    temporary = temporary_directory(run_dir, 1, "aa")
    temporary.mkdir(parents=True)
    commit(run_dir, temporary, 1, [], {})
    write_status(run_dir, Status("running", 1, 9, 2**22 + 1, "elsewhere", 0.0, 0.0, 0.0))
    return run_dir


def _edit(run_dir, **changes):
    path = run_dir.claims / f"{newest_number(run_dir):05d}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Waits at the gate, then resumes; says who it is and holds what it has got until its stdin ends.
LAUNCH = """
import sys
from pathlib import Path
from xtuner.errors import WorkDirInUse
from xtuner.run.claim import claim_run
from xtuner.run.resume import find_resume_point
print("ready", flush=True)
sys.stdin.readline()
try:
    point = find_resume_point("auto", Path(sys.argv[1]))
    print(claim_run(point.run_dir, point.num_claims), flush=True)
    sys.stdin.readline()
except WorkDirInUse as error:
    print(error, flush=True)
"""


def _launches(work_dir, number, fault=""):
    environment = {**os.environ, "XTUNER_FAULT": fault}
    command = [sys.executable, "-c", LAUNCH, str(work_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    launches = [subprocess.Popen(command, **pipes) for _ in range(number)]
    assert [launch.stdout.readline() for launch in launches] == ["ready\n"] * number
    return launches


def _go(launch):
    launch.stdin.write("go\n")
    launch.stdin.flush()


def _end(launch):
    launch.kill()
    launch.communicate()


def test_of_four_launches_one_goes_on_again_and_again(run_dir):
    """Each round's winner is killed, so that the next round meets a stale claim."""
    for number in range(1, 4):
        launches = _launches(run_dir.work_dir, 4, "claim.pre:sleep=0.2")  # all have found it dead by then
        for launch in launches:
            _go(launch)
        said = [launch.stdout.readline().strip() for launch in launches]
        assert said.count(str(number)) == 1, said
        winner = launches[said.index(str(number))]
        losers = [words for words in said if words != str(number)]
        assert all(f"the run {run_dir.path} is in use: " in words for words in losers), said
        assert any("faster to go on with it" in words for words in losers)  # the control: it was a race
        assert newest_claim(run_dir).process.pid == winner.pid
        for launch in launches:
            _end(launch)


def test_a_live_claim_is_respected_and_a_dead_one_is_not(run_dir):
    [launch] = _launches(run_dir.work_dir, 1)
    _go(launch)
    assert launch.stdout.readline() == "1\n"
    with pytest.raises(WorkDirInUse, match=rf"process {launch.pid} on .* goes on with it") as caught:
        find_resume_point("auto", run_dir.work_dir)
    assert caught.value.exit_code == 9 and f"xtuner monitor {run_dir.path}" in caught.value.hint
    _end(launch)
    point = find_resume_point("auto", run_dir.work_dir)
    assert point.num_claims == 1 and claim_run(run_dir, 1) == 2
    assert find_resume_point("auto", run_dir.work_dir).num_claims == 2  # one's own is no hindrance
    _edit(run_dir, born="another process with our number")
    require_dead(run_dir)


def test_a_claimer_that_is_killed_while_it_writes_is_waited_for_a_minute(run_dir):
    [launch] = _launches(run_dir.work_dir, 1, "claim.made:SIGKILL")
    launch.communicate("go\n")
    assert launch.returncode == -signal.SIGKILL and newest_claim(run_dir).process is None
    with pytest.raises(WorkDirInUse, match="another process goes on with it"):
        find_resume_point("auto", run_dir.work_dir)
    an_hour_ago = time.time() - 3600
    os.utime(run_dir.claims / "00001.json", (an_hour_ago, an_hour_ago))
    assert claim_run(run_dir, find_resume_point("auto", run_dir.work_dir).num_claims) == 2


def test_what_was_seen_before_another_went_on_is_no_longer_worth_anything(run_dir):
    point = find_resume_point("auto", run_dir.work_dir)
    [faster] = _launches(run_dir.work_dir, 1)
    _go(faster)
    assert faster.stdout.readline() == "1\n"
    _end(faster)  # it has trained on, and is dead again: the checkpoint of `point` may be gone
    with pytest.raises(WorkDirInUse, match="faster to go on with it"):
        claim_run(point.run_dir, point.num_claims)


def test_no_lock_is_needed(run_dir, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(fcntl, "lockf", lambda *_: None)
    assert claim_run(run_dir, 0) == 1
    with pytest.raises(WorkDirInUse):
        claim_run(run_dir, 0)


def test_on_another_host_its_launch_and_its_heartbeat_tell(run_dir):
    claim_run(run_dir, 0)
    _edit(run_dir, host="another-host")
    with pytest.raises(WorkDirInUse, match="on another-host goes on with it"):
        require_dead(run_dir)  # it may be starting
    now = time.time()
    mine = Status("running", 1, 9, os.getpid(), "another-host", now, now - 3600, now)
    write_status(run_dir, mine)  # it was begun, and its heart has stopped
    require_dead(run_dir)
    write_status(run_dir, replace(mine, heartbeat_at=now))
    with pytest.raises(WorkDirInUse, match="it is running"):
        require_dead(run_dir)
    write_status(run_dir, replace(mine, pid=1, heartbeat_at=0.0))  # of the ranks that were before it
    with pytest.raises(WorkDirInUse, match="on another-host"):
        require_dead(run_dir)
    _edit(run_dir, at=now - 3600)
    require_dead(run_dir)


def test_a_launch_that_is_supervised_elsewhere_ends_when_it_says_so(run_dir):
    claim_run(run_dir, 0)
    _edit(run_dir, host="another-host")
    file = supervise_here(run_dir, is_detached=True)
    file.update(host="another-host")
    with pytest.raises(WorkDirInUse, match="being started or goes on"):
        require_dead(run_dir)
    file.update(exit_code=6)
    require_dead(run_dir)


def test_the_process_that_supervises_takes_the_claim_over(run_dir):
    claim_run(run_dir, 0)
    take_over_claim(run_dir, 1)
    assert newest_number(run_dir) == 1  # it was this one's already
    _edit(run_dir, pid=2**22 + 1)  # the process that has prepared the launch
    take_over_claim(run_dir, 1)
    assert newest_claim(run_dir).process == this_process() and newest_number(run_dir) == 2
    _edit(run_dir, **asdict(replace(this_process(), pid=1, born="of the one that was faster")))
    with pytest.raises(WorkDirInUse):
        take_over_claim(run_dir, 1)


def test_a_run_directory_that_cannot_be_written_is_not_claimed(run_dir, monkeypatch):
    from xtuner.run import faults

    monkeypatch.setattr(faults, "_FAULTS", faults._read("claim.made:enospc"))
    with pytest.raises(EnvironmentFault, match="claims cannot be written: No space left"):
        claim_run(run_dir, 0)
    assert newest_claim(run_dir) is None and claim_run(run_dir, 0) == 1
