"""The real CUDA kernels against a masked softmax written out in fp64, forward and gradients."""

import pytest
import torch
from attention_reference import assert_equal_with_gradients, random_qkv, reference

from xtuner.v1.model.attention import document_bounds, packed_attention
from xtuner.v1.model.attention_kernels import (
    PACK_KERNELS,
    AttentionNeeds,
    PackBounds,
    attend_pack,
    choose_kernel,
    device_capability,
)
from xtuner.v1.model.document_attention import ScoreRules, attend_documents

LENGTHS = [1, 530, 3, 620, 1]


def _rows(*tensors):
    return tuple(tensor[0].transpose(0, 1) for tensor in tensors)


@pytest.mark.parametrize("name", PACK_KERNELS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("window", [None, 8, 600])
@pytest.mark.parametrize(("softcap", "has_sinks"), [(None, False), (5.0, False), (None, True)])
def test_a_pack_kernel(name, heads, window, softcap, has_sinks):
    device = torch.device("cuda")
    needs = AttentionNeeds(
        "cuda", device_capability(device), torch.bfloat16, 64, has_softcap=softcap is not None, has_sinks=has_sinks
    )
    if choose_kernel(name, needs) != name:
        pytest.skip(f"{name} is not installed, or cannot do this here")
    qkv = random_qkv(sum(LENGTHS), heads=heads, dims=(64, 64), dtype=torch.bfloat16, device="cuda")
    sinks = torch.linspace(-1, 3, 4, device="cuda").requires_grad_() if has_sinks else None
    rules = ScoreRules(0.125, window, softcap)
    out = attend_pack(name, *_rows(*qkv), PackBounds(document_bounds(LENGTHS).cuda(), max(LENGTHS)), rules, sinks)
    inputs = [*qkv, sinks] if has_sinks else list(qkv)
    assert_equal_with_gradients(out[None], reference(*qkv, LENGTHS, rules, sinks), inputs, tolerance=3e-2)


@pytest.mark.parametrize("window", [None, 8, 600])
@pytest.mark.parametrize(("softcap", "has_sinks"), [(None, False), (5.0, False), (None, True), (5.0, True)])
def test_document_by_document_in_fp32(window, softcap, has_sinks):
    qkv = random_qkv(sum(LENGTHS), device="cuda")
    sinks = torch.linspace(-1, 3, 4, device="cuda").requires_grad_() if has_sinks else None
    rules = ScoreRules(0.3, window, softcap)
    out = attend_documents(*qkv, LENGTHS, rules, sinks)
    inputs = [*qkv, sinks] if has_sinks else list(qkv)
    assert_equal_with_gradients(out, reference(*qkv, LENGTHS, rules, sinks), inputs, tolerance=1e-4)


@pytest.mark.parametrize("dims", [(192, 128), (20, 20), (320, 320)])
def test_head_dims_that_are_padded_or_too_wide(dims):
    """Value heads of another dim (DeepSeek), no multiple of 8, and more than the kernels take."""
    qkv = random_qkv(sum(LENGTHS), dims=dims, dtype=torch.bfloat16, device="cuda")
    out, _ = packed_attention(torch.nn.Module(), *qkv, None, document_lengths=LENGTHS)
    expected = reference(*qkv, LENGTHS, ScoreRules(dims[0] ** -0.5))
    assert_equal_with_gradients(out, expected, qkv, tolerance=3e-2)
