"""The kernels that take whole packs: who is chosen, and what each is called with.

The CUDA kernels cannot run here. In their place stand CPU implementations of the same maths: `torch`'s operator
`aten::_flash_attention_forward` and its backward are given one, so that the real `varlen_attn` runs; the packages
`flash_attn` and `flash_attn_interface` are modules with a function of the same signature.
"""

import sys
import types
from itertools import pairwise

import pytest
import torch
from attention_reference import assert_equal_with_gradients, random_qkv, reference

from xtuner.errors import EnvironmentFault, ModelError, UsageError
from xtuner.v1.model import attention_kernels
from xtuner.v1.model.attention import (
    document_bounds,
    packed_attention,
    require_known_attention,
    use_attention,
)
from xtuner.v1.model.attention_kernels import (
    AttentionNeeds,
    PackBounds,
    attend_pack,
    choose_kernel,
    require_kernel,
)
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.document_attention import ScoreRules, _Fused, _Piece, _WrittenOut

LENGTHS = [1, 30, 7, 50]
BOUNDS = PackBounds(document_bounds(LENGTHS), max(LENGTHS))
HOPPER = AttentionNeeds("cuda", (9, 0), torch.bfloat16, 128)


def _replace(needs: AttentionNeeds, **changes) -> AttentionNeeds:
    return AttentionNeeds(**{**vars(needs), **changes})


@pytest.fixture
def installed(monkeypatch):
    """Says which kernels Python finds."""

    def set_installed(*names: str) -> None:
        monkeypatch.setattr(attention_kernels, "is_installed", lambda name: name in names)

    return set_installed


@pytest.mark.parametrize(
    ("found", "changes", "expected"),
    [
        (("flash3", "flash2", "varlen"), {}, "flash3"),
        (("flash2", "varlen"), {}, "flash2"),
        (("varlen",), {}, "varlen"),
        ((), {}, "sdpa"),
        (("flash3", "flash2", "varlen"), {"capability": (8, 0)}, "flash2"),
        (("flash3", "flash2", "varlen"), {"capability": (10, 0)}, "flash2"),
        (("flash3", "flash2", "varlen"), {"capability": (7, 5)}, "sdpa"),
        (("flash3", "flash2", "varlen"), {"dtype": torch.float32}, "sdpa"),
        (("flash3", "flash2", "varlen"), {"dtype": torch.float16}, "flash3"),
        (("flash3", "flash2", "varlen"), {"head_dim": 512}, "sdpa"),
        (("flash3", "flash2", "varlen"), {"head_dim": 256}, "flash3"),
        (("flash3", "flash2", "varlen"), {"has_sinks": True}, "varlen"),
        (("flash2", "varlen"), {"has_softcap": True}, "flash2"),
        (("varlen",), {"has_softcap": True}, "sdpa"),
        (("flash3", "flash2", "varlen"), {"device_type": "cpu", "capability": (0, 0)}, "sdpa"),
    ],
)
def test_auto_takes_the_first_kernel_that_can(installed, found, changes, expected):
    installed(*found)
    assert choose_kernel("auto", _replace(HOPPER, **changes)) == expected


@pytest.mark.parametrize("choice", ["sdpa", "varlen", "flash2"])
def test_a_kernel_by_name_is_taken(installed, choice):
    installed("flash3", "flash2", "varlen")
    require_kernel(choice, HOPPER)
    assert choose_kernel(choice, HOPPER) == choice


@pytest.mark.parametrize(
    ("choice", "found", "changes", "error", "words"),
    [
        ("flash2", (), {}, EnvironmentFault, "not installed.*flash_attn"),
        ("flash3", ("flash3",), {"capability": (8, 0)}, EnvironmentFault, r"a Hopper GPU.*8\.0"),
        ("varlen", ("varlen",), {"device_type": "cpu"}, EnvironmentFault, "CUDA GPU, this run is on cpu"),
        ("flash2", ("flash2",), {"dtype": torch.float32}, UsageError, "this run in float32"),
        ("flash2", ("flash2",), {"head_dim": 512}, UsageError, "up to 256, this model has 512"),
        ("varlen", ("varlen",), {"has_softcap": True}, UsageError, "soft cap"),
        ("flash3", ("flash3",), {"has_sinks": True}, UsageError, "sinks"),
    ],
)
def test_a_kernel_by_name_that_cannot_is_an_error(installed, choice, found, changes, error, words):
    installed(*found)
    with pytest.raises(error, match=words) as caught:
        require_kernel(choice, _replace(HOPPER, **changes))
    assert f"--attention {choice}" in str(caught.value) and "--attention at auto" in caught.value.hint


@pytest.mark.parametrize(
    ("architecture", "refused", "words"), [("gemma2", "varlen", "soft cap"), ("gpt_oss", "flash2", "sinks")]
)
def test_what_a_model_needs_is_read_from_it(installed, tiny_model, monkeypatch, architecture, refused, words):
    installed("flash3", "flash2", "varlen")
    monkeypatch.setattr("xtuner.v1.model.attention.device_capability", lambda device: (9, 0))
    model = build_meta_model(read_model_config(tiny_model(architecture)))
    with pytest.raises(UsageError, match=words):
        use_attention(model, refused, "cuda", torch.bfloat16)
    assert "document by document" in use_attention(model, "auto", "cpu", torch.float32)


def test_attention_that_only_masks_tell_is_refused(tiny_model):
    model = build_meta_model(read_model_config(tiny_model("llama")))
    require_known_attention(model, 4096)
    model.config.layer_types, model.config.attention_chunk_size = ["chunked_attention"], 1024
    require_known_attention(model, 1024)
    with pytest.raises(ModelError, match="chunks of 1024 tokens, rows may have 4096"):
        require_known_attention(model, 4096)
    model.config.attention_chunk_size, model.config.use_bidirectional_attention = None, True
    with pytest.raises(ModelError, match="both directions"):
        require_known_attention(model, 4096)


def _rows(*tensors):
    return tuple(tensor[0].transpose(0, 1) for tensor in tensors)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_torchs_own_kernel(flash_on_cpu, heads, window, has_sinks):
    """Through the real `varlen_attn` and its backward: layout, boundaries, window, scale, grouped heads, sinks."""
    qkv = random_qkv(sum(LENGTHS), heads=heads)
    sinks = torch.linspace(-1, 3, 4).requires_grad_() if has_sinks else None
    rules = ScoreRules(0.3, window)
    out = attend_pack("varlen", *_rows(*qkv), BOUNDS, rules, sinks)
    inputs = [*qkv, sinks] if has_sinks else list(qkv)
    assert_equal_with_gradients(out[None], reference(*qkv, LENGTHS, rules, sinks), inputs, tolerance=1e-5)
    assert flash_on_cpu == {"forward": 1, "backward": 1}


@pytest.mark.parametrize("name", ["flash2", "flash3"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (8, None), (None, 5.0), (8, 5.0)])
def test_flash_attention(flash_packages, name, window, softcap):
    qkv = random_qkv(sum(LENGTHS))
    rules = ScoreRules(0.3, window, softcap)
    out = attend_pack(name, *_rows(*qkv), BOUNDS, rules)
    assert_equal_with_gradients(out[None], reference(*qkv, LENGTHS, rules), qkv, tolerance=1e-5)
    assert flash_packages == [name]


def test_a_layer_reaches_its_kernel_with_the_boundaries_of_the_pack(flash_on_cpu, monkeypatch):
    """`packed_attention` on a device where the kernel runs; value heads shorter than the query's are padded."""
    monkeypatch.setattr("xtuner.v1.model.attention._choose", lambda *_: "varlen")
    qkv = random_qkv(sum(LENGTHS), dims=(24, 16))
    out, _ = packed_attention(torch.nn.Module(), *qkv, None, sliding_window=8, document_lengths=LENGTHS)
    assert_equal_with_gradients(out, reference(*qkv, LENGTHS, ScoreRules(24**-0.5, 8)), qkv, tolerance=1e-5)
    assert flash_on_cpu == {"forward": 1, "backward": 1}


def _documents(cu_seqlens):
    return [_Piece(begin, begin, end) for begin, end in pairwise(cu_seqlens.tolist())]


@pytest.fixture
def flash_on_cpu():
    """CPU implementations of the operator under `varlen_attn`; how often each was called."""
    calls = {"forward": 0, "backward": 0}

    def rules_of(is_causal, scale, left, right) -> ScoreRules:
        assert (left, right) == (-1, 0) if is_causal else left >= 0 and right == 0
        return ScoreRules(scale, None if is_causal else left + 1)

    def check(query, cu_q, cu_k, max_q, max_k):
        assert cu_q.dtype == torch.int32 and cu_q is not None and torch.equal(cu_q, cu_k)
        assert max_q == max_k == int(cu_q.diff().max()) and query.stride(-1) == 1

    def forward(query, key, value, cu_q, cu_k, max_q, max_k, dropout, is_causal, debug=False, **options):
        calls["forward"] += 1
        check(query, cu_q, cu_k, max_q, max_k)
        rules = rules_of(is_causal, options["scale"], options["window_size_left"], options["window_size_right"])
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        parts = [_WrittenOut.forward(p.of_queries(q), p.of_keys(k), p.of_keys(v), p, rules) for p in _documents(cu_q)]
        out = torch.cat([part[0] for part in parts], dim=2)[0].transpose(0, 1).contiguous()
        empty = torch.empty(0)
        return out, torch.cat([part[1] for part in parts], dim=2)[0], torch.zeros(2, dtype=torch.uint64), empty, empty

    def backward(grad, query, key, value, out, lse, cu_q, cu_k, max_q, max_k, dropout, is_causal, *_, **options):
        calls["backward"] += 1
        check(query, cu_q, cu_k, max_q, max_k)
        rules = rules_of(is_causal, options["scale"], options["window_size_left"], options["window_size_right"])
        grad, query, key, value, out = (x.transpose(0, 1)[None] for x in (grad, query, key, value, out))
        parts = [
            _WrittenOut.backward(
                p.of_queries(grad),
                p.of_queries(out),
                p.of_queries(lse[None]),
                p.of_queries(query),
                p.of_keys(key),
                p.of_keys(value),
                p,
                rules,
            )
            for p in _documents(cu_q)
        ]
        return tuple(torch.cat(grads, dim=2)[0].transpose(0, 1).contiguous() for grads in zip(*parts, strict=True))

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    yield calls
    library._destroy()


@pytest.fixture
def flash_packages(monkeypatch):
    """Modules `flash_attn` and `flash_attn_interface`; the names of those that were called."""
    calls = []

    def package(name, module, extra):
        def flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q,
            max_seqlen_k,
            softmax_scale=None,
            causal=False,
            window_size=(-1, -1),
            softcap=0.0,
        ):
            calls.append(name)
            assert causal and cu_seqlens_q.dtype == torch.int32 and max_seqlen_q == max_seqlen_k == max(LENGTHS)
            assert torch.equal(cu_seqlens_q, cu_seqlens_k) and window_size[1] in (-1, 0)
            rules = ScoreRules(softmax_scale, window_size[0] + 1 or None, softcap or None)
            rows = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
            out = reference(*rows, cu_seqlens_q.diff().tolist(), rules)[0].to(q.dtype)
            return (out, None) if extra else out

        found = types.ModuleType(module)
        found.flash_attn_varlen_func = flash_attn_varlen_func
        monkeypatch.setitem(sys.modules, module, found)

    package("flash2", "flash_attn", extra=False)
    package("flash3", "flash_attn_interface", extra=True)
    attention_kernels._function.cache_clear()
    yield calls
    attention_kernels._function.cache_clear()


def test_the_two_ways_of_a_piece_agree():
    """The stand-in of the fixtures above against the fused CPU kernel, log-sum-exp included."""
    query, key, value = (tensor.detach() for tensor in random_qkv(40))
    piece, rules = _Piece(0, 0, 40), ScoreRules(0.25)
    fused = _Fused.forward(query, key, value, piece, rules)
    torch.testing.assert_close(fused, _WrittenOut.forward(query, key, value, piece, rules), rtol=1e-5, atol=1e-5)
