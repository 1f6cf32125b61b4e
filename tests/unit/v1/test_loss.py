"""The chunked losses against cross-entropy on the whole logits."""

import weakref

import engine_parts
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xtuner.errors import ModelError
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.objective import teach_loss
from xtuner.v1.loss.cross_entropy import head_cross_entropy, linear_cross_entropy

N, HIDDEN, VOCAB = 50, 16, 97


def _inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCAB, (N,), generator=generator)


def _reference(logits, targets, z_loss):
    cross_entropy = F.cross_entropy(logits, targets, reduction="sum")
    return cross_entropy + z_loss * logits.logsumexp(-1).square().sum(), cross_entropy


def _linear(hidden, weight, targets, **options):
    return linear_cross_entropy(hidden, weight, targets, **options)


def _by_head(hidden, weight, targets, **options):
    return head_cross_entropy(lambda rows: rows @ weight.t(), hidden, targets, **options)


@pytest.mark.parametrize("loss", [_linear, _by_head])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk_size", [1, 7, 50, 1024])
def test_chunks_give_loss_and_gradients_of_the_whole(loss, z_loss, chunk_size):
    hidden, weight, targets = _inputs()
    logits = hidden @ weight.t()
    objective, cross_entropy = _reference(logits, targets, z_loss)
    expected = torch.autograd.grad(objective * 0.25, (hidden, weight))

    terms = loss(hidden, weight, targets, chunk_size=chunk_size, z_loss=z_loss)
    gradients = torch.autograd.grad(terms.objective * 0.25, (hidden, weight))

    torch.testing.assert_close(terms.objective, objective, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms.cross_entropy, cross_entropy, rtol=1e-6, atol=0)
    assert terms.num_correct == (logits.argmax(-1) == targets).sum() > 0
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [_linear, _by_head])
def test_bfloat16_in_float32_out(loss):
    """The sum of the logits' loss in fp32: bf16 would be off by some thousandths."""
    hidden, weight, targets = _inputs(torch.bfloat16)
    terms = loss(hidden, weight, targets, chunk_size=16)
    objective, _ = _reference((hidden @ weight.t()).float(), targets, 0.0)
    assert terms.objective.dtype == terms.cross_entropy.dtype == torch.float32
    torch.testing.assert_close(terms.objective, objective, rtol=1e-6, atol=0)
    terms.objective.backward()
    exact = torch.autograd.grad(
        _reference(hidden.detach().float().requires_grad_() @ weight.float().t(), targets, 0.0)[0], weight
    )[0]
    assert weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(weight.grad, exact, rtol=2e-2, atol=5e-2)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = _inputs()
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets, chunk_size=16).objective.backward()
    assert weight.grad is None and hidden.grad.abs().sum() > 0


def test_no_targets_are_no_loss():
    hidden, weight, _ = _inputs()
    terms = linear_cross_entropy(hidden[:0], weight, torch.empty(0, dtype=torch.long), chunk_size=16)
    assert [term.item() for term in terms] == [0.0, 0.0, 0.0]


class _LargestTensor(TorchDispatchMode):
    """The most elements that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


@pytest.mark.parametrize("loss", [_linear, _by_head])
def test_the_logits_of_all_rows_never_exist(loss):
    hidden, weight, targets = _inputs()
    with _LargestTensor() as largest:
        loss(hidden, weight, targets, chunk_size=4).objective.backward()
    assert largest.numel == VOCAB * HIDDEN > 4 * VOCAB, "the weight's gradient is the largest"
    with _LargestTensor() as largest:
        loss(hidden, weight, targets, chunk_size=N).objective.backward()
    assert largest.numel == N * VOCAB, "control: with one chunk they do"


class _TensorsAtATime(TorchDispatchMode):
    """The most tensors of `numel` elements that share no memory and exist at a time."""

    def __init__(self, numel):
        super().__init__()
        self._numel = numel
        self._seen = []
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._seen += [weakref.ref(leaf) for leaf in leaves if leaf.numel() == self._numel]
        alive = [tensor for seen in self._seen if (tensor := seen()) is not None]
        self.most = max(self.most, len({tensor.untyped_storage().data_ptr() for tensor in alive}))
        return result


def test_the_logits_of_one_chunk_are_gone_before_those_of_the_next_are_made():
    hidden, weight, targets = _inputs()
    with _TensorsAtATime(4 * VOCAB) as logits:
        _linear(hidden, weight, targets, chunk_size=4).objective.backward()
    assert logits.most == 1 and len(hidden) >= 8


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "qwen3_moe", "gpt_oss"])
def test_a_models_own_head_is_used(mesh, tiny_model, architecture):
    """Capped logits (Gemma 2) among them; the same loss as from the model's whole logits, for any chunk size."""
    batch = Batches(engine_parts.prepared([[(40, 25), (11, 3)]]), sequences_per_step=1, seed=0)
    [pack] = batch.fetch(1).micro_batches
    inputs = {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "use_cache": False}
    inputs["document_lengths"] = pack.document_lengths
    model = engine_parts.sharded_model(mesh, tiny_model(architecture))
    logits = model(**inputs).logits[0, pack.target_positions]
    _, expected = _reference(logits, pack.targets, 0.0)
    for chunk_size in (3, 1024):
        model = engine_parts.sharded_model(mesh, tiny_model(architecture))
        teach_loss(model, chunk_size=chunk_size)
        terms = model(targets=pack.targets, target_positions=pack.target_positions, **inputs)
        torch.testing.assert_close(terms.cross_entropy, expected, rtol=1e-6, atol=0)
        assert terms.num_correct == (logits.argmax(-1) == pack.targets).sum()
        torch.testing.assert_close(model(**inputs).logits[0, pack.target_positions], logits)


def test_a_head_that_is_no_module_is_refused(mesh, tiny_model):
    model = engine_parts.sharded_model(mesh, tiny_model("llama"))
    teach_loss(model, chunk_size=8)
    model.lm_head.__class__ = type("Other", (torch.nn.Linear,), {"__call__": torch.nn.Linear.forward})
    ids = torch.arange(8)[None]
    with pytest.raises(ModelError, match="head as modules"):
        model(input_ids=ids, targets=ids[0], target_positions=torch.arange(8), document_lengths=[8], use_cache=False)
