"""The engine against plain PyTorch on the same `transformers` model, one rank, fp32."""

import math

import engine_parts
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from xtuner.errors import ModelError
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.isolation import check_isolation
from xtuner.v1.optim.adamw import build_adamw

ARCHITECTURES = list(tiny_models.ARCHITECTURES)


def _reference(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").train()


def _batches(data, sequences_per_step):
    return Batches(data, sequences_per_step=sequences_per_step, seed=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_step_equals_a_plain_loop(mesh, tiny_model, architecture):
    """Loss, gradient norm and updated weights of one AdamW step, rows unpacked, against a loop written out here."""
    model_dir = tiny_model(architecture)
    data = engine_parts.prepared([[(40, 25)], [(11, 3)], [(64, 30)]])
    engine = engine_parts.engine(mesh, model_dir)
    # Adam's first step is lr * g / (|g| + 1e-8): where a gradient is mere rounding, so is its step, up to lr itself.
    lr = 6e-6
    before = engine_parts.full_weights(engine.model)
    outcome = engine.train_step(_batches(data, 3).fetch(1), lr=lr)

    reference = _reference(model_dir)
    loss_sum, num_targets = 0.0, 0
    for index in range(3):
        sequence = data.sequence(index)
        ids = torch.from_numpy(sequence.ids).long()
        labels = torch.where(torch.from_numpy(sequence.is_trained), ids, -100)[1:]
        logits = reference(input_ids=ids[None]).logits[0, :-1]
        loss_sum = loss_sum + F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        num_targets += int((labels != -100).sum())
    loss = loss_sum / num_targets
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    decayed = [p for p in reference.parameters() if p.dim() >= 2]
    others = [p for p in reference.parameters() if p.dim() < 2]
    torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.95)
    ).step()

    assert outcome.reduced_loss == pytest.approx(loss.item(), rel=1e-6)
    assert outcome.local_loss == outcome.reduced_loss
    assert outcome.grad_norm == pytest.approx(grad_norm.item(), rel=1e-6)
    for name, weight in engine_parts.full_weights(engine.model).items():
        expected = reference.get_parameter(name).detach()
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
        assert (weight - expected).norm() < 0.02 * (before[name] - expected).norm(), name


def test_only_matrices_are_decayed(mesh, tiny_model):
    """With zero gradients AdamW is decay alone: w * (1 - lr * weight_decay) for matrices, nothing for vectors."""
    model = engine_parts.sharded_model(mesh, tiny_model("llama"))
    before = engine_parts.full_weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_adamw(model, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5).step()
    for name, weight in engine_parts.full_weights(model).items():
        torch.testing.assert_close(weight, before[name] * (0.95 if weight.dim() >= 2 else 1.0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_logits_equal_unpacked_logits(mesh, tiny_model, architecture):
    model_dir = tiny_model(architecture)
    model, reference = engine_parts.sharded_model(mesh, model_dir), _reference(model_dir)
    lengths = [21, 1, 40, 9]
    ids = torch.randint(512, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        packed = model(
            input_ids=ids,
            position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
            document_lengths=lengths,
            use_cache=False,
        ).logits
        alone = torch.cat([reference(input_ids=part, use_cache=False).logits for part in ids.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3", "mixtral", "gpt_oss"])
def test_isolation_holds_and_a_leak_is_found(mesh, tiny_model, architecture, monkeypatch):
    model = engine_parts.sharded_model(mesh, tiny_model(architecture))
    check_isolation(model, torch.device("cpu"))
    forward = model.forward

    def leaky(*, document_lengths, **inputs):
        return forward(document_lengths=[sum(document_lengths)], **inputs)

    monkeypatch.setattr(model, "forward", leaky)
    with pytest.raises(ModelError, match="see each other"):
        check_isolation(model, torch.device("cpu"))


def test_mean_of_means_would_be_wrong(mesh, tiny_model):
    """The control of the normalisation tests: averaging micro-batch means gives another gradient."""
    model_dir = tiny_model("qwen3")
    data = engine_parts.prepared([[(120, 100)], [(12, 2)]])
    engine = engine_parts.engine(mesh, model_dir, sgd=True, max_grad_norm=math.inf)
    before = engine_parts.full_weights(engine.model)
    engine.train_step(_batches(data, 2).fetch(1), lr=1.0)
    after = engine_parts.full_weights(engine.model)

    reference = _reference(model_dir)
    for index in range(2):
        sequence = data.sequence(index)
        ids = torch.from_numpy(sequence.ids).long()
        labels = torch.where(torch.from_numpy(sequence.is_trained), ids, -100)[1:]
        logits = reference(input_ids=ids[None]).logits[0, :-1]
        (F.cross_entropy(logits, labels, ignore_index=-100) / 2).backward()
    name = "model.layers.0.mlp.up_proj.weight"
    ours, naive = before[name] - after[name], reference.get_parameter(name).grad
    assert (ours - naive).norm() > 0.1 * ours.norm()


def test_weights_that_are_not_finite_are_seen_before_the_update(mesh, tiny_model):
    engine = engine_parts.engine(mesh, tiny_model("llama"))
    with torch.no_grad():
        engine.model.model.norm.weight.to_local()[0] = float("nan")
    before = engine_parts.full_weights(engine.model)
    outcome = engine.train_step(_batches(engine_parts.prepared([[(16, 8)]]), 1).fetch(1), lr=1e-3)
    assert not outcome.is_updated and math.isnan(outcome.reduced_loss) and math.isnan(outcome.grad_norm)
    for name, weight in engine_parts.full_weights(engine.model).items():
        torch.testing.assert_close(weight, before[name], equal_nan=True, rtol=0, atol=0)
