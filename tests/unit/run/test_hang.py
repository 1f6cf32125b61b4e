"""Which rank is taken for hung, and which one is blamed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from processes import wait_for

from xtuner.run.hang import IdleTime, blame
from xtuner.run.layout import RunDir
from xtuner.run.process import state_of
from xtuner.run.pulse import own_pulse, read_pulses, write_pulse

COMPUTE, FETCH = "forward and backward pass", "waiting for its batch"


def test_only_time_in_which_the_watcher_ran_counts():
    idle = IdleTime(interval_s=5.0)
    assert [idle.look(7, now) for now in (100, 105, 110)] == [0, 5, 10]
    assert idle.look(8, 115) == 0, "it goes on"
    assert idle.look(8, 121) == 6, "a look may come late"
    # The machine slept, or the whole job was stopped for an hour: that is one late look.
    assert idle.look(8, 3721) == 16 and idle.look(8, 3726) == 21


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path)


def _pulse(rank=0, **values):
    return replace(own_pulse(rank, 1.0), step=3, phase=COMPUTE, num_beats=4, progress=20, **values)


def test_pulses_are_read_as_they_were_written_last(run_dir):
    assert read_pulses(run_dir) == {}
    write_pulse(run_dir, _pulse(1, error_file="/a/long/name" * 9))
    write_pulse(run_dir, _pulse(0))
    write_pulse(run_dir, replace(_pulse(1), num_beats=5))  # shorter than what stood there
    assert read_pulses(run_dir) == {0: _pulse(0), 1: replace(_pulse(1), num_beats=5)}
    assert read_pulses(run_dir)[0].process.is_alive and _pulse().where == f"step 3 ({COMPUTE})"
    for broken in ('{"rank": 0}', "[]", "{", '{"rank": "0", "host": "h", "pid": 1, "born": ""}'):
        run_dir.pulse(0).write_text(broken)
        assert list(read_pulses(run_dir)) == [1]


def test_the_rank_that_has_come_least_far_holds_the_others():
    pulses = {rank: _pulse(rank) for rank in range(4)}
    pulses[2] = replace(pulses[2], progress=19, phase=FETCH)
    before = {rank: replace(pulse, num_beats=1) for rank, pulse in pulses.items()}
    found = blame(before, pulses)
    assert (found.rank, found.silent) == (2, ())
    assert found.text == f"rank 2 lags behind in step 3 ({FETCH}); the others wait in step 3 ({COMPUTE})"
    even = blame(before, {rank: _pulse(rank) for rank in range(4)})
    assert (even.rank, even.text) == (None, f"all ranks are in step 3 ({COMPUTE})")


def test_a_rank_none_of_whose_threads_runs_is_blamed_first():
    elsewhere = replace(_pulse(2), host="another-host")
    gone = replace(_pulse(1), born="long ago")
    before = {0: _pulse(0), 1: gone, 2: elsewhere}
    found = blame(before, {0: replace(_pulse(0), num_beats=6, progress=1), 1: gone, 2: elsewhere})
    assert (found.rank, found.silent) == (1, (1, 2))
    assert found.text == (
        "rank 1 hangs: its process is gone; rank 2 hangs: its process on another-host does not answer; "
        f"last seen in step 3 ({COMPUTE}); the others wait in step 3 ({COMPUTE})"
    )
    assert "none of its Python threads does" in blame({0: _pulse()}, {0: _pulse()}).text


def test_a_process_that_is_stopped_is_told():
    program = "from xtuner.run.process import this_process; print(this_process().born, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        pulse = replace(_pulse(), pid=process.pid, born=process.stdout.readline().rstrip())
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: state_of(process.pid) == "T")
        assert blame({0: pulse}, {0: pulse}).text.startswith("rank 0 hangs: its process is stopped (SIGSTOP); ")
        process.kill()
    assert state_of(os.getpid()) in ("R", "S") and state_of(process.pid) == ""
