"""Memory and disk before a run: by value for a model whose sizes are round, and what each option does to them."""

import json
from dataclasses import replace

import pytest

from xtuner.errors import ModelError
from xtuner.launch.devices import Hardware
from xtuner.launch.estimate import COMPONENTS, estimate
from xtuner.launch.fit import NPROC, cheapest_fit, with_changes
from xtuner.launch.model_sizes import ModelSizes, sizes_of
from xtuner.launch.step_memory import StepMemory
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.files import resolve_config
from xtuner.v1.config.memory import BlockShape

GIB = 2**30
BLOCK = BlockShape(hidden_size=1024, num_heads=16, num_kv_heads=16, head_dim=64, inner_size=4096)
# A gibi of parameters in the matrices of blocks, a 64th of it outside.
SIZES = ModelSizes(
    block=BLOCK,
    num_layers=16,
    vocab_size=2**14,
    num_outside=2**24,
    num_in_matrices=2**30,
    num_in_vectors=0,
    adapter_dims=2**20,
    frozen_bytes=2,
    stored_bytes=2 * (2**30 + 2**24),
)
GPU = Hardware("cuda", "card", 8, 80.0, 512.0)
CPU = Hardware("cpu", "this machine", 0, 64.0, 64.0)


def _config(**options):
    return resolve_config({"load_from": "m", "dataset": "d", **options})


def _memory(hardware=GPU, nproc=1, **options):
    return estimate(_config(**options), SIZES, hardware, nproc=nproc).memory


def _step(hardware=GPU, nproc=1, **options):
    return StepMemory(_config(**options), SIZES, hardware.kind, nproc)


def test_states_are_sixteen_bytes_a_parameter():
    step = _step()
    assert step.parameters == step.gradients == 4 * (2**30 + 2**24)
    assert step.optimizer == 8 * (2**30 + 2**24)
    assert _step(optimizer="muon").optimizer == 4 * 2**30 + 8 * 2**24


def test_ranks_divide_states_and_not_activations():
    one, eight = _step(), _step(nproc=8)
    assert (eight.parameters, eight.optimizer) == (one.parameters / 8, one.optimizer / 8)
    at_loss = [next(step.moments()) for step in (one, eight)]
    assert at_loss[0].activations == at_loss[1].activations and at_loss[0].logits == at_loss[1].logits
    assert _step(nproc=8, fsdp_config={"hsdp_sharding_size": 4}).parameters == one.parameters / 4
    # Blocks are shared once more by the ranks of a group, embedding and head are not.
    assert _step(nproc=8, tp_size=2).parameters == 4 * (2**30 / 8 + 2 * 2**24 / 8)


def test_offloading_moves_states_to_the_host():
    needs = estimate(_config(fsdp_config={"cpu_offload": True}), SIZES, GPU, nproc=4)
    assert needs.memory.parameters == needs.memory.gradients == needs.memory.optimizer == 0
    assert needs.host == pytest.approx(16 * (1 + 1 / 64), abs=4)  # of all ranks, with their interpreters


def test_lora_trains_little_of_frozen_weights_in_sixteen_bits():
    needs = estimate(_config(lora={"rank": 8}), SIZES, GPU, nproc=1)
    trained = 8 * 2**20
    assert needs.num_trained == trained
    assert needs.memory.parameters == pytest.approx(2 * (1 + 1 / 64) + 4 * trained / GIB)
    assert needs.memory.optimizer == pytest.approx(8 * trained / GIB)
    assert needs.disk.checkpoint == pytest.approx(12 * trained / GIB)


def test_memory_is_that_of_the_peak_with_what_is_taken_besides_tensors():
    for hardware, held, base in ((GPU, 1.0, 0.8 + 0.0625), (CPU, 1.27, 0.39)):
        memory, peak = _memory(hardware), _step(hardware).peak()
        assert memory.total == pytest.approx(sum(getattr(memory, name) for name in COMPONENTS))
        assert memory.total == pytest.approx(held * peak.total / GIB + base)
        assert memory.activations == peak.activations / GIB and memory.optimizer == peak.optimizer / GIB
    recomputed = {"fsdp_config": {"recompute_ratio": 1.0}}
    step = _step(CPU, **recomputed)
    assert step.scattered > 0 and _memory(CPU, **recomputed).total == pytest.approx(
        (1.27 * step.peak().total + step.scattered) / GIB + 0.39
    )
    assert _memory(global_batch_size=4).total >= _memory().total


def test_disk_counts_what_is_kept_and_what_is_written():
    stored = 2 * (1 + 1 / 64)
    state = 12 * (1 + 1 / 64)
    once = estimate(_config(), SIZES, GPU, nproc=1).disk
    assert (once.export, once.checkpoint) == (pytest.approx(stored), pytest.approx(state))
    often = estimate(
        _config(total_step=100, hf_interval=10, hf_max_keep=3, checkpoint_interval="10"), SIZES, GPU, nproc=1
    ).disk
    assert often.needed == pytest.approx(4 * stored + 3 * state)


@pytest.mark.parametrize("memory_gib", [1.5, 3.0, 6.0, 12.0, 18.0, 40.0])
def test_the_cheapest_fit_fits_and_less_does_not(memory_gib):
    hardware = replace(GPU, num_devices=1, memory_gib=memory_gib)
    fit = cheapest_fit(_config(), SIZES, hardware, nproc=1)
    if fit is None:
        assert memory_gib == 1.5
        return
    assert fit.estimate.fits
    for left_out in fit.changes:
        fewer = tuple(change for change in fit.changes if change is not left_out)
        assert not estimate(with_changes(_config(), fewer), SIZES, hardware, nproc=1).fits
    assert bool(fit.changes) != estimate(_config(), SIZES, hardware, nproc=1).fits


def test_idle_devices_are_cheaper_than_offloading():
    fit = cheapest_fit(_config(), SIZES, replace(GPU, memory_gib=12.0), nproc=1)
    assert {change.key for change in fit.changes} == {NPROC}
    assert fit.changes[0].flag == "--nproc-per-node 8"


def test_a_batch_that_more_devices_cannot_share_is_left_alone():
    fit = cheapest_fit(_config(global_batch_size=1), SIZES, replace(GPU, memory_gib=12.0), nproc=1)
    assert NPROC not in {change.key for change in fit.changes}


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3-untied", "llama-tied", "qwen3_moe"])
def test_sizes_are_those_of_the_model(tiny_model, architecture):
    from transformers import AutoModelForCausalLM

    directory = tiny_model(architecture)
    sizes = sizes_of(TrainerConfig(load_from=directory))
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    layers = model.model.layers
    assert sizes.num_in_blocks == sum(parameter.numel() for parameter in layers.parameters())
    assert sizes.num_in_matrices == sum(p.numel() for p in layers.parameters() if p.dim() >= 2)
    assert sizes.block == BlockShape.of_config(model.config) and sizes.num_layers == len(layers)


@pytest.mark.parametrize("architecture", ["llama", "llama-tied"])
def test_sizes_from_a_config_alone_are_the_same(tiny_model, architecture):
    directory = tiny_model(architecture)
    counted, worked_out = (sizes_of(TrainerConfig(**{name: directory})) for name in ("load_from", "model_cfg"))
    assert worked_out.num_parameters == counted.num_parameters
    assert worked_out.adapter_dims == counted.adapter_dims


def test_a_config_without_sizes_is_said_to_be_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd", "hidden_size": 8}))
    with pytest.raises(ModelError, match="num_hidden_layers, num_attention_heads, vocab_size"):
        sizes_of(TrainerConfig(model_cfg=tmp_path))
