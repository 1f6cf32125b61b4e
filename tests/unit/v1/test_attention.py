"""Every attention path on a CPU against a masked softmax written out, forward and gradients."""

from itertools import product

import pytest
import torch
from attention_reference import assert_equal_with_gradients, random_qkv, reference

from xtuner.v1.model import document_attention
from xtuner.v1.model.attention import document_bounds, packed_attention
from xtuner.v1.model.document_attention import ScoreRules, attend_documents, attend_documents_by_sdpa

LENGTHS = [1, 530, 3, 620, 1]  # the pieces of a window have 512 queries
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
CALLER = torch.nn.Module()


def _sinks(num_heads: int = 4) -> torch.Tensor:
    return torch.linspace(-1.0, 3.0, num_heads).requires_grad_()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("window", "softcap", "has_sinks"), list(product([None, 1, 8, 600], [None, 2.0], [False, True]))
)
def test_ragged_documents_equal_a_masked_softmax(window, softcap, has_sinks, dtype):
    qkv = random_qkv(sum(LENGTHS), dtype=dtype)
    rules = ScoreRules(0.3, window, softcap)
    sinks = _sinks() if has_sinks else None
    out = attend_documents(*qkv, LENGTHS, rules, sinks)
    inputs = [*qkv, sinks] if has_sinks else list(qkv)
    assert out.dtype == dtype and out.is_contiguous()
    assert_equal_with_gradients(out, reference(*qkv, LENGTHS, rules, sinks), inputs, tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_query_heads_share_key_value_heads(heads, softcap):
    qkv = random_qkv(50, heads=heads)
    rules = ScoreRules(0.25, 9, softcap)
    assert_equal_with_gradients(
        attend_documents(*qkv, [20, 30], rules), reference(*qkv, [20, 30], rules), qkv, tolerance=1e-5
    )


@pytest.mark.parametrize("window", [None, 8, 600])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_path_of_accelerators_without_a_pack_kernel(window, dtype):
    qkv = random_qkv(sum(LENGTHS), dtype=dtype)
    rules = ScoreRules(0.25, window)
    out = attend_documents_by_sdpa(*qkv, LENGTHS, rules)
    assert_equal_with_gradients(out, reference(*qkv, LENGTHS, rules), qkv, tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("dims", [(24, 16), (16, 24)])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_value_heads_of_another_dim_as_in_deepseek(dims, has_sinks):
    qkv = random_qkv(40, dims=dims)
    sinks = _sinks() if has_sinks else None
    out, _ = packed_attention(CALLER, *qkv, None, s_aux=sinks, document_lengths=[25, 15])
    expected = reference(*qkv, [25, 15], ScoreRules(dims[0] ** -0.5), sinks)
    assert_equal_with_gradients(out, expected, [*qkv, sinks] if has_sinks else list(qkv), tolerance=1e-5)


def test_gradients_are_exact_in_double_precision():
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in random_qkv(14, dims=(4, 4)))
    sinks = _sinks().detach().double().requires_grad_()
    for rules in (ScoreRules(0.5), ScoreRules(0.5, 3), ScoreRules(0.5, 3, 1.5)):
        assert torch.autograd.gradcheck(
            lambda *leaves, rules=rules: attend_documents(*leaves[:3], [5, 1, 8], rules, leaves[3]),
            (query, key, value, sinks),
        )


def test_the_boundary_kept_by_the_caller_is_the_one_made_here():
    bounds = document_bounds([3, 1, 5])
    assert bounds.tolist() == [0, 3, 4, 9] and bounds.dtype == torch.int32


@pytest.mark.parametrize(
    ("options", "limit_mib"),
    [
        ({"sliding_window": 128}, 4),
        ({"softcap": 5.0}, 33),  # 4 MiB a head and piece
        ({"softcap": 5.0, "sliding_window": 128}, 33),
        ({"sinks": True}, 4),
    ],
)
def test_no_square_of_a_long_document_is_ever_allocated(options, limit_mib):
    """The largest single tensor of forward and backward; all scores of this document would be 128 MiB in fp32."""
    qkv = random_qkv(2048, heads=(8, 8), dims=(8, 8))
    options = dict(options)
    sinks = _sinks(8) if options.pop("sinks", False) else None
    with _LargestTensor() as seen:
        out, _ = packed_attention(CALLER, *qkv, None, s_aux=sinks, document_lengths=[2048], **options)
        out.sum().backward()
    assert seen.num_bytes <= limit_mib * 2**20


def test_the_largest_tensor_is_seen():
    """The control: written out, the square is there."""
    with _LargestTensor() as seen:
        reference(*random_qkv(512, heads=(8, 8)), [512], ScoreRules(1.0))
    assert seen.num_bytes >= 8 * 512 * 512 * 8


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.num_bytes = max(self.num_bytes, tensor.untyped_storage().nbytes())
        return result


def test_pieces_of_many_documents_grow_with_their_tokens_alone():
    """The work of a pack of short documents is the sum of theirs: no piece sees a token of another document."""
    for rules in (ScoreRules(1.0), ScoreRules(1.0, 16), ScoreRules(1.0, 16, 2.0)):
        for num_documents in (10, 1000):
            lengths = [64] * num_documents
            for is_fused in (True, False):
                pieces = list(document_attention._pieces(lengths, rules, is_fused=is_fused))
                assert len(pieces) <= 2 * num_documents
                assert all(piece.key_begin // 64 == (piece.end - 1) // 64 for piece in pieces)
                assert sum(piece.end - piece.begin for piece in pieces) == sum(lengths)
