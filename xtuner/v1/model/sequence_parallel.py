"""Sequence parallel (Ulysses, Jacobs et al. 2023): ranks share a pack, and swap tokens for heads around attention.

Outside attention every operation is per token, so each of the S ranks of a group runs T / S tokens of the pack
through the layers. Inside, each rank sees all T tokens of H / S heads. Documents, windows, sinks and kernels are as
they are without it.

Shapes: S ranks of a group, T tokens of the pack, t = T / S, H query heads, K key-value heads, D head dim.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def tokens_for_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give this rank's tokens of the other ranks' heads away, and get the other ranks' tokens of its own heads.

    Where K is no multiple of S, key-value heads are repeated until it is.

    Args:
        query: [1, H, t, D]; S divides H.
        key: [1, K, t, D].
        value: [1, K, t, D].
        group: the ranks that share the pack, in the order of their tokens.

    Returns:
        query [1, H / S, T, D], key and value [1, K' / S, T, D], K' the least common multiple of K and S.
    """
    num_ranks, num_kv_heads = group.size(), key.shape[1]
    repeats = math.lcm(num_kv_heads, num_ranks) // num_kv_heads
    if repeats > 1:
        key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    # One exchange for the three: [S, heads of that rank, t, D].
    by_rank = [tensor[0].unflatten(0, (num_ranks, -1)) for tensor in (query, key, value)]
    received = _AllToAll.apply(torch.cat(by_rank, dim=1), group)
    whole = received.transpose(0, 1).flatten(1, 2)[None]  # [1, heads, T, D]
    return whole.split([tensor.shape[1] for tensor in by_rank], dim=1)


def heads_for_tokens(out: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The way back: all tokens of this rank's heads [1, T, H / S, D] become its tokens of all heads [1, t, H, D]."""
    by_rank = out[0].unflatten(0, (group.size(), -1))  # [S, t, H / S, D]
    return _AllToAll.apply(by_rank, group).transpose(0, 1).flatten(1, 2)[None]


def own_heads(per_head: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The values of this rank's heads, of values [H] for all."""
    return per_head.chunk(group.size())[group.rank()]


class _AllToAll(torch.autograd.Function):
    """Part i of dimension 0 goes to rank i, and what rank i sent becomes part i; so do the gradients."""

    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _exchange(parts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchange(grad, ctx.group), None


def _exchange(parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received
