"""Attention written out: a mask, a softmax, in fp64; what every kernel is compared with."""

import torch

from xtuner.v1.model.document_attention import ScoreRules


def reference(query, key, value, lengths, rules: ScoreRules, sinks=None):
    """[1, T, H, D] from [1, H, T, D], [1, K, T, D] twice; differentiable."""
    groups = query.shape[1] // key.shape[1]
    outs = []
    for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True):
        q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
        scores = q @ k.mT * rules.scale
        if rules.softcap is not None:
            scores = rules.softcap * torch.tanh(scores / rules.softcap)
        position = torch.arange(q.shape[2], device=q.device)
        distance = position[:, None] - position
        scores = scores.masked_fill((distance < 0) | (distance >= (rules.window or q.shape[2])), float("-inf"))
        if sinks is not None:
            column = sinks.double().view(1, -1, 1, 1).expand(1, -1, q.shape[2], 1)
            scores = torch.cat([scores, column], dim=-1)
        outs.append(scores.softmax(-1)[..., : q.shape[2]] @ v)
    return torch.cat(outs, dim=2).transpose(1, 2)


def random_qkv(num_tokens, *, heads=(4, 2), dims=(16, 16), dtype=torch.float32, device="cpu", seed=0):
    """Leaves [1, heads, T, D], laid out as projections make them; `dims` are those of query and value."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(num_heads: int, dim: int):
        drawn = torch.randn(1, num_tokens, num_heads, dim, generator=generator).to(device, dtype)
        return drawn.transpose(1, 2).requires_grad_()

    return leaf(heads[0], dims[0]), leaf(heads[1], dims[0]), leaf(heads[1], dims[1])


def assert_equal_with_gradients(out, expected, inputs, *, tolerance: float) -> None:
    """Outputs, and the gradients of `inputs` for the same random output gradient, within `tolerance` of their size."""
    grad_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out)
    ours = [out, *torch.autograd.grad(out, inputs, grad_out)]
    theirs = [expected, *torch.autograd.grad(expected, inputs, grad_out.to(expected.dtype))]
    for index, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == its.shape
        error = (mine.double() - its.double()).abs().max() / its.double().abs().max().clamp(min=1)
        assert error < tolerance, f"output or input {index}: off by {error:.1e}"
