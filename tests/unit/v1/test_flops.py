"""Model FLOPs against the operations PyTorch counts, and the table of devices."""

import pytest
import tiny_models
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from xtuner.run.logline import STEP_KEYS
from xtuner.v1.datasets.batches import MicroBatch, StepBatch
from xtuner.v1.engine.engine import StepOutcome
from xtuner.v1.engine.flops import AttentionLayer, ModelFlops, peak_flops, peak_flops_of
from xtuner.v1.model.build import build_meta_model
from xtuner.v1.train.meter import Meter

NUM_TOKENS = 96

ARCHITECTURES = {
    **tiny_models.ARCHITECTURES,
    # A dense layer first, a shared expert, and keys that are longer than values.
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "num_key_value_heads": 4,
        "head_dim": 8,
    },
}


def _config(architecture, **changes):
    options = {**tiny_models._SIZES, **ARCHITECTURES[architecture], **changes}
    return AutoConfig.for_model(options.pop("model_type"), **options)


def _flops(architecture, **changes):
    return ModelFlops.of_model(build_meta_model(_config(architecture, **changes)))


def _count(model, num_tokens, backward):
    ids = torch.randint(3, 512, (1, num_tokens), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("backward", [False, True])
def test_equal_to_what_pytorch_counts(architecture, backward):
    """Within 0.5 % (rotary embeddings are a small product, which the model count leaves out).

    Plain attention multiplies every pair, so the causal half is there twice; a window saves it nothing.
    """
    config = _config(architecture, experts_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    flops = _flops(architecture)
    dense = sum(6 * layer.pair_dim * NUM_TOKENS**2 for layer in flops.attention)
    expected = (flops.per_token + flops.per_target) * NUM_TOKENS + dense
    counted = _count(model, NUM_TOKENS, backward) * (1 if backward else 3)
    assert counted == pytest.approx(expected, rel=0.005)


def test_what_is_left_out_would_be_seen():
    """The control of the test above: each part of the count is far more than its tolerance."""
    for architecture in ("qwen3", "qwen3_moe"):
        flops = _flops(architecture)
        whole = flops.of_documents([NUM_TOKENS], NUM_TOKENS)
        attention = sum(6 * layer.pair_dim * layer.num_pairs(NUM_TOKENS) for layer in flops.attention)
        assert min(flops.per_target * NUM_TOKENS, attention) > 0.02 * whole
    assert _flops("qwen3_moe", num_experts_per_tok=4).per_token > 1.05 * _flops("qwen3_moe").per_token


def test_the_formula_of_the_paper():
    """Qwen3 by hand: query and output, key and value, three matrices of the MLP, the head on targets alone."""
    flops = _flops("qwen3")
    layer = 64 * (4 * 16) * 2 + 64 * (2 * 16) * 2 + 3 * 64 * 96
    assert flops.per_token == 6 * 2 * layer
    assert flops.per_target == 6 * 512 * 64 == _flops("qwen3-untied").per_target
    lengths = [30, 7, 1]
    attention = 2 * 12 * 4 * 16 * sum(n**2 for n in lengths) / 2
    assert flops.of_documents(lengths, 11) == 6 * 2 * layer * 38 + 6 * 512 * 64 * 11 + attention


@pytest.mark.parametrize(
    ("architecture", "windows"),
    [("qwen3", [None, None]), ("mistral", [8, 8]), ("gemma2", [8, None]), ("gpt_oss", [8, None])],
)
def test_windows_are_those_of_the_layers(architecture, windows):
    assert [layer.window for layer in _flops(architecture).attention] == windows


@pytest.mark.parametrize(("length", "window"), [(400, 100), (400, 399), (400, 400), (400, 1000)])
def test_pairs_are_those_of_the_mask(length, window):
    """To half of the diagonal, which length**2 / 2 leaves out."""
    pairs = sum(min(position + 1, window) for position in range(length))
    assert AttentionLayer(1, window).num_pairs(length) == pairs - min(length, window) / 2
    assert AttentionLayer(1, None).num_pairs(length) == 80_000


def test_linear_attention_has_no_pairs():
    model = build_meta_model(_config("qwen3"))
    model.config.layer_types = ["linear_attention", "full_attention"]
    assert len(ModelFlops.of_model(model).attention) == 1


def test_frozen_matrices_need_no_gradient():
    model = build_meta_model(_config("qwen3"))
    trained = ModelFlops.of_model(model)
    model.requires_grad_(False)
    frozen = ModelFlops.of_model(model)
    assert frozen.per_token == pytest.approx(trained.per_token * 4 / 6)
    assert frozen.per_target == pytest.approx(trained.per_target * 4 / 6)


def _pack(lengths, num_targets, num_padding=0):
    ids = torch.zeros(1, sum(lengths), dtype=torch.int64)
    return MicroBatch(ids, ids, lengths, torch.arange(num_targets), torch.arange(num_targets), num_padding)


def test_padding_is_no_work():
    flops = _flops("llama")
    padded = StepBatch([_pack([20, 5, 7], 11, num_padding=7), _pack([9], 3)], 14)
    assert flops.of_step(padded) == flops.of_documents([20, 5, 9], 14)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA RTX A6000", 155e12),
        ("AMD Instinct MI300X", 1307e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla V100-SXM2-32GB", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L400", None),
    ],
)
def test_the_peak_of_a_device(name, peak):
    assert peak_flops_of(name) == peak


def test_a_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize("peak", [None, 1e9])
def test_the_meter_reports_flops_and_share(monkeypatch, peak):
    monkeypatch.setattr("xtuner.v1.train.meter.peak_flops", lambda device: peak)
    flops = _flops("qwen3")
    meter = Meter(torch.device("cpu"), flops)
    batch = StepBatch([_pack([20, 5], 11)], 11)
    meter.begin()
    meter.batch_ready()
    values = meter.measure(batch, StepOutcome(1.5, 1.6, 2.0, 0.25), lr=1e-3)
    assert tuple(values)[: len(STEP_KEYS)] == STEP_KEYS
    assert values["tflops"] * 1e12 * values["time"] == pytest.approx(flops.of_step(batch))
    assert values.get("mfu") == (pytest.approx(values["tflops"] * 1e12 / 1e9) if peak else None)
    assert values["token_accuracy"] == 0.25
