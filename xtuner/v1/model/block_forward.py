"""How a decoder block runs: compiled, and keeping its inputs alone for the backward pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from xtuner.v1.config import FSDPConfig
from xtuner.v1.config.memory import recompute_ratio
from xtuner.v1.model.attention import PACKED_ATTENTION, packed_attention


def arrange_forwards(blocks: list[torch.nn.Module], config: FSDPConfig, device_type: str) -> None:
    """Wrap the forwards of `blocks` as `config` says; before sharding, so that FSDP's hooks stay outside.

    The first blocks are the ones that are recomputed; which ones makes no difference to the peak.
    """
    num_recomputed = round(recompute_ratio(config, device_type) * len(blocks))
    for index, block in enumerate(blocks):
        forward: Callable[..., Any] = _compiled(block.forward) if config.torch_compile else block.forward
        if index < num_recomputed:
            forward = partial(checkpoint, forward, use_reentrant=False)
        block.forward = forward


# What only attention looks at.
_UNTRACED = ("document_lengths", "sequence_group")


class _Sealed:
    """A value that a compiled function hands on without looking at it."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` compiled but for its attention.

    Attention depends on where the documents of a pack end: traced, it would be compiled anew for nearly every pack.
    The length of the pack is a symbol from the first one on.
    """
    AttentionInterface.register(PACKED_ATTENTION, _untraced_attention)
    compiled = torch.compile(forward, dynamic=True)

    def run(*args: Any, **inputs: Any) -> Any:
        return compiled(*args, **{**inputs, **{name: _Sealed(inputs.get(name)) for name in _UNTRACED}})

    return run


def _attention_of_sealed(*args: Any, **inputs: Any) -> tuple[torch.Tensor, None]:
    opened = {name: value.value if isinstance(value, _Sealed) else value for name, value in inputs.items()}
    return packed_attention(*args, **opened)


_untraced_attention = torch.compiler.disable(_attention_of_sealed)
