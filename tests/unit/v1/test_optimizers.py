"""The optimizers of `--optimizer` against plain torch on one rank: weights, who trains what, size of the state."""

import importlib.util

import engine_parts
import optimizer_reference as reference
import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from xtuner.errors import UsageError
from xtuner.preflight import check_inputs
from xtuner.v1.config import LoraConfig, TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.engine.oom import memory_shares
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.initialize import initialize_buffers
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.lora import add_adapters, initialize_adapters, is_adapter
from xtuner.v1.model.matrices import hidden_matrices
from xtuner.v1.model.shard import shard_model
from xtuner.v1.optim.build import OptimizerPair, build_optimizer, set_learning_rate, torch_optimizers
from xtuner.v1.optim.muon import ShardedMuon, orthogonalized
from xtuner.v1.train.optimizer import describe_optimizer, optimizer_of


def _config(name, **options):
    return TrainerConfig(
        optimizer=name,
        lr=reference.LR,
        adam_beta1=reference.BETAS[0],
        adam_beta2=reference.BETAS[1],
        weight_decay=reference.WEIGHT_DECAY,
        muon_momentum=reference.MOMENTUM,
        **options,
    )


def _trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _with_adapters(mesh, model_dir, lora):
    config = TrainerConfig()
    model = build_meta_model(read_model_config(model_dir))
    add_adapters(model, lora, model_dir)
    shard_model(model, mesh, config.fsdp_config)
    load_weights(model, model_dir)
    initialize_buffers(model)
    initialize_adapters(model, 0, 0)
    return model


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma2", "gpt_oss", "mixtral", "qwen3_moe"])
def test_muon_equals_torch_muon_and_adamw(mesh, tiny_model, architecture):
    model = engine_parts.sharded_model(mesh, tiny_model(architecture))
    before = engine_parts.full_weights(model)
    reference.drive(_trained(model), optimizer_of(model, _config("muon")))
    expected = reference.after_muon(before)
    for name, weight in engine_parts.full_weights(model).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
        assert (weight - before[name]).abs().max() > 1e-3, name


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3-untied", "gemma2", "gpt_oss", "mixtral", "qwen3_moe"])
def test_muon_trains_linear_layers_and_experts_alone(tiny_model, architecture):
    model = build_meta_model(read_model_config(tiny_model(architecture)))
    chosen = set(map(id, hidden_matrices(model)))
    for name, parameter in model.named_parameters():
        assert (id(parameter) in chosen) == (reference.is_linear(name) or reference.is_experts(name)), name
    assert any(map(reference.is_linear, dict(model.named_parameters())))


def test_orthogonalised_matrices_have_singular_values_near_one():
    for shape in ((24, 40), (40, 24), (32, 32)):
        [direction] = orthogonalized([torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()])
        values = torch.linalg.svdvals(direction.float())
        assert direction.shape == shape and values.min() > 0.3 and values.max() < 1.3


def test_updates_are_as_large_as_those_of_adamw(mesh, tiny_model):
    """The root mean square of an update is some 0.2 of the rate, whatever the shape; AdamW's first is the rate."""
    model = engine_parts.sharded_model(mesh, tiny_model("llama"))
    before = engine_parts.full_weights(model)
    optimizer = ShardedMuon(hidden_matrices(model), lr=1.0)
    reference.drive(_trained(model), optimizer, rates=[0.01])
    for name, weight in engine_parts.full_weights(model).items():
        update = ((weight - before[name]) / 0.01).square().mean().sqrt().item()
        low, high = (0.12, 0.25) if reference.is_linear(name) else (0, 0)
        assert low <= update <= high, name


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt_oss"])
def test_of_adapters_muon_trains_those_of_linear_layers(mesh, tiny_model, architecture):
    model = _with_adapters(mesh, tiny_model(architecture), LoraConfig(rank=4))
    trained = _trained(model)
    assert all(map(is_adapter, trained))
    chosen = set(map(id, hidden_matrices(model)))
    assert [name for name, p in trained.items() if id(p) in chosen] == [
        name for name in trained if ".experts." not in name
    ]
    optimizer = optimizer_of(model, _config("muon"))
    assert isinstance(optimizer, OptimizerPair) == (architecture == "gpt_oss")
    before = engine_parts.full_weights(model)
    reference.drive(trained, optimizer)
    after = engine_parts.full_weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(trained)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_of_the_engine_is_at_the_rate_it_is_given(mesh, tiny_model, name):
    model = engine_parts.sharded_model(mesh, tiny_model("qwen3"))
    optimizer = optimizer_of(model, _config(name))
    engine = TrainEngine(model, optimizer, mesh=mesh, max_grad_norm=1.0)
    batches = Batches(engine_parts.prepared([[(40, 25)]]), sequences_per_step=1, seed=0)
    losses = [engine.train_step(batches.fetch(1), lr=3e-3).reduced_loss for _ in range(12)]
    assert losses[-1] < losses[0] - 1 and {group["lr"] for group in optimizer.param_groups} == {3e-3}
    assert all(parameter.grad is None for parameter in model.parameters())
    before = engine_parts.full_weights(model)
    engine.train_step(batches.fetch(1), lr=0.0)
    for name, weight in engine_parts.full_weights(model).items():
        assert torch.equal(weight, before[name]), name


def test_a_rate_that_is_a_tensor_stays_one():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(1.0))
    rate = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == 0.25


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_estimate_of_the_state_is_what_it_takes(mesh, tiny_model, name):
    model = engine_parts.sharded_model(mesh, tiny_model("qwen3_moe"))
    optimizer = optimizer_of(model, _config(name))
    reference.drive(_trained(model), optimizer, rates=[0.01])
    shares = memory_shares(model, _config(name), "cpu", 512)
    assert shares.optimizer * 2**30 == pytest.approx(reference.state_bytes(optimizer))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert shares.saved_by_8bit * 2**30 == pytest.approx(shares.optimizer * 2**30 - (2 + 1 / 32) * parameters)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_through_distributed_checkpoints(mesh, tiny_model, name):
    """A run that is cut in two by a saved state ends where the whole run does."""
    model_dir = tiny_model("mixtral")
    whole, first, second = (engine_parts.sharded_model(mesh, model_dir) for _ in range(3))
    reference.drive(_trained(whole), optimizer_of(whole, _config(name)))
    optimizer = optimizer_of(first, _config(name))
    reference.drive(_trained(first), optimizer, reference.RATES[:2])
    saved = get_optimizer_state_dict(first, torch_optimizers(optimizer))
    second.load_state_dict(first.state_dict())
    optimizer = optimizer_of(second, _config(name))
    set_optimizer_state_dict(second, torch_optimizers(optimizer), saved)
    reference.drive(_trained(second), optimizer, reference.RATES[2:], first_step=2)
    expected = engine_parts.full_weights(whole)
    for key, weight in engine_parts.full_weights(second).items():
        assert torch.equal(weight, expected[key]), key


def test_the_log_says_who_trains_what(tiny_model):
    model = build_meta_model(read_model_config(tiny_model("qwen3_moe")))
    assert describe_optimizer(model, _config("adamw")).startswith("optimizer: AdamW; state in float32, 8 bytes")
    # Two layers of four attention matrices, and of four experts with two each.
    line = describe_optimizer(model, _config("muon"))
    attention, experts = 2 * (64 * 64 * 2 + 32 * 64 * 2), 2 * 4 * 3 * 32 * 64
    others = sum(p.numel() for p in model.parameters()) - attention - experts
    assert f"Muon for 24 matrices ({attention + experts:,} parameters), AdamW for {others:,} other" in line


def test_matrices_that_are_split_by_columns_are_refused(mesh):
    model = torch.nn.Linear(8, 4, bias=False)
    model.weight = torch.nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(1)]))
    options = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.0, "muon_momentum": 0.9}
    with pytest.raises(UsageError, match=r"--optimizer muon does not work here: .*sharded by rows") as caught:
        build_optimizer("muon", model, hidden_matrices=[model.weight], **options)
    assert caught.value.hint == "use --optimizer adamw"
    with pytest.raises(ValueError, match="not a parameter of 1 dims"):
        ShardedMuon([torch.nn.Parameter(torch.ones(3))], lr=0.1)


def test_a_missing_torchao_is_told_before_training(tiny_model, chats, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else find_spec(name))
    options = {"load_from": tiny_model("llama"), "dataset": chats, "work_dir": tmp_path}
    check_inputs(TrainerConfig(**options, optimizer="muon"), 1)
    with pytest.raises(UsageError, match="adamw-8bit needs the package torchao") as caught:
        check_inputs(TrainerConfig(**options, optimizer="adamw-8bit"), 1)
    assert caught.value.hint == "pip install 'xtuner[adamw-8bit]'"


def test_8_bits_a_moment_are_close_to_adamw_and_smaller(mesh):
    """After four steps the weights have moved as with fp32 moments but for 3 percent, on a third of the memory."""
    pytest.importorskip("torchao")
    moved, sizes = {}, {}
    for name in ("adamw", "adamw-8bit"):
        torch.manual_seed(0)
        model = torch.nn.Linear(256, 64)
        fully_shard(model, mesh=mesh)
        before = engine_parts.full_weights(model)
        optimizer = reference.optimizer_of_module(name, model)
        reference.drive(_trained(model), optimizer)
        moved[name] = {key: weight - before[key] for key, weight in engine_parts.full_weights(model).items()}
        sizes[name] = reference.state_bytes(optimizer)
        assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([reference.RATES[-1]] * 2)
    difference = (moved["adamw-8bit"]["weight"] - moved["adamw"]["weight"]).norm()
    assert 0 < difference < 0.03 * moved["adamw"]["weight"].norm()
    torch.testing.assert_close(moved["adamw-8bit"]["bias"], moved["adamw"]["bias"])  # too small to be worth 8 bits
    # The weight: a byte a moment, a scale for each 256 of them, two tables of 256 numbers. The bias: fp32.
    assert sizes["adamw"] == 2 * 4 * (256 * 64 + 64)
    assert sizes["adamw-8bit"] == 2 * (256 * 64 * (1 + 4 / 256) + 4 * 256) + 2 * 4 * 64
