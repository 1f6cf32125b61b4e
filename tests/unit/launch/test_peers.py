"""A launch on another machine that ends before the ranks have met."""

import os

import pytest

from xtuner.errors import EnvironmentFault
from xtuner.launch import peers
from xtuner.launch.job import NODES, Job
from xtuner.launch.peers import Peers
from xtuner.run.layout import RunDir
from xtuner.run.rank_place import RankPlace, take_place
from xtuner.run.supervision import supervise_here


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(peers, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(peers, "_PATIENCE_S", 0.0)


@pytest.fixture
def work_dir(tmp_path):
    return tmp_path / "w"


@pytest.fixture
def here(work_dir):
    """The launch on the first machine, and where torchrun keeps what its ranks print."""
    run_dir = RunDir.create(work_dir)
    job = Job(("torchrun",), run_dir.logs / "torchrun", run_dir, 1, num_machines=2, meeting="a:1")
    supervise_here(job.home, is_detached=False, meeting="a:1")
    attempt = job.log_dir / "abc" / "attempt_0"
    (attempt / "0").mkdir(parents=True)
    return job, attempt


def _begin(work_dir, name, meeting="a:1"):
    home = RunDir(work_dir / NODES / name)
    home.path.mkdir(parents=True)
    return supervise_here(home, is_detached=False, meeting=meeting)


def _look_twice(launch, attempt):
    launch.look(attempt)
    launch.look(attempt)
    return launch.error


def test_its_error_ends_this_launch_too(work_dir, here):
    job, attempt = here
    there = _begin(work_dir, "node1-7")
    launch = Peers(job)
    assert _look_twice(launch, None) is None and _look_twice(launch, attempt) is None
    there.update(exit_code=5, message="no device", hint="plug one in")
    error = _look_twice(launch, attempt)
    assert isinstance(error, EnvironmentFault) and error.hint == "plug one in"
    assert error.message == f"xtuner sft on {os.uname().nodename} ended before the ranks had met: no device"


def test_the_first_machine_is_looked_at_from_the_others(work_dir, here, tmp_path):
    job, _ = here
    other = Job(("torchrun",), work_dir / NODES / "node1-7", None, 1, num_machines=2, meeting="a:1")
    _begin(work_dir, "node1-7")
    launch = Peers(other)
    launch.look(None)
    supervise_here(job.home, is_detached=False, meeting="a:1").update(exit_code=6, message="it broke")
    assert _look_twice(launch, tmp_path / "attempt_0").message.endswith("had met: it broke")


@pytest.mark.parametrize(
    "case", ["at another address", "before these began to meet", "well", "a machine may come back"]
)
def test_who_else_ends_does_not_end_it(work_dir, here, case):
    job, attempt = here
    there = _begin(work_dir, "node1-7", "b:1" if case == "at another address" else "a:1")
    if case == "a machine may come back":
        job = Job(**{**vars(job), "max_restarts": 1})
    launch = Peers(job)
    if case == "before these began to meet":
        there.update(exit_code=6)
    launch.look(None)
    there.update(exit_code=0 if case == "well" else 6)
    assert _look_twice(launch, attempt) is None


def test_ranks_that_have_met_see_it_themselves(work_dir, here, monkeypatch):
    job, attempt = here
    there = _begin(work_dir, "node1-7")
    launch = Peers(job)
    launch.look(None)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(attempt / "0" / "error.json"))
    take_place(RankPlace(0, job.run_dir))
    there.update(exit_code=6)
    assert _look_twice(launch, attempt) is None
