"""Which exports a run makes on its way, and which stay."""

import os

import engine_parts
import pytest
import torch

from xtuner.errors import EnvironmentFault, TrainingFailed
from xtuner.run import faults
from xtuner.run.layout import RunDir, exported_steps
from xtuner.v1.config import TrainerConfig
from xtuner.v1.model import export
from xtuner.v1.model.export import export_model
from xtuner.v1.train.exporter import Exporter
from xtuner.v1.train.rank_log import RankLog


@pytest.fixture
def model(mesh, tiny_model):
    return engine_parts.sharded_model(mesh, tiny_model("qwen3"))


@pytest.fixture
def run_dir(tmp_path):
    return RunDir.create(tmp_path)


@pytest.fixture
def make_exporter(model, tiny_model, run_dir):
    log = RankLog(run_dir, 0)

    def make(**options):
        config = TrainerConfig(load_from=tiny_model("qwen3"), dataset="d", **options)
        return Exporter(model, config, run_dir, log, is_writer=True)

    yield make
    log.close()


def test_exports_come_by_interval_and_old_ones_go_but_the_best(make_exporter, run_dir):
    exporter = make_exporter(hf_interval=2, hf_max_keep=2)
    for step in range(1, 9):
        if step == 2:
            exporter.export_best(step)
        exporter.after_step(step)
    assert exported_steps(run_dir) == [2, 6, 8]
    assert os.readlink(run_dir.latest_export) == "hf-8" and os.readlink(run_dir.best_export) == "hf-2"


def test_what_cannot_be_noted_or_removed_costs_a_warning(make_exporter, run_dir, monkeypatch):
    exporter = make_exporter(hf_interval=1, hf_max_keep=1)
    exporter.after_step(1)
    monkeypatch.setattr(faults, "_FAULTS", [])  # is undone afterwards
    faults.arm("meta.exports.json.pre:enospc;prune.pre:eio")
    exporter.after_step(2)
    said = run_dir.rank_log(0).read_text()
    assert "hf-2 is whole, but that could not be noted: " in said
    assert "the export of step 1 could not be removed: " in said
    assert exported_steps(run_dir) == [1, 2] and os.readlink(run_dir.latest_export) == "hf-2"


def test_without_an_interval_there_are_none_on_the_way(make_exporter, run_dir):
    exporter = make_exporter()
    exporter.after_step(1)
    assert exported_steps(run_dir) == []


def test_a_model_that_is_not_finite_is_not_exported(model, tiny_model, tmp_path):
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match=r"model\.norm\.weight holds NaN or infinity"):
        export_model(model, tmp_path / "out", source=None, tokenizer_dir=tiny_model("qwen3"), is_writer=True)
    assert not (tmp_path / "out").exists()


def _without_one(tensors):
    return {name: tensor for name, tensor in tensors.items() if "norm" not in name}


def _in_half_precision(tensors):
    return {name: tensor.half() if "norm" in name else tensor for name, tensor in tensors.items()}


def _with_infinity(tensors):
    return {name: tensor / 0 if "norm" in name else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("harm", [_without_one, _in_half_precision, _with_infinity])
def test_what_cannot_be_read_back_is_no_export(model, tiny_model, tmp_path, monkeypatch, harm):
    def write_something_else(tensors, path, metadata):
        save_file(harm(tensors), path, metadata=metadata)

    save_file = export.save_file
    monkeypatch.setattr(export, "save_file", write_something_else)
    with pytest.raises(EnvironmentFault, match=r"does not hold what was written: model\.layers\.0"):
        export_model(model, tmp_path / "out", source=None, tokenizer_dir=tiny_model("qwen3"), is_writer=True)
    assert not (tmp_path / "out").exists()
