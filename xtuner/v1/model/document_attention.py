"""Attention inside each document of a pack, document by document: every device, every dtype, no score matrix kept.

The backward pass is written here, because two things need it that autograd cannot be told: the pieces of a long
windowed document share their keys, and an attention sink joins the softmax *after* a fused kernel has run.

A sink s is one more logit in the softmax whose value is dropped (GPT-OSS). With the kernel's output `o` and log-sum-exp
`l` over the keys alone, the softmax over keys and sink has the log-sum-exp l' = log(e^l + e^s) and the output
o' = o * e^(l - l'). Every kernel's backward makes the weights anew as e^(score - l) and takes the rows' dot products
`delta = dO . o` off their gradient; given l' and o' instead, it returns the gradients under the sink. The sink's own is
-sum over tokens of e^(s - l') * delta.

Shapes: H query heads, K key-value heads, T tokens of the pack, N queries and M keys of a piece, D head dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

_WINDOW_ROWS = 512  # queries of a piece; the mask of a piece is this many rows of (this + window) columns
_SCORES_PER_HEAD = 2**20  # of a piece whose scores are written out: 4 MiB a head


@dataclass(frozen=True)
class ScoreRules:
    """What becomes of a score before the softmax.

    Attributes:
        scale: factor on the scores.
        window: a token sees itself and the `window - 1` tokens before it; None is all before it.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


def attend_documents(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    document_lengths: list[int],
    rules: ScoreRules,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of each document to itself.

    Memory beyond inputs and output is one piece's, in the forward and in the backward pass: O(window) a token for
    windows, 4 MiB a head where scores are written out (a softcap; anything but a CPU).

    Args:
        query: [1, H, T, D].
        key: [1, K, T, D]; H is a multiple of K.
        value: [1, K, T, D].
        document_lengths: tokens of each document, summing to T.
        rules: scale, window, softcap.
        sinks: [H] logits that take part in each row's softmax and are dropped after it.

    Returns:
        [1, T, H, D], contiguous.
    """
    if query.device.type != "cpu" and rules.softcap is None and sinks is None:
        return attend_documents_by_sdpa(query, key, value, document_lengths, rules)
    query, key, value = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value))
    return _DocumentAttention.apply(query, key, value, sinks, document_lengths, rules)


def attend_documents_by_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    document_lengths: list[int],
    rules: ScoreRules,
) -> torch.Tensor:
    """As `attend_documents`, through `scaled_dot_product_attention`: for accelerators, without softcap and sinks."""
    if query.dtype not in (torch.bfloat16, torch.float16):
        # Grouped heads would send CUDA's fp32 to the kernel that writes all scores out.
        num_groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(num_groups, 1), value.repeat_interleave(num_groups, 1)
    outs = []
    for piece in _pieces(document_lengths, rules, is_fused=True):
        mask = _piece_mask(query, piece, rules)
        outs.append(
            F.scaled_dot_product_attention(
                *_qkv(piece, query, key, value),
                attn_mask=mask,
                is_causal=mask is None,
                scale=rules.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outs, dim=2).transpose(1, 2).contiguous()


def join_sinks(
    out: torch.Tensor,  # [..., N, D]
    lse: torch.Tensor,  # [..., N]
    sinks: torch.Tensor,  # [..., 1], broadcast over N
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp over keys and sinks, from those over the keys alone."""
    joined = torch.logaddexp(lse, sinks.to(lse.dtype))
    return out * (lse - joined).exp().unsqueeze(-1).to(out.dtype), joined


def sinks_gradient(
    grad_out: torch.Tensor,  # [..., N, D]
    out: torch.Tensor,  # [..., N, D], over keys and sinks
    lse: torch.Tensor,  # [..., N], over keys and sinks
    sinks: torch.Tensor,  # [..., 1]
) -> torch.Tensor:
    """What the rows add to the gradient of the sinks, [..., 1]."""
    delta = (grad_out * out).sum(-1, dtype=lse.dtype)
    return -((sinks.to(lse.dtype) - lse).exp() * delta).sum(-1, keepdim=True)


@dataclass(frozen=True)
class _Piece:
    """Queries [begin, end) against keys [key_begin, end) of the pack; `key_begin < begin` only in windows."""

    key_begin: int
    begin: int
    end: int

    def of_queries(self, tensor: torch.Tensor) -> torch.Tensor:
        """[1, H, N, D] or [1, H, N] of a [1, H, T, ...]."""
        return tensor[:, :, self.begin : self.end]

    def of_keys(self, tensor: torch.Tensor) -> torch.Tensor:
        """[1, K, M, D] of a [1, K, T, D]."""
        return tensor[:, :, self.key_begin : self.end]


class _DocumentAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        document_lengths: list[int],
        rules: ScoreRules,
    ) -> torch.Tensor:
        out_TH = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        out = out_TH.transpose(1, 2)
        lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
        attend = _kernel(query, rules)
        for piece in _pieces(document_lengths, rules, is_fused=attend is _Fused):
            piece_out, piece_lse = attend.forward(*_qkv(piece, query, key, value), piece, rules)
            if sinks is not None:
                piece_out, piece_lse = join_sinks(piece_out, piece_lse, sinks[:, None])
            piece.of_queries(out).copy_(piece_out)
            piece.of_queries(lse).copy_(piece_lse)
        ctx.save_for_backward(query, key, value, out_TH, lse, sinks)
        ctx.document_lengths, ctx.rules = document_lengths, rules
        return out_TH

    @staticmethod
    def backward(ctx: Any, grad_out_TH: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out_TH, lse, sinks = ctx.saved_tensors
        rules: ScoreRules = ctx.rules
        out, grad_out = out_TH.transpose(1, 2), grad_out_TH.transpose(1, 2)
        attend = _kernel(query, rules)
        grads = _Gradients(query, key, is_shared=not (attend is _Fused and rules.window is None))
        grad_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=lse.dtype)
        for piece in _pieces(ctx.document_lengths, rules, is_fused=attend is _Fused):
            rows = piece.of_queries(grad_out), piece.of_queries(out), piece.of_queries(lse)
            grads.add(piece, attend.backward(*rows, *_qkv(piece, query, key, value), piece, rules))
            if grad_sinks is not None:
                grad_sinks += sinks_gradient(*rows, sinks[:, None])[0, :, 0]
        return *grads.finish(), None if grad_sinks is None else grad_sinks.to(sinks.dtype), None, None


class _Gradients:
    """Gradients of query, key and value, laid out as projections want them, [1, T, heads, D] in memory."""

    def __init__(self, query: torch.Tensor, key: torch.Tensor, *, is_shared: bool) -> None:
        self._dtype = query.dtype
        self._is_shared = is_shared  # several pieces add to the gradient of one key
        dtype = torch.promote_types(query.dtype, torch.float32) if is_shared else query.dtype
        self._query = _tokens_first(query, query.dtype)
        self._key, self._value = _tokens_first(key, dtype), _tokens_first(key, dtype)
        if is_shared:
            self._key.zero_()
            self._value.zero_()

    def add(self, piece: _Piece, grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        piece.of_queries(self._query).copy_(grads[0])
        for total, grad in zip((self._key, self._value), grads[1:], strict=True):
            part = piece.of_keys(total)
            if self._is_shared:
                part.add_(grad)
            else:
                part.copy_(grad)

    def finish(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._query, self._key.to(self._dtype), self._value.to(self._dtype)


class _Fused:
    """PyTorch's CPU flash kernel, the one behind `scaled_dot_product_attention`; takes grouped heads as they are."""

    @staticmethod
    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, piece: _Piece, rules: ScoreRules
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask = _piece_mask(query, piece, rules)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, mask is None, attn_mask=mask, scale=rules.scale
        )

    @staticmethod
    def backward(
        grad_out: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        piece: _Piece,
        rules: ScoreRules,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mask = _piece_mask(query, piece, rules)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out, query, key, value, out, lse, 0.0, mask is None, attn_mask=mask, scale=rules.scale
        )


class _WrittenOut:
    """Scores in memory, a piece at a time, in fp32 or better: what no fused kernel takes."""

    @staticmethod
    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, piece: _Piece, rules: ScoreRules
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores, _ = _scores(query, key, piece, rules)
        lse = scores.logsumexp(-1)
        weights = (scores - lse.unsqueeze(-1)).exp().to(value.dtype)
        out = _by_group(weights, key.shape[1]) @ value
        return out.view_as(query), lse

    @staticmethod
    def backward(
        grad_out: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        piece: _Piece,
        rules: ScoreRules,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        num_groups = key.shape[1]
        scores, slope = _scores(query, key, piece, rules)
        weights = (scores - lse.unsqueeze(-1)).exp()
        grad_rows = _by_group(grad_out, num_groups)
        grad_weights = (grad_rows @ value.mT).view_as(weights)
        delta = (grad_out * out).sum(-1, keepdim=True, dtype=weights.dtype)
        grad_scores = weights * (grad_weights - delta) * rules.scale
        if slope is not None:
            grad_scores = grad_scores * slope
        grad_scores = _by_group(grad_scores.to(query.dtype), num_groups)
        grad_value = _by_group(weights.to(query.dtype), num_groups).mT @ grad_rows
        return (grad_scores @ key).view_as(query), grad_scores.mT @ _by_group(query, num_groups), grad_value


def _scores(
    query: torch.Tensor, key: torch.Tensor, piece: _Piece, rules: ScoreRules
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The masked scores [1, H, N, M], and the derivative of the softcap at each."""
    raw = _by_group(query, key.shape[1]) @ key.mT
    scores = raw.view(1, query.shape[1], query.shape[2], key.shape[2]) * rules.scale
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    slope = None
    if rules.softcap is not None:
        bent = torch.tanh(scores / rules.softcap)
        scores, slope = rules.softcap * bent, 1 - bent * bent
    distance = _distance(piece, query.device)
    return scores.masked_fill((distance < 0) | (distance >= (rules.window or piece.end)), float("-inf")), slope


def _by_group(tensor: torch.Tensor, num_groups: int) -> torch.Tensor:
    """[1, H, N, X] as [1, K, H / K * N, X]: the rows that share a key-value head, under each other."""
    return tensor.reshape(1, num_groups, -1, tensor.shape[-1])


def _kernel(query: torch.Tensor, rules: ScoreRules) -> type[_Fused] | type[_WrittenOut]:
    return _Fused if query.device.type == "cpu" and rules.softcap is None else _WrittenOut


def _pieces(document_lengths: list[int], rules: ScoreRules, *, is_fused: bool) -> Iterator[_Piece]:
    """The pieces of all documents; a fused kernel needs a piece's mask only where a window cuts."""
    begin = 0
    for length in document_lengths:
        end = begin + length
        if is_fused:
            yield from _fused_pieces(begin, end, rules.window)
        else:
            num_seen = length if rules.window is None else min(length, rules.window + _WINDOW_ROWS)
            rows = max(16, min(_SCORES_PER_HEAD // num_seen, _WINDOW_ROWS))
            for row in range(begin, end, rows):
                first_seen = begin if rules.window is None else max(begin, row - rules.window + 1)
                yield _Piece(first_seen, row, min(row + rows, end))
        begin = end


def _fused_pieces(begin: int, end: int, window: int | None) -> Iterator[_Piece]:
    """The first `window` tokens see all before them; the pieces behind them all have the same mask."""
    first_end = end if window is None else min(begin + window, end)
    yield _Piece(begin, begin, first_end)
    for row in range(first_end, end, _WINDOW_ROWS):
        assert window is not None
        yield _Piece(row - window + 1, row, min(row + _WINDOW_ROWS, end))


def _piece_mask(query: torch.Tensor, piece: _Piece, rules: ScoreRules) -> torch.Tensor | None:
    """What is added to the scores [N, M] of a piece; None where causality is all there is to say."""
    num_rows = piece.end - piece.begin
    if rules.window is None or (piece.key_begin == piece.begin and num_rows <= rules.window):
        return None
    mask = _window_mask(_WINDOW_ROWS, rules.window, query.dtype, query.device)
    return mask[:num_rows, : rules.window - 1 + num_rows]


@lru_cache(maxsize=1)  # the same in all layers of a model
def _window_mask(num_rows: int, window: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[num_rows, window - 1 + num_rows], 0 where row i may see column j (the keys begin window - 1 before it)."""
    distance = _distance(_Piece(0, window - 1, window - 1 + num_rows), device)
    mask = torch.zeros(distance.shape, dtype=dtype, device=device)
    return mask.masked_fill_((distance < 0) | (distance >= window), float("-inf"))


def _distance(piece: _Piece, device: torch.device) -> torch.Tensor:
    """[N, M], how far each key lies before each query."""
    queries = torch.arange(piece.begin, piece.end, device=device)
    return queries[:, None] - torch.arange(piece.key_begin, piece.end, device=device)[None, :]


def _qkv(piece: _Piece, *qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return piece.of_queries(qkv[0]), piece.of_keys(qkv[1]), piece.of_keys(qkv[2])


def _tokens_first(like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Uninitialised [1, X, T, D] with the memory order of [1, T, X, D]."""
    return like.new_empty(1, like.shape[2], like.shape[1], like.shape[3], dtype=dtype).transpose(1, 2)
