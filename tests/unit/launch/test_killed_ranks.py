"""Ranks that a signal ended: who leaves their notes, and who reads them."""

import json
import socket
import time
from dataclasses import replace

import pytest

from xtuner.launch.failure import await_notes, explain_failure
from xtuner.launch.job import Job
from xtuner.launch.killed_ranks import KilledRanks
from xtuner.run.failure import RankFailure, leave_note, read_failures
from xtuner.run.layout import RunDir
from xtuner.run.rank_place import RankPlace, own_place, read_places, take_place


def _line(exit_code, local_rank=1):
    return f"E0101 api.py:1002] failed (exitcode: {exit_code}) local_rank: {local_rank} (pid: 8) of binary: python\n"


_ASKED = "W0101 api.py:900] Sending process 8 closing signal SIGTERM\n"


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path / "w")


@pytest.fixture
def there(tmp_path, run_dir, monkeypatch):
    """The launch on the machine without the first rank, whose second process is rank 3."""
    job = Job(("torchrun",), tmp_path / "node1", None, 2, num_machines=2)
    attempt = job.log_dir / "abc" / "attempt_0"
    (attempt / "1").mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(attempt / "1" / "error.json"))
    take_place(RankPlace(3, run_dir))
    job.torchrun_log.write_text("")
    return job, attempt


def test_a_rank_tells_the_launcher_of_its_machine_who_it_is(there, run_dir):
    assert own_place() == RankPlace(3, run_dir)
    assert read_places(there[1]) == read_places(there[0].log_dir) == {1: RankPlace(3, run_dir)}
    (there[1] / "1" / "rank.json").write_text('{"rank": "3"}')
    assert read_places(there[1]) == {}


def test_a_killed_rank_is_named_on_its_machine_and_on_the_first(there, run_dir, tmp_path, monkeypatch):
    job, attempt = there
    watch = KilledRanks(job)
    watch.look(attempt)
    assert read_failures(run_dir.failures) == []
    job.torchrun_log.write_text(_line(-9))
    watch.look(attempt)
    [failure] = read_failures(run_dir.failures)
    assert (failure.rank, failure.host, failure.signal_name) == (3, socket.gethostname(), "SIGKILL")
    assert explain_failure(attempt, "", job).message == "rank 3 was ended by SIGKILL and left no message"

    here = Job(("torchrun",), tmp_path / "torchrun", run_dir, 2, num_machines=2)
    name = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    error = explain_failure(here.log_dir, "", here)
    assert error.message == f"rank 3 on {name} was ended by SIGKILL and left no message" and "dmesg" in error.hint


def test_a_segmentation_fault_has_no_hint_about_memory(there, run_dir):
    job, attempt = there
    job.torchrun_log.write_text(_line(-11))
    KilledRanks(job).look(attempt)
    error = explain_failure(attempt, "", job)
    assert "rank 3 was ended by SIGSEGV" in error.message and "memory" not in error.hint and error.hint


@pytest.mark.parametrize("says", [_line(-15), _line(6), _line(-9, local_rank=0), _ASKED + _line(-9)])
def test_no_note_of_who_was_asked_to_go_or_failed_or_is_unknown(there, run_dir, says):
    job, attempt = there
    job.torchrun_log.write_text(says)
    KilledRanks(job).look(attempt)
    assert read_failures(run_dir.failures) == []


def test_a_rank_that_has_said_why_it_fails_is_believed(there, run_dir):
    job, attempt = there
    (attempt / "1" / "error.json").write_text("{}")
    job.torchrun_log.write_text(_line(-6))
    KilledRanks(job).look(attempt)
    assert read_failures(run_dir.failures) == []


def test_on_a_machine_alone_a_rank_that_was_killed_before_it_could_say_who_it_is_is_known(tmp_path, run_dir):
    job = Job(("torchrun",), tmp_path / "torchrun", run_dir, 2)
    job.log_dir.mkdir()
    job.torchrun_log.write_text(_line(-9))
    KilledRanks(job).look(None)
    assert [failure.rank for failure in read_failures(run_dir.failures)] == [1]


def test_who_only_lost_a_connection_waits_for_the_others_to_say_why(there, run_dir, tmp_path, monkeypatch):
    job, attempt = there
    extra = {"rank": 0, "timestamp": "1", "message": "Connection closed by peer [10.0.0.2]", "py_callstack": ""}
    here = tmp_path / "torchrun" / "attempt_0"
    (here / "0").mkdir(parents=True)
    (here / "0" / "error.json").write_text(json.dumps({"message": {"message": "m", "extraInfo": extra}}))
    looks = []

    def sleep(_):
        looks.append(None)
        if len(looks) == 2:
            job.torchrun_log.write_text(_line(-9))
            KilledRanks(job).look(attempt)

    monkeypatch.setattr("xtuner.launch.failure.time.sleep", sleep)
    alone = Job(("torchrun",), here, run_dir, 1)
    alone.torchrun_log.write_text("")
    assert not await_notes(here, alone) and looks == [], "there are no others"
    assert await_notes(here, replace(alone, num_machines=2)) and len(looks) == 2


def test_who_was_killed_before_the_ranks_have_met_waits_for_nobody(tmp_path, run_dir):
    job = Job(("torchrun",), tmp_path / "torchrun", run_dir, 1, num_machines=2)
    job.log_dir.mkdir()
    job.torchrun_log.write_text("Root Cause:\n  rank      : 1 (local_rank: 0)\n  exitcode  : -9 (pid: 6)\n")
    assert await_notes(job.log_dir, job)


def test_torchrun_names_the_killed_rank_and_not_who_lost_its_connection_in_the_same_second(tmp_path):
    """It names one alone, which is all that is left of an attempt after which it starts the ranks again."""
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    note = tmp_path / "error.json"
    lost = RankFailure(0, 3, time.time() - 1, 6, "Connection closed by peer", "", "Traceback")
    leave_note(lost, "RuntimeError", note)
    killed = ProcessFailure(local_rank=1, pid=2, exitcode=-9, error_file=str(tmp_path / "none"))
    assert ProcessFailure(local_rank=0, pid=1, exitcode=6, error_file=str(note)).timestamp > killed.timestamp
    leave_note(replace(lost, message="it broke"), "RuntimeError", note)
    assert ProcessFailure(local_rank=0, pid=1, exitcode=6, error_file=str(note)).timestamp <= killed.timestamp
    assert read_failures(tmp_path)[0].time == lost.time
