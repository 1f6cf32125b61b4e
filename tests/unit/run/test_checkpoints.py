"""Checkpoints as files: which are whole, which is taken, which go, and what a fault at any point leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from xtuner.errors import UsageError, WorkDirInUse
from xtuner.run import checkpoints as files
from xtuner.run.atomic import read_json, write_json
from xtuner.run.checkpoints import (
    Checkpoint,
    commit,
    durable_entry,
    fault_of,
    list_checkpoints,
    newest_whole,
    prune,
    seal_of,
    verify,
)
from xtuner.run.layout import RunDir
from xtuner.run.leftovers import clear_run, clear_work_dir
from xtuner.run.resume import find_resume_point, resume_point_in
from xtuner.run.status import Status, write_status


def _save(run_dir, step, content=b"tensors"):
    temporary = files.temporary_directory(run_dir, step, files.new_save_id())
    (temporary / "dcp").mkdir(parents=True)
    (temporary / "dcp" / "__0_0.distcp").write_bytes(content)
    entry = durable_entry(temporary, temporary / "dcp" / "__0_0.distcp")
    return commit(run_dir, temporary, step, [entry], {"world_size": 1})


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path)


def _end(run_dir, state="failed"):
    write_status(run_dir, Status(state, 1, 9, 1, "elsewhere", 0.0, 0.0, 0.0))


# --- Which are whole ---


def test_a_saved_checkpoint_is_whole(run_dir):
    checkpoint = _save(run_dir, 7)
    assert checkpoint.path.name == "step-00000007"
    assert fault_of(checkpoint) is None
    assert os.readlink(run_dir.checkpoints / "latest") == "step-00000007"
    assert [path.name for path in run_dir.checkpoints.iterdir() if path.name.startswith(".")] == []


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("dcp/__0_0.distcp", _truncate, "has 6 bytes instead of 7"),
        ("dcp/__0_0.distcp", _flip, "SHA-256 differs"),
        ("dcp/__0_0.distcp", os.unlink, "cannot be read: No such file"),
        ("MANIFEST.json", os.unlink, "has no MANIFEST.json"),
        ("MANIFEST.json", _halve, "cannot be read"),
        ("MANIFEST.json", lambda path: path.write_text("[]"), "no JSON object"),
        ("MANIFEST.json", lambda path: path.write_text('{"schema": 99}'), "has schema 99"),
        ("MANIFEST.json", lambda path: path.write_text('{"schema": 1, "step": 8}'), "is of step 8"),
        ("MANIFEST.json", lambda path: path.write_text('{"schema": 1, "step": 7}'), "lists no files"),
    ],
)
def test_what_is_not_whole_says_why(run_dir, name, harm, words):
    checkpoint = _save(run_dir, 7)
    harm(checkpoint.path / name)
    assert words in fault_of(checkpoint)
    assert newest_whole(run_dir)[0] is None


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "dcp/../../../x", ""])
def test_a_manifest_names_nothing_outside(run_dir, name):
    checkpoint = _save(run_dir, 7)
    manifest = checkpoint.manifest()
    manifest["files"][0]["name"] = name
    (checkpoint.path / "MANIFEST.json").write_text(json.dumps(manifest))
    assert "which is not inside" in fault_of(checkpoint)


def test_the_newest_whole_one_is_taken_and_the_others_are_named(run_dir):
    for step in (10, 20, 30):
        _save(run_dir, step)
    _flip(run_dir.checkpoints / "step-00000030" / "dcp" / "__0_0.distcp")
    (run_dir.checkpoints / "step-40").mkdir()
    (run_dir.checkpoints / ".tmp-step-00000050-aa").mkdir()
    found, skipped = newest_whole(run_dir)
    assert found == Checkpoint(run_dir.checkpoints / "step-00000020", 20)
    assert [(item.checkpoint.step, item.reason) for item in skipped] == [
        (30, "dcp/__0_0.distcp is not what was written (its SHA-256 differs)")
    ]


def test_a_checkpoint_that_was_verified_is_read_again_only_where_it_was_touched(run_dir, monkeypatch):
    read, sha256_of = [], files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: read.append(path) or sha256_of(path))
    named = _save(run_dir, 10)
    path = named.path / "dcp" / "__0_0.distcp"
    read.clear()
    checkpoint, reason = verify(named)
    assert reason is None and checkpoint.seal and read == [path]
    assert verify(named, checkpoint.seal) == (checkpoint, None) == verify(named, checkpoint.seal)
    assert newest_whole(run_dir, checkpoint.seal)[0].seal == checkpoint.seal
    point = find_resume_point(str(named.path), run_dir.work_dir, checkpoint.seal)
    assert point.checkpoint == resume_point_in(run_dir, "auto", checkpoint.seal).checkpoint == checkpoint
    assert read == [path], "whoever knows the seal reads nothing"
    assert verify(named, "another") == (checkpoint, None) and read == [path] * 2

    before = path.stat()
    _flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "differs" in verify(named, checkpoint.seal)[1]
    os.truncate(path, before.st_size - 1)
    assert "bytes instead of" in verify(named, checkpoint.seal)[1]


@pytest.mark.parametrize("change", ["manifest", "missing"])
def test_a_seal_does_not_outlive_the_manifest_or_a_file(run_dir, change):
    checkpoint, _ = verify(_save(run_dir, 10))
    if change == "manifest":
        path = checkpoint.path / "MANIFEST.json"
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0'))
    else:
        (checkpoint.path / "dcp" / "__0_0.distcp").unlink()
    assert verify(checkpoint, checkpoint.seal)[1] and seal_of(checkpoint) != checkpoint.seal


def test_the_seal_says_nothing_about_a_copy(tmp_path):
    first = _save(RunDir.create(tmp_path), 10)
    second = Checkpoint(RunDir.create(tmp_path).checkpoints / first.path.name, 10)
    shutil.copytree(first.path, second.path)
    _flip(second.path / "dcp" / "__0_0.distcp")
    assert "differs" in verify(second, verify(first)[0].seal)[1]


def test_a_whole_checkpoint_is_never_overwritten_and_a_broken_one_is_put_aside(run_dir):
    first = _save(run_dir, 5)
    with pytest.raises(OSError):
        _save(run_dir, 5, b"others")
    assert fault_of(first) is None
    _flip(first.path / "dcp" / "__0_0.distcp")
    again = _save(run_dir, 5, b"anew")
    assert fault_of(again) is None
    assert [path.name[:20] for path in run_dir.checkpoints.glob("broken-*")] == ["broken-step-00000005"]


# --- Which go ---


def test_the_oldest_whole_ones_go(run_dir):
    for step in (1, 2, 3, 4):
        _save(run_dir, step)
    _flip(run_dir.checkpoints / "step-00000004" / "MANIFEST.json")
    (run_dir.checkpoints / ".tmp-step-00000009-aa").mkdir()
    removed = prune(run_dir, 2)
    assert [checkpoint.step for checkpoint in removed] == [1]
    assert [checkpoint.step for checkpoint in list_checkpoints(run_dir)] == [2, 3, 4]  # broken: neither counts nor goes
    assert not list(run_dir.checkpoints.glob(".*"))
    prune(run_dir, 0)
    assert [checkpoint.step for checkpoint in list_checkpoints(run_dir)] == [3, 4]


# --- In which order ---


def test_nothing_is_renamed_before_it_is_durable(run_dir, monkeypatch):
    calls = []

    def note(name, original):
        def call(*arguments, **options):
            if name == "fsync":
                calls.append((name, os.readlink(f"/proc/self/fd/{arguments[0]}")))
            else:
                calls.append((name, str(arguments[0]), str(arguments[1])))
            return original(*arguments, **options)

        return call

    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    checkpoint = _save(run_dir, 3)
    [rename] = [index for index, call in enumerate(calls) if call[0] == "rename"]
    temporary = calls[rename][1]
    synced_before = {call[1] for call in calls[:rename] if call[0] == "fsync"}
    assert {f"{temporary}/dcp/__0_0.distcp", f"{temporary}/dcp", temporary} <= synced_before
    assert any(path.startswith(f"{temporary}/.MANIFEST.json.") for path in synced_before)
    assert calls[rename + 1] == ("fsync", str(run_dir.checkpoints))
    assert calls[rename][2] == str(checkpoint.path)


# --- What --resume means ---


def test_auto_takes_the_newest_unfinished_run_with_a_whole_checkpoint(tmp_path):
    assert find_resume_point("auto", tmp_path) is None
    runs = [RunDir(tmp_path / f"2025010{day}-000000-aaaa") for day in (1, 2, 3, 4)]
    for run_dir in runs:
        run_dir.logs.mkdir(parents=True)
        _end(run_dir)
    _save(runs[0], 10)
    _save(runs[1], 20)
    _save(runs[3], 40)
    _end(runs[3], "finished")
    found = find_resume_point("auto", tmp_path)
    assert (found.run_dir, found.checkpoint.step) == (runs[1], 20)
    assert find_resume_point("none", tmp_path) is None


def test_a_path_may_be_a_checkpoint_a_run_or_a_work_dir(tmp_path):
    run_dir = RunDir.create(tmp_path)
    _save(run_dir, 10)
    _save(run_dir, 20)
    _end(run_dir)
    steps = {
        path: find_resume_point(str(path), tmp_path / "other").checkpoint.step
        for path in (run_dir.checkpoints / "step-00000010", run_dir.path, tmp_path)
    }
    assert list(steps.values()) == [10, 20, 20]


def test_a_path_without_a_whole_checkpoint_is_refused(tmp_path):
    run_dir = RunDir.create(tmp_path)
    _end(run_dir)
    with pytest.raises(UsageError, match="no whole checkpoint"):
        find_resume_point(str(run_dir.path), tmp_path)
    checkpoint = _save(run_dir, 10)
    _flip(checkpoint.path / "dcp" / "__0_0.distcp")
    with pytest.raises(UsageError, match="SHA-256 differs") as caught:
        find_resume_point(str(checkpoint.path), tmp_path)
    assert "pass the run directory" in caught.value.hint


def test_a_live_run_is_not_resumed(tmp_path):
    run_dir = RunDir.create(tmp_path)
    _save(run_dir, 10)
    import socket
    import time

    write_status(run_dir, Status("running", 1, 9, os.getpid(), socket.gethostname(), 0.0, time.time(), 0.0))
    with pytest.raises(WorkDirInUse, match="is running"):
        find_resume_point("auto", tmp_path)


# --- Killed while names and records change ---

_PRUNE = """
import sys
from pathlib import Path
from xtuner.run.checkpoints import prune
from xtuner.run.layout import RunDir
prune(RunDir(Path(sys.argv[1])), 2)
"""


@pytest.mark.parametrize(
    ("point", "steps_left"),
    [("prune.pre", [1, 2, 3, 4]), ("prune.post", [2, 3, 4]), ("prune.pre:nth=2", [2, 3, 4]), ("prune.half", [3, 4])],
)
def test_a_kill_while_old_ones_go_leaves_whole_ones(run_dir, point, steps_left):
    for step in (1, 2, 3, 4):
        _save(run_dir, step)
    assert killed_at(point, _PRUNE, run_dir.path)
    left = list_checkpoints(run_dir)
    assert [checkpoint.step for checkpoint in left] == steps_left
    assert [fault_of(checkpoint) for checkpoint in left] == [None] * len(left)
    assert bool(list(run_dir.checkpoints.glob(".trash-*"))) == (point != "prune.pre")
    clear_run(run_dir)
    assert not list(run_dir.checkpoints.glob(".*"))
    assert newest_whole(run_dir)[0].step == 4


_META = """
import sys
from pathlib import Path
from xtuner.run.atomic import write_json
write_json(Path(sys.argv[1]), {"new": True})
"""


@pytest.mark.parametrize("name", ["status.json", "run.json", "exports.json", ".xtuner"])
@pytest.mark.parametrize(("moment", "is_new"), [("pre", False), ("post", True)])
def test_a_kill_while_a_record_is_written_leaves_one_of_both(run_dir, name, moment, is_new):
    path = (run_dir.work_dir if name == ".xtuner" else run_dir.path) / name
    write_json(path, {"new": False})
    assert killed_at(f"meta.{name}.{moment}", _META, path)
    assert read_json(path) == {"new": is_new}
    [*temporary] = path.parent.glob(".*.tmp")
    assert len(temporary) == (moment == "pre")
    clear_work_dir(run_dir.work_dir)
    if name == ".xtuner" and temporary:  # the work dir may have other writers: not before a while
        assert temporary[0].exists()
        os.utime(temporary[0], (0, 0))
        clear_work_dir(run_dir.work_dir)
    clear_run(run_dir)
    assert not list(path.parent.glob(".*.tmp")) and path.exists()


def test_an_export_that_was_put_aside_gets_its_name_back(run_dir):
    for name in (".old-hf-4", ".old-hf-6", "hf-6", ".tmp-hf-8", ".tmp-adapter-8", ".trash-hf-2-00aa"):
        (run_dir.path / name / "inner").mkdir(parents=True)
    clear_run(run_dir)
    assert sorted(path.name for path in run_dir.path.iterdir()) == ["hf-4", "hf-6", "logs", "metrics"]


def test_what_checks_of_the_work_dir_left_goes_after_a_while(run_dir):
    probe = run_dir.work_dir / ".xtuner-probe-123-0123abcd"
    probe.mkdir()
    (run_dir.work_dir / ".mine.tmp").touch()
    os.utime(probe, (0, 0))
    os.utime(run_dir.work_dir / ".mine.tmp", (0, 0))
    clear_work_dir(run_dir.work_dir)
    assert not probe.exists() and (run_dir.work_dir / ".mine.tmp").exists()


def killed_at(point, program, *arguments):
    """Run `program` with SIGKILL at `point`; whether it came to that."""
    name, *how = point.split(":")
    environment = {**os.environ, "XTUNER_FAULT": ":".join([name, *how, "SIGKILL"])}
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], env=environment, check=False)
    return done.returncode == -signal.SIGKILL
