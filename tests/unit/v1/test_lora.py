"""LoRA against peft itself: gradients, logits, adapter files, merged models; one rank, fp32."""

import importlib.util
import json
import math

import engine_parts
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from xtuner.errors import ModelError, UsageError
from xtuner.preflight import check_inputs
from xtuner.v1.config import FSDPConfig, LoraConfig, TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.engine.isolation import check_isolation
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.export import export_model
from xtuner.v1.model.export_lora import export_adapter
from xtuner.v1.model.initialize import initialize_buffers
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.lora import add_adapters, initialize_adapters, store_frozen_as
from xtuner.v1.model.shard import shard_model
from xtuner.v1.optim.adamw import build_adamw

# Tied and untied heads; experts stored one by one and stacked, multiplied from the right and (GPT-OSS) from the left.
ARCHITECTURES = ["qwen3", "llama", "llama-tied", "gemma2", "qwen3_moe", "mixtral", "gpt_oss"]
ATTENTION = "q_proj,k_proj,v_proj,o_proj"
IDS = torch.arange(3, 60)[None]


def _adapted(mesh, model_dir, config=None, fsdp=None, dtype=torch.float32):
    model = build_meta_model(read_model_config(model_dir))
    add_adapters(model, config or LoraConfig(rank=4), model_dir)
    store_frozen_as(model, dtype, model_dir)
    shard_model(model, mesh, fsdp or FSDPConfig())
    load_weights(model, model_dir)
    initialize_buffers(model)
    initialize_adapters(model, 0, 0)
    return model


def _adamw(model):
    return build_adamw(model, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)


def _batches(data):
    return Batches(data, sequences_per_step=1, seed=0)


def _trained(mesh, model_dir, config=None, **options):
    """An adapted model three steps away from its base."""
    model = _adapted(mesh, model_dir, config, **options)
    engine = TrainEngine(model, _adamw(model), mesh=mesh, max_grad_norm=1.0)
    batches = _batches(engine_parts.prepared([[(30, 20), (18, 9)]]))
    for step in range(1, 4):
        engine.train_step(batches.fetch(step), lr=1e-2)
    return model


def _base(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")


@torch.no_grad()
def _logits(model):
    position_ids = torch.arange(IDS.shape[1])[None]
    return model(input_ids=IDS, position_ids=position_ids, use_cache=False).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_starts_at_the_base_model(mesh, tiny_model, architecture):
    model = _adapted(mesh, tiny_model(architecture))
    check_isolation(model, torch.device("cpu"))
    torch.testing.assert_close(_logits(model), _logits(_base(tiny_model(architecture))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_of_a_step_equal_those_of_peft(mesh, tiny_model, tmp_path, architecture):
    """Both begin at the same adapters, B not zero so that A gets gradients too."""
    model_dir = tiny_model(architecture)
    model = _trained(mesh, model_dir)
    export_adapter(model, tmp_path / "adapter", is_writer=True)
    data = engine_parts.prepared([[(40, 25), (11, 3)]], seed=1)
    engine = TrainEngine(model, torch.optim.SGD(model.parameters(), lr=1.0), mesh=mesh, max_grad_norm=math.inf)
    before = engine_parts.full_weights(model)
    outcome = engine.train_step(_batches(data).fetch(1), lr=1.0)
    after = engine_parts.full_weights(model)

    reference = PeftModel.from_pretrained(_base(model_dir), tmp_path / "adapter", is_trainable=True).train()
    losses = []
    for index in range(2):
        sequence = data.sequence(index)
        ids = torch.from_numpy(sequence.ids).long()
        labels = torch.where(torch.from_numpy(sequence.is_trained), ids, -100)[1:]
        losses.append(F.cross_entropy(reference(input_ids=ids[None]).logits[0, :-1], labels, reduction="sum"))
    loss = sum(losses) / 28
    loss.backward()
    assert outcome.reduced_loss == pytest.approx(loss.item(), rel=1e-6)
    expected = {name.removeprefix("base_model.model."): p for name, p in reference.named_parameters()}
    assert expected.keys() == before.keys()
    for name, parameter in expected.items():
        gradient = before[name] - after[name]
        if parameter.grad is None:
            assert ".lora_" not in name and torch.equal(before[name], after[name]), name
        else:
            assert parameter.grad.abs().max() > 1e-4, name
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_and_merged_model_have_the_logits_of_the_trained_model(mesh, tiny_model, tmp_path, architecture):
    source = tiny_model(architecture)
    model = _trained(mesh, source)
    export_adapter(model, tmp_path / "adapter", is_writer=True)
    export_model(model, tmp_path / "hf", source=source, tokenizer_dir=source, is_writer=True)
    trained = _logits(model)
    assert (trained - _logits(_base(source))).abs().max() > 0.05

    adapted = PeftModel.from_pretrained(_base(source), tmp_path / "adapter")
    torch.testing.assert_close(trained, _logits(adapted), rtol=1e-5, atol=1e-5)
    merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    torch.testing.assert_close(trained, _logits(merged), rtol=1e-5, atol=1e-5)

    ours, theirs = engine_parts.stored_tensors(tmp_path / "hf"), engine_parts.stored_tensors(source)
    assert ours.keys() == theirs.keys()
    changed = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    untouched = ("embed_tokens.", "norm.", "layernorm.", "lm_head.", ".gate.weight", ".router.", ".sinks", "bias")
    adapted = {name for name in theirs if not any(part in name for part in untouched)}
    assert changed <= adapted
    reached_no_token = adapted - changed
    assert all(".experts." in name for name in reached_no_token) and len(reached_no_token) < 0.2 * len(adapted)
    peft_config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert peft_config["base_model_name_or_path"] == str(source) and peft_config["inference_mode"]


def test_only_named_layers_are_adapted(mesh, tiny_model, tmp_path):
    source = tiny_model("qwen3")
    model = _trained(mesh, source, LoraConfig(rank=2, alpha=3, target_modules="q_proj, mlp.up_proj"))
    export_model(model, tmp_path / "hf", source=source, tokenizer_dir=source, is_writer=True)
    export_adapter(model, tmp_path / "adapter", is_writer=True)
    ours, theirs = engine_parts.stored_tensors(tmp_path / "hf"), engine_parts.stored_tensors(source)
    changed = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    layers = [f"model.layers.{index}" for index in range(2)]
    expected = [f"{layer}.{name}.weight" for layer in layers for name in ("self_attn.q_proj", "mlp.up_proj")]
    assert changed == set(expected)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name in expected:
        path = f"base_model.model.{name.removesuffix('.weight')}"
        product = tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]
        torch.testing.assert_close(ours[name], theirs[name] + 1.5 * product)


def test_frozen_weights_in_bfloat16_lose_nothing(mesh, tiny_model, tmp_path):
    """Half the memory of the base, the same numbers: bf16 on disk, in memory and in compute."""
    source = tiny_model("qwen3", dtype=torch.bfloat16)
    compute = FSDPConfig(compute_dtype="bfloat16")
    small, large = (_trained(mesh, source, fsdp=compute, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    for name, parameter in small.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert large.get_parameter(name).dtype == torch.float32
    for model, name in ((small, "small"), (large, "large")):
        export_model(model, tmp_path / name, source=source, tokenizer_dir=source, is_writer=True)
    ours, theirs = engine_parts.stored_tensors(tmp_path / "small"), engine_parts.stored_tensors(tmp_path / "large")
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == torch.bfloat16 for name in theirs)
    assert small.lm_head.weight is small.model.embed_tokens.weight


def test_frozen_weights_stay_float32_where_the_source_is(mesh, tiny_model):
    model = _adapted(mesh, tiny_model("qwen3"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_recomputed_blocks_give_the_same_experts(mesh, tiny_model):
    """peft swaps the experts' weights while they run, and so it must when they run again for the backward pass."""
    kept, recomputed = (
        engine_parts.full_weights(_trained(mesh, tiny_model("qwen3_moe"), fsdp=FSDPConfig(recompute_ratio=ratio)))
        for ratio in (0.0, 1.0)
    )
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_dropout_changes_training_and_not_the_isolation_probe(mesh, tiny_model):
    config = LoraConfig(rank=4, dropout=0.5)
    model = _trained(mesh, tiny_model("qwen3"), config)
    again = _trained(mesh, tiny_model("qwen3"), config)
    weights = engine_parts.full_weights(model)
    assert all(torch.equal(weight, weights[name]) for name, weight in engine_parts.full_weights(again).items())
    with torch.no_grad():  # adapters that weigh enough for a probe with dropout to fail
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(20)
    one, other = _logits(model), _logits(model)
    assert (one - other).abs().mean() > 0.1 * one.std()
    check_isolation(model, torch.device("cpu"))
    assert model.training


def test_adapters_begin_as_those_of_peft(mesh, tiny_model):
    """A uniform in +-1/sqrt(in), another one for each layer; B zero."""
    weights = engine_parts.full_weights(_adapted(mesh, tiny_model("llama"), LoraConfig(rank=32)))
    inputs = {name: weight for name, weight in weights.items() if ".lora_A." in name}
    for name, weight in inputs.items():
        bound = weight.shape[1] ** -0.5
        assert 0.99 * bound < weight.abs().max() <= bound, name
        assert abs(weight.mean()) < 0.05 * bound, name
    assert len({weight.sum().item() for weight in inputs.values()}) == len(inputs) == 14
    assert all(not weight.any() for name, weight in weights.items() if ".lora_B." in name)


def test_layers_that_peft_takes_for_others_are_refused(tmp_path):
    """Dense layers and shared experts are linear layers that peft mistakes for the experts beside them."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    config = AutoConfig.for_model("deepseek_v3", num_hidden_layers=2, first_k_dense_replace=1, **sizes, **experts)
    with pytest.raises(ModelError, match=r"peft mistakes layers .* for others: .*gate_proj") as caught:
        add_adapters(build_meta_model(config), LoraConfig(rank=4), tmp_path)
    flag, names = caught.value.hint.split()[-2:]
    assert flag == "--lora.target-modules" and "q_a_proj" in names.split(",")
    add_adapters(build_meta_model(config), LoraConfig(rank=4, target_modules=names), tmp_path)


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "self_attn", "q_porj", "gate.weight"])
def test_names_of_no_layer_are_refused(tiny_model, name):
    model = build_meta_model(read_model_config(tiny_model("qwen3-untied")))
    with pytest.raises(UsageError, match=f"target-modules {name}: no layer of Qwen3ForCausalLM") as caught:
        add_adapters(model, LoraConfig(rank=4, target_modules=("q_proj", name)), tiny_model("qwen3-untied"))
    assert "down_proj, gate_proj, k_proj" in caught.value.hint


def test_dropout_on_experts_is_refused_and_works_without_them(tiny_model):
    model_dir = tiny_model("qwen3_moe")
    with pytest.raises(UsageError, match=r"--lora.dropout 0.1 does not work on stacked experts \(experts.down_proj"):
        add_adapters(build_meta_model(read_model_config(model_dir)), LoraConfig(rank=4, dropout=0.1), model_dir)
    model = build_meta_model(read_model_config(model_dir))
    add_adapters(model, LoraConfig(rank=4, dropout=0.1, target_modules=ATTENTION), model_dir)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 16 and all("self_attn" in name for name in trained)


def test_a_missing_peft_is_told_before_training(tiny_model, chats, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find_spec(name))
    options = {"load_from": tiny_model("llama"), "dataset": chats, "work_dir": tmp_path}
    check_inputs(TrainerConfig(**options), 1)
    with pytest.raises(UsageError, match="needs the package peft") as caught:
        check_inputs(TrainerConfig(**options, lora=LoraConfig(rank=8)), 1)
    assert caught.value.hint == "pip install 'xtuner[lora]'"
