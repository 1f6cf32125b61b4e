"""Attention over packs: every document attends to itself alone, and no 2-D mask over the pack exists.

This is what `transformers`' models call; which kernel then runs is chosen a layer, by what the layer needs.

Shapes: B batch (always 1), H query heads, K key-value heads, T tokens of the pack, D head dim.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.config import AttentionChoice
from xtuner.v1.model.attention_kernels import (
    AttentionNeeds,
    KernelName,
    PackBounds,
    attend_pack,
    choose_kernel,
    device_capability,
    require_kernel,
)
from xtuner.v1.model.document_attention import ScoreRules, attend_documents
from xtuner.v1.model.sequence_parallel import heads_for_tokens, own_heads, tokens_for_heads

PACKED_ATTENTION = "xtuner_packed"
_CHOICE = "xtuner_attention"  # the attribute of an attention layer that names its kernel

_DESCRIPTIONS = {
    "flash3": "flash-attention 3",
    "flash2": "flash-attention 2",
    "varlen": "PyTorch's variable-length kernel",
    "sdpa": "PyTorch's scaled_dot_product_attention, document by document",
}


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
    cu_seqlens: torch.Tensor | None = None,
    sequence_group: dist.ProcessGroup | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each document of a pack, with transformers' attention-function signature.

    Args:
        module: the attention layer that calls; `use_attention` has left its choice of kernel there.
        query: [1, H, T, D].
        key: [1, K, T, D]; H is a multiple of K.
        value: [1, K, T, Dv]; Dv may differ from D (DeepSeek).
        attention_mask: must be None; the boundaries come from `document_lengths`.
        scaling: factor on the scores; None is D**-0.5.
        dropout: attention dropout; only 0 is supported.
        sliding_window: a token sees itself and the `sliding_window - 1` tokens before it.
        softcap: scores become `softcap * tanh(scores / softcap)` (Gemma 2).
        s_aux: [H] sink logits that take part in the softmax and are dropped after it (GPT-OSS).
        document_lengths: tokens of each document, summing to T; None is one document.
        cu_seqlens: int32 [documents + 1] on the device, the same as sums; made here where it is needed and missing.
        sequence_group: the ranks that share the pack. T is then this rank's tokens, and `document_lengths` and
            `cu_seqlens` are those of the whole pack.

    Returns:
        The output as [1, T, H, Dv], and None for the weights.
    """
    assert attention_mask is None, "a packed batch carries no mask"
    assert dropout == 0.0, "attention dropout is not supported"
    value_dim, query_dim = value.shape[-1], query.shape[-1]
    query, key, value = _to_one_head_dim(query, key, value)
    if sequence_group is not None:
        query, key, value = tokens_for_heads(query, key, value, sequence_group)
        s_aux = None if s_aux is None else own_heads(s_aux, sequence_group)
    lengths = document_lengths or [query.shape[2]]
    longest = max(lengths)
    rules = ScoreRules(
        scale=query_dim**-0.5 if scaling is None else scaling,
        window=sliding_window if sliding_window is not None and sliding_window < longest else None,
        softcap=softcap,
    )
    choice: AttentionChoice = getattr(module, _CHOICE, "auto")
    kernel = _choose(choice, query.device, query.dtype, query.shape[-1], softcap is not None, s_aux is not None)
    if kernel == "sdpa":
        out = attend_documents(query, key, value, lengths, rules, s_aux)
    else:
        if cu_seqlens is None:
            cu_seqlens = document_bounds(lengths).to(query.device)
        rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        out = attend_pack(kernel, rows[0], rows[1], rows[2], PackBounds(cu_seqlens, longest), rules, s_aux)[None]
    if sequence_group is not None:
        out = heads_for_tokens(out, sequence_group)
    return out[..., :value_dim], None


def document_bounds(document_lengths: list[int]) -> torch.Tensor:
    """Where each document begins and the last one ends: int32 [documents + 1]."""
    return torch.tensor([0, *document_lengths]).cumsum(0).to(torch.int32)


def use_attention(model: PreTrainedModel, choice: AttentionChoice, device_type: str, dtype: torch.dtype) -> str:
    """Let `model` attend with the kernel of `choice`, and say in a few words what that will be.

    Args:
        model: built with `PACKED_ATTENTION`; may be on the meta device.
        choice: a kernel, or "auto".
        device_type: where it will run.
        dtype: what it will compute in.

    Raises:
        EnvironmentFault: the kernel is not installed, or cannot run here.
        UsageError: the kernel lacks what the model needs.
    """
    needs = _model_needs(model, torch.device(device_type), dtype)
    require_kernel(choice, needs)
    for module in model.modules():
        setattr(module, _CHOICE, choice)
    return _DESCRIPTIONS[choose_kernel(choice, needs)]


def require_known_attention(model: PreTrainedModel, longest_row: int) -> None:
    """Refuse the kinds of attention that masks alone tell `transformers` apart, as packs carry none.

    Raises:
        ModelError: attention in chunks with rows longer than a chunk (Llama 4), or attention in both directions.
    """
    config = model.config.get_text_config()
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk and longest_row > chunk and "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        raise ModelError(
            f"{type(model).__name__} attends in chunks of {chunk} tokens, rows may have {longest_row}",
            hint=f"pass --max-length {chunk}: up to there chunks change nothing",
        )
    if getattr(config, "use_bidirectional_attention", None) is True:
        raise ModelError(
            f"{type(model).__name__} attends in both directions (use_bidirectional_attention in its config.json)",
            hint="train a model that attends to earlier tokens only",
        )


def head_dim(config: PreTrainedConfig) -> int:
    """Dimensions of one query head, by a text config."""
    return getattr(config, "head_dim", None) or int(config.hidden_size // config.num_attention_heads)


def _model_needs(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> AttentionNeeds:
    """The most that any layer of `model` asks for."""
    config = model.config.get_text_config()
    dims = [
        head_dim(config),
        *(getattr(config, name, None) or 0 for name in ("qk_head_dim", "v_head_dim", "global_head_dim")),
    ]
    return AttentionNeeds(
        device.type,
        device_capability(device),
        dtype,
        max(dims),
        has_softcap=getattr(config, "attn_logit_softcapping", None) is not None,
        has_sinks=any(name.endswith(".sinks") for name, _ in model.named_parameters()),
    )


@lru_cache
def _choose(
    choice: AttentionChoice, device: torch.device, dtype: torch.dtype, head_dim: int, has_softcap: bool, has_sinks: bool
) -> KernelName:
    """`choose_kernel`, once for each kind of layer instead of at each call."""
    needs = AttentionNeeds(device.type, device_capability(device), dtype, head_dim, has_softcap, has_sinks)
    return choose_kernel(choice, needs)


def _to_one_head_dim(*qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Query, key and value with zeros behind the shorter ones' heads, and all to a multiple of 8 on accelerators.

    Zeros add nothing to a score and only zeros to the output.
    """
    head_dim = max(tensor.shape[-1] for tensor in qkv)
    if qkv[0].device.type != "cpu":
        head_dim += -head_dim % 8
    return tuple(
        tensor if tensor.shape[-1] == head_dim else F.pad(tensor, (0, head_dim - tensor.shape[-1])) for tensor in qkv
    )


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
