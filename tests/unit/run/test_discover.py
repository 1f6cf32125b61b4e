"""What a path is: every kind of log that exists, and a clear word for what is none."""

import os

import pytest

from xtuner.errors import UsageError
from xtuner.run.discover import discover
from xtuner.run.layout import RunDir


def touch(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_our_work_dir_run_dir_and_logs(tmp_path):
    runs = [RunDir.create(tmp_path) for _ in range(2)]
    for run in runs:
        touch(run.rank_log(1))
        touch(run.rank_log(0))
        touch(run.rank_metrics(0))
        touch(run.eval_metrics)
        touch(run.attempt_logs(0) / "0" / "stderr.log")
    assert [found.path for found in discover(tmp_path)] == sorted(run.path for run in runs)
    for path in (runs[0].path, runs[0].logs):
        (found,) = discover(path)
        assert (found.kind, found.run_dir) == ("run", runs[0])
        assert found.logs == {rank: runs[0].rank_log(rank) for rank in (0, 1)}
        assert found.metrics == {0: runs[0].rank_metrics(0)} and found.attempts == (runs[0].attempt_logs(0),)


def test_the_work_dir_of_an_older_version(tmp_path):
    touch(tmp_path / "20250829091740" / "logs" / "rank10.log")
    touch(tmp_path / "20250829091740" / "logs" / "rank2.log")
    tracker = touch(tmp_path / "20250829091740" / "logs" / "exp_tracking" / "rank2" / "tracker.jsonl")
    touch(tmp_path / "20250828000000" / "logs" / "rank_0.log")
    (tmp_path / "slurm" / "logs").mkdir(parents=True)
    older, newer = discover(tmp_path)
    assert (older.path.name, newer.path.name) == ("20250828000000", "20250829091740")
    assert list(newer.logs) == [2, 10] and newer.metrics == {2: tracker} and list(older.logs) == [0]


@pytest.mark.parametrize("name", ["rank{}.log", "rank_{}.log"])
def test_a_bare_directory_of_logs(tmp_path, name):
    for rank in (0, 3):
        touch(tmp_path / name.format(rank))
    (found,) = discover(tmp_path)
    assert (found.kind, list(found.logs), found.run_dir) == ("logs", [0, 3], None)
    touch(tmp_path / name.format(7))
    assert list(found.look_again().logs) == [0, 3, 7]


def test_files(tmp_path):
    console = touch(tmp_path / "out.txt", b"noise\n[XTuner][2025-01-01 00:00:00][INFO] hello\n")
    (found,) = discover(console)
    assert (found.kind, found.logs) == ("console", {None: console})
    (found,) = discover(touch(tmp_path / "rank3.log"))
    assert list(found.logs) == [3]


def test_an_empty_directory_has_no_runs_yet(tmp_path):
    assert discover(tmp_path) == []


def test_what_is_no_run_is_refused_with_a_hint(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", touch(tmp_path / "data.jsonl", b"{}\n"), tmp_path / "pipe"):
        with pytest.raises(UsageError, match=path.name) as caught:
            discover(path)
        assert caught.value.hint


def test_a_run_that_is_gone_has_no_files(tmp_path):
    run = RunDir.create(tmp_path)
    touch(run.rank_log(0))
    (found,) = discover(run.path)
    run.path.rename(tmp_path / "away")
    assert found.look_again().logs == {}
