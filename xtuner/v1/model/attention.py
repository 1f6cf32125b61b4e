"""Attention over packs: every document attends to itself alone, and no 2-D mask over the pack exists.

Shapes: B batch (always 1), H query heads, K key-value heads, T tokens of the pack, N tokens of a document, D head dim.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

PACKED_ATTENTION = "xtuner_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, H, T, D]
    key: torch.Tensor,  # [1, K, T, D]
    value: torch.Tensor,  # [1, K, T, D]
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    document_lengths: list[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document of a pack, with transformers' attention-function signature.

    Args:
        module: the attention layer that calls; unused, part of the signature.
        query: [1, H, T, D].
        key: [1, K, T, D]; H is a multiple of K.
        value: [1, K, T, D].
        attention_mask: must be None; the boundaries come from `document_lengths`.
        scaling: factor on the scores; None is D**-0.5.
        dropout: attention dropout; only 0 is supported.
        sliding_window: a token sees itself and the `sliding_window - 1` tokens before it.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2).
        s_aux: [H] sink logits that take part in the softmax and are dropped after it (GPT-OSS).
        document_lengths: tokens of each document, summing to T; None is one document.

    Returns:
        The output as [1, T, H, D], and None for the weights.
    """
    assert attention_mask is None, "a packed batch carries no mask"
    assert dropout == 0.0, "attention dropout is not supported"
    lengths = document_lengths or [query.shape[2]]
    pieces = [
        _attend(*qkv, scaling=scaling, window=sliding_window, softcap=softcap, sinks=s_aux)
        for qkv in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    num_tokens = query.shape[2]
    is_windowed = window is not None and num_tokens > window
    if softcap is not None or sinks is not None:
        return _attend_eagerly(query, key, value, scaling, window if is_windowed else None, softcap, sinks)
    mask = _window_mask(num_tokens, window, query.device) if is_windowed else None
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


def _attend_eagerly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """What the fused kernel has no argument for: score capping and sinks; the scores exist, [1, H, N, N]."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    num_tokens = query.shape[2]
    mask = _window_mask(num_tokens, window or num_tokens, query.device)
    scores = scores.masked_fill(~mask, float("-inf")).float()
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1)[..., :num_tokens].to(value.dtype)
    return weights @ value


def _window_mask(num_tokens: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[N, N], True where a query (row) may see a key (column)."""
    assert window is not None
    position = torch.arange(num_tokens, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
