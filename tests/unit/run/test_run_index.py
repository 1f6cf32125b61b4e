"""The index says what the run directories say, whatever is in them."""

import os
import time

import pytest

from xtuner.run import index as index_module
from xtuner.run.atomic import read_json, write_json
from xtuner.run.exports import mark_verified
from xtuner.run.index import read_index, rebuild_index, scan
from xtuner.run.layout import RunDir
from xtuner.run.status import start_status, write_status


def test_an_entry_has_the_fields_of_the_design(tmp_path):
    run = RunDir.create(tmp_path)
    write_json(run.run_json, {"created": "2025-01-01T00:00:00+00:00", "model": "m", "dataset": "d"})
    write_status(run, start_status(10))
    run.export(100).mkdir()
    assert rebuild_index(tmp_path) == read_json(tmp_path / ".xtuner") == read_index(tmp_path)
    assert scan(tmp_path)["runs"] == [
        {
            "name": run.name,
            "created": "2025-01-01T00:00:00+00:00",
            "state": "starting",
            "step": 0,
            "total_steps": 10,
            "model": "m",
            "dataset": "d",
            "exports": ["hf-100"],
            "verified_exports": [],
            "checkpoints": [],
        }
    ]


def test_exports_are_finished_directories_in_the_order_of_steps(tmp_path):
    run = RunDir.create(tmp_path)
    for name in ("hf-100", "hf-20", ".tmp-hf-300", "hf-latest", "hf-²", "hf-٣", "hf-7.old"):
        (run.path / name).mkdir()
    (run.path / "hf-5").write_text("a file")
    assert scan(tmp_path)["runs"][0]["exports"] == ["hf-20", "hf-100"]


def test_exports_are_marked_that_are_what_was_verified(tmp_path):
    run = RunDir.create(tmp_path)
    for step in (2, 4, 6):
        run.export(step).mkdir()
        (run.export(step) / "model.safetensors").write_bytes(b"weights")
    for step in (2, 6):
        mark_verified(run, run.export(step))
    assert scan(tmp_path)["runs"][0]["verified_exports"] == ["hf-2", "hf-6"]
    (run.export(6) / "model.safetensors").write_bytes(b"weight")
    (run.export(2) / "model.safetensors").unlink()
    assert scan(tmp_path)["runs"][0]["verified_exports"] == []
    for content in ("{", "[]", '{"hf-4": {"files": {"../x": "y"}}}', '{"hf-4": {"files": {"\\u0000": 1}}}'):
        run.exports_json.write_text(content)
        assert scan(tmp_path)["runs"][0]["verified_exports"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"schema": 99, "runs": []}'])
def test_a_broken_index_is_rebuilt_in_memory(tmp_path, content):
    run = RunDir.create(tmp_path)
    (tmp_path / ".xtuner").write_bytes(content)
    assert [entry["name"] for entry in read_index(tmp_path)["runs"]] == [run.name]
    assert (tmp_path / ".xtuner").read_bytes() == content


def test_one_broken_run_does_not_hide_the_others(tmp_path):
    runs = [RunDir.create(tmp_path) for _ in range(4)]
    runs[0].run_json.mkdir()
    runs[1].run_json.write_bytes(b"[" * 100_000)
    runs[2].status_json.write_text('{"pid": "x"}')
    assert sorted(entry["name"] for entry in rebuild_index(tmp_path)["runs"]) == sorted(run.name for run in runs)


def test_a_run_that_was_killed_is_lost_when_the_index_is_rebuilt(tmp_path, monkeypatch):
    run = RunDir.create(tmp_path)
    write_status(run, start_status(10))
    assert rebuild_index(tmp_path)["runs"][0]["state"] == "starting"
    now = time.time()
    monkeypatch.setattr(index_module.time, "time", lambda: now + 3600)
    assert rebuild_index(tmp_path)["runs"][0]["state"] == "lost"


def test_an_index_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    rebuild_index(tmp_path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    RunDir.create(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError):
        rebuild_index(tmp_path)
    assert read_json(tmp_path / ".xtuner")["runs"] == []
