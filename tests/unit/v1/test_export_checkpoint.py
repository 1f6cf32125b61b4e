"""`xtuner export`: what is no checkpoint is refused in words; see tests/faults for what comes out of one."""

import pytest

from xtuner.errors import ModelError, UsageError
from xtuner.run.atomic import write_json
from xtuner.run.checkpoints import commit, temporary_directory
from xtuner.run.layout import RunDir
from xtuner.v1.convert.export_checkpoint import export_checkpoint


def _checkpoint(tmp_path, **config):
    run_dir = RunDir.create(tmp_path)
    write_json(run_dir.config_json, {"load_from": "model", "dataset": ["d.jsonl"], **config})
    write_json(run_dir.run_json, {"cwd": str(tmp_path)})
    directory = temporary_directory(run_dir, 3, "0")
    directory.mkdir(parents=True)
    return commit(run_dir, directory, 3, [], {})


def test_a_path_that_is_no_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="is no checkpoint") as caught:
        export_checkpoint(tmp_path, tmp_path / "out")
    assert "checkpoints/step-" in caught.value.hint


def test_a_broken_checkpoint(tmp_path):
    checkpoint = _checkpoint(tmp_path)
    (checkpoint.path / "MANIFEST.json").unlink()
    with pytest.raises(ModelError, match=r"has no MANIFEST\.json"):
        export_checkpoint(checkpoint.path, tmp_path / "out")


def test_nothing_is_overwritten(tmp_path):
    checkpoint = _checkpoint(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="out exists"):
        export_checkpoint(checkpoint.path, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "adapter_only", "words"),
    [({}, True, "it has no adapter"), ({"tp_size": 2}, False, "saved with --tp-size 2")],
)
def test_what_cannot_be_exported(tmp_path, config, adapter_only, words):
    checkpoint = _checkpoint(tmp_path, **config)
    with pytest.raises(UsageError, match=words):
        export_checkpoint(checkpoint.path, tmp_path / "out", adapter_only=adapter_only)


def test_records_that_are_gone(tmp_path):
    checkpoint = _checkpoint(tmp_path)
    RunDir(checkpoint.path.parent.parent).config_json.unlink()
    with pytest.raises(ModelError, match="the records of"):
        export_checkpoint(checkpoint.path, tmp_path / "out")
