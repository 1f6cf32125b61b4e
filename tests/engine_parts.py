"""Engine pieces put together the way the trainer does, without files and command line around them."""

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from xtuner.data.packing import PackPlan
from xtuner.data.prepared import PreparedData
from xtuner.data.store import store_in_memory
from xtuner.data.tokenize import TokenSequence
from xtuner.hub.weights import weight_map
from xtuner.v1.config import FSDPConfig
from xtuner.v1.datasets.batches import StepBatch
from xtuner.v1.engine.engine import StepOutcome, TrainEngine
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.initialize import initialize_buffers
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.shard import shard_model, whole
from xtuner.v1.optim.adamw import build_adamw


def sharded_model(
    mesh: DeviceMesh, model_dir: Path, fsdp: FSDPConfig | None = None, tensor_group: ProcessGroup | None = None
):
    """The model of `model_dir`, loaded into shards."""
    model = build_meta_model(read_model_config(model_dir))
    shard_model(model, mesh, fsdp or FSDPConfig(), tensor_group)
    load_weights(model, model_dir)
    initialize_buffers(model)
    return model


def engine(
    mesh: DeviceMesh,
    model_dir: Path,
    *,
    sgd: bool = False,
    max_grad_norm: float = 1.0,
    fsdp: FSDPConfig | None = None,
    sequence_group: ProcessGroup | None = None,
    tensor_group: ProcessGroup | None = None,
) -> TrainEngine:
    """An engine with AdamW as in training, or with SGD, whose step at lr 1 is the gradient itself."""
    model = sharded_model(mesh, model_dir, fsdp, tensor_group)
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=1.0)
        if sgd
        else build_adamw(model, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    )
    return TrainEngine(model, optimizer, mesh=mesh, sequence_group=sequence_group, max_grad_norm=max_grad_norm)


def prepared(packs: list[list[tuple[int, int]]], seed: int = 0) -> PreparedData:
    """Random tokens; each pack a list of (tokens, trained tokens at the end) per sequence."""
    generator = np.random.default_rng(seed)
    sequences = [
        TokenSequence(generator.integers(3, 512, length).astype(np.int32), np.arange(length) >= length - trained)
        for pack in packs
        for length, trained in pack
    ]
    return prepared_of(sequences, [len(pack) for pack in packs])


def prepared_of(sequences: list[TokenSequence], pack_sizes: list[int]) -> PreparedData:
    """The given sequences, in packs of the given numbers of them."""
    everything = np.arange(len(sequences), dtype=np.int64)
    plan = PackPlan(everything, np.cumsum([0, *pack_sizes], dtype=np.int64))
    return PreparedData([store_in_memory(iter(sequences))], everything, plan, [1.0])


def full_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters, whole; collective."""
    return {name: whole(p).detach().clone() for name, p in model.named_parameters()}


def gradient_of_step(engine: TrainEngine, batch: StepBatch) -> tuple[dict[str, torch.Tensor], StepOutcome]:
    """The full gradient of a step, which plain SGD at rate 1 moves by; collective."""
    before = full_weights(engine.model)
    outcome = engine.train_step(batch, lr=1.0)
    after = full_weights(engine.model)
    return {name: before[name] - after[name] for name in before}, outcome


def stored_tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model directory."""
    tensors = {}
    for name, path in weight_map(directory).items():
        with safe_open(path, framework="pt") as file:
            tensors[name] = file.get_tensor(name)
    return tensors
