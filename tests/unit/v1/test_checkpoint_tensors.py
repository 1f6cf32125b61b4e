"""The state of an optimizer after a save and a load: the next step is the same."""

import errno
import os

import engine_parts
import pytest
import torch

from xtuner.errors import EnvironmentFault, ModelError
from xtuner.run.hashed_file import HashedFile
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.restore import restore_checkpoint
from xtuner.v1.checkpoint.save import SaveFailed, Snapshot, save_checkpoint
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.model.matrices import hidden_matrices
from xtuner.v1.optim.build import build_optimizer
from xtuner.v1.train.checkpoints import checkpoint_bytes

CPU = torch.device("cpu")


def _engine(mesh, model_dir, optimizer):
    model = engine_parts.sharded_model(mesh, model_dir)
    built = build_optimizer(
        optimizer,
        model,
        hidden_matrices=hidden_matrices(model),
        lr=1e-3,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        muon_momentum=0.95,
    )
    return TrainEngine(model, built, mesh=mesh, max_grad_norm=1.0)


def _step(engine, step):
    batches = Batches(engine_parts.prepared([[(40, 25)], [(60, 33)]]), sequences_per_step=1, seed=0)
    return vars(engine.train_step(batches.fetch(step), lr=1e-3))


def _snapshot(engine):
    return Snapshot.take(engine.model, engine.torch_optimizers, CPU)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit", "muon"])
def test_the_step_after_a_load_is_the_step_after_the_save(mesh, tiny_model, tmp_path, optimizer):
    model_dir = tiny_model("qwen3")
    before = _engine(mesh, model_dir, optimizer)
    for step in (1, 2):
        _step(before, step)
    snapshot = _snapshot(before).copied()
    outcome, weights = _step(before, 3), engine_parts.full_weights(before.model)
    # As in the background, when training is a step ahead.
    checkpoint = save_checkpoint(snapshot, RunDir.create(tmp_path), 2, facts={"world_size": 1})

    after = _engine(mesh, model_dir, optimizer)
    assert restore_checkpoint(after.model, after.torch_optimizers, checkpoint, device=CPU)
    assert _step(after, 3) == outcome
    for name, weight in engine_parts.full_weights(after.model).items():
        # 8 bits are rounded anew: a block whose largest number is negative has no code for exactly -1.
        tolerance = 1e-4 if optimizer == "adamw-8bit" else 0.0
        torch.testing.assert_close(weight, weights[name], rtol=0.0, atol=tolerance, msg=name)


def test_without_a_copy_the_next_step_would_be_saved(mesh, tiny_model):
    """The control of the test above."""
    engine = _engine(mesh, tiny_model("qwen3"), "adamw")
    snapshot = _snapshot(engine)
    copied = snapshot.copied()
    _step(engine, 1)
    name = "model.model.embed_tokens.weight"
    assert not torch.equal(snapshot.tensors[name].full_tensor(), copied.tensors[name].full_tensor())


def test_a_checkpoint_of_another_model_is_refused(mesh, tiny_model, tmp_path):
    first, other = (_engine(mesh, tiny_model(name), "adamw") for name in ("qwen3", "qwen3-untied"))
    checkpoint = save_checkpoint(_snapshot(first), RunDir.create(tmp_path), 1, facts={"world_size": 1})
    with pytest.raises(ModelError, match=r"it has no lm_head\.weight"):
        restore_checkpoint(other.model, other.torch_optimizers, checkpoint, device=CPU)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_checkpoint_of_another_user_is_refused(mesh, tiny_model, tmp_path):
    engine = _engine(mesh, tiny_model("qwen3"), "adamw")
    checkpoint = save_checkpoint(_snapshot(engine), RunDir.create(tmp_path), 1, facts={"world_size": 1})
    os.chown(checkpoint.tensors / ".metadata", 12345, -1)
    with pytest.raises(EnvironmentFault, match="belongs to user 12345"):
        restore_checkpoint(engine.model, engine.torch_optimizers, checkpoint, device=CPU)


def test_without_room_nothing_is_begun(mesh, tiny_model, tmp_path):
    engine = _engine(mesh, tiny_model("qwen3"), "adamw")
    run_dir = RunDir.create(tmp_path)
    with pytest.raises(SaveFailed, match=r"needs about 1,000,000,000,000,000,000 bytes, [\d,]+ are free"):
        save_checkpoint(_snapshot(engine), run_dir, 1, facts={}, needed_bytes=10**18)
    assert not run_dir.checkpoints.exists()


class _Disk:
    """The file of a shard on a disk with so much room."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if len(data) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= len(data)
        return self._file.write(data)


@pytest.mark.parametrize("room", [0, 1_000, 100_000, 1_000_000])
def test_a_disk_that_fills_up_is_named_wherever_it_does(mesh, tiny_model, tmp_path, monkeypatch, room):
    """PyTorch's writer goes on after a failed write, and would speak of unexpected positions."""
    begin = HashedFile.__init__

    def on_small_disk(self, path):
        begin(self, path)
        self._file = _Disk(self._file, room)

    monkeypatch.setattr(HashedFile, "__init__", on_small_disk)
    engine = _engine(mesh, tiny_model("qwen3"), "adamw")
    _step(engine, 1)
    run_dir = RunDir.create(tmp_path)
    with pytest.raises(SaveFailed, match=r"^rank 0: OSError: \[Errno 28\] No space left on device$"):
        save_checkpoint(_snapshot(engine), run_dir, 1, facts={})
    assert not list(run_dir.checkpoints.glob(".tmp-*"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_size_is_known_beforehand(mesh, tiny_model, tmp_path, optimizer):
    engine = _engine(mesh, tiny_model("qwen3"), optimizer)
    _step(engine, 1)
    checkpoint = save_checkpoint(_snapshot(engine), RunDir.create(tmp_path), 1, facts={})
    expected = checkpoint_bytes(engine.model, TrainerConfig(load_from="m", dataset="d", optimizer=optimizer))
    tensors = sum(path.stat().st_size for path in checkpoint.tensors.glob("*.distcp"))
    assert expected <= tensors <= 1.3 * expected  # each tensor has a head of its own
