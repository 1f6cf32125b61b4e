"""Names and places of a work dir."""

import os
import re
import threading
from pathlib import Path

import pytest

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.run import layout
from xtuner.run.layout import (
    RunDir,
    check_work_dir,
    find_runs,
    is_run_dir,
    list_runs,
    newest_run,
    point_latest,
    require_work_dir,
)


def make_run(work_dir, name):
    (work_dir / name / "logs").mkdir(parents=True)
    return RunDir(work_dir / name)


def test_paths_are_those_of_the_design():
    run = RunDir(Path("w/20251129-143012-3f9a"))
    names = {
        "w": run.work_dir,
        "run.json": run.run_json,
        "config.json": run.config_json,
        "status.json": run.status_json,
        "logs/rank3.log": run.rank_log(3),
        "logs/attempt_0": run.attempt_logs(0),
        "metrics/rank3.jsonl": run.rank_metrics(3),
        "checkpoints": run.checkpoints,
        "hf-100": run.export(100),
        "hf-latest": run.latest_export,
    }
    assert names.pop("w") == Path("w")
    assert {str(path.relative_to(run.path)) for path in names.values()} == set(names)


def test_a_new_run_has_its_folders_and_a_name_that_is_found_again(tmp_path):
    run = RunDir.create(tmp_path / "deep" / "work")
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", run.name)
    assert sorted(os.listdir(run.path)) == ["logs", "metrics"]
    assert newest_run(run.work_dir) == run and newest_run(tmp_path) is None


def test_launches_at_the_same_moment_get_different_runs(tmp_path, monkeypatch):
    """All draw the same name first: only the exclusive mkdir can keep them apart."""
    drawn = iter(["aaaa"] * 8 + [f"{number:04x}" for number in range(1000)])
    lock = threading.Lock()

    def token_hex(num_bytes):
        with lock:
            return next(drawn) if num_bytes == 2 else os.urandom(num_bytes).hex()

    monkeypatch.setattr(layout.secrets, "token_hex", token_hex)
    made: list[RunDir] = []
    threads = [threading.Thread(target=lambda: made.append(RunDir.create(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.name for run in made}) == 8


def test_names_that_never_get_free_end_in_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(layout.secrets, "token_hex", lambda num_bytes: "aaaa")

    class Stopped:
        @staticmethod
        def now():
            return layout_datetime(2025, 1, 1)

    layout_datetime = layout.datetime
    monkeypatch.setattr(layout, "datetime", Stopped)
    RunDir.create(tmp_path)
    with pytest.raises(EnvironmentFault, match="no free name"):
        RunDir.create(tmp_path)


def test_only_runs_are_listed_oldest_first(tmp_path):
    new, old = make_run(tmp_path, "20250102-000000-0000"), make_run(tmp_path, "20250101-235959-ffff")
    for name in ("20250101-000000-0000x", "x20250101-000000-0000", "２0250101-000000-0000", "nodes", ".xtuner-probe-1"):
        (tmp_path / name / "logs").mkdir(parents=True)
    (tmp_path / "20250103-000000-0000").mkdir()  # neither run.json nor logs: the launcher was killed in between
    (tmp_path / "20250104-000000-0000").write_text("a file")
    assert list_runs(tmp_path) == [old, new]
    assert newest_run(tmp_path) == new
    assert list_runs(tmp_path / "none") == [] == list_runs(tmp_path / "20250104-000000-0000")


def test_a_path_is_a_work_dir_or_one_run(tmp_path):
    work_dir = tmp_path / "w"
    (work_dir / "logs").mkdir(parents=True)
    (work_dir / "logs" / "slurm-1.out").write_text("")
    assert find_runs(work_dir) == [] and not is_run_dir(work_dir)
    run = make_run(work_dir, "20250102-000000-0000")
    assert find_runs(work_dir) == [run] == find_runs(run.path)
    foreign = make_run(tmp_path, "20250829091751")
    assert find_runs(foreign.path) == []
    foreign.rank_log(0).write_text("")
    assert find_runs(foreign.path) == [foreign]


def test_latest_moves_while_somebody_looks(tmp_path):
    run = RunDir.create(tmp_path)
    for step in (1, 2):
        run.export(step).mkdir()
    point_latest(run, 1)
    is_over, missing = threading.Event(), []

    def look():
        while not is_over.is_set():
            if not run.latest_export.is_dir():
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        point_latest(run, 1 + number % 2)
    is_over.set()
    reader.join()
    assert not missing and os.readlink(run.latest_export) == "hf-2"
    assert not [name for name in os.listdir(run.path) if name.endswith(".tmp")]


def test_a_directory_in_the_place_of_the_link_leaves_nothing_behind(tmp_path):
    run = RunDir.create(tmp_path)
    run.latest_export.mkdir()
    with pytest.raises(OSError):
        point_latest(run, 1)
    assert sorted(os.listdir(run.path)) == ["hf-latest", "logs", "metrics"]


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "dangling"])
def test_names_the_file_system_refuses(tmp_path, name):
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        RunDir.create(tmp_path / name)


def test_a_read_only_file_system_is_found_even_by_root(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EnvironmentFault, match=re.escape(f"{tmp_path} cannot be written: Read-only file system")):
        check_work_dir(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(EnvironmentFault, match="Permission denied"):
            check_work_dir(tmp_path / "work")
    finally:
        tmp_path.chmod(0o700)


def test_a_deleted_current_directory_is_no_crash(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(EnvironmentFault):
        check_work_dir(Path("work"))
    monkeypatch.chdir(tmp_path)


def test_reading_needs_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    require_work_dir(tmp_path)
    for path, why in ((tmp_path / "file", "is not a directory"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UsageError, match=why) as caught:
            require_work_dir(path)
        assert str(path) in str(caught.value) and "--work-dir" in caught.value.hint
