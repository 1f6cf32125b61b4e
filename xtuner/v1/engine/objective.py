"""The loss inside the model's own forward pass, where FSDP has gathered the head and no logits are kept.

A causal model's forward runs the decoder, projects some rows to the vocabulary and may cap or scale what comes out.
With targets given, the model here runs the same code for one row alone, takes the decoder's output on the way, and
puts the other rows through the head in chunks. No architecture has to be known by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.loss.cross_entropy import head_cross_entropy, linear_cross_entropy


def teach_loss(model: PreTrainedModel, *, chunk_size: int, z_loss: float = 0.0) -> None:
    """Let `model(..., targets=, target_positions=)` return `LossTerms`; calls without targets stay as they are.

    Args:
        model: sharded or not; its forward is called through the module as ever, so that FSDP's hooks run.
        chunk_size: rows whose logits exist at a time.
        z_loss: weight of log(Z)**2, see `linear_cross_entropy`.
    """
    original = model.forward

    def forward(
        *args: Any,
        targets: torch.Tensor | None = None,
        target_positions: torch.Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        if targets is None:
            return original(*args, **inputs)
        assert target_positions is not None, "each target has a position"
        seen = _run_decoder(model, original, target_positions[:1], inputs)
        hidden = seen.decoder_output.last_hidden_state[0].index_select(0, target_positions)
        if seen.head_is_plain:
            weight = model.get_output_embeddings().weight
            return linear_cross_entropy(hidden, weight, targets, chunk_size=chunk_size, z_loss=z_loss)
        head = _head_alone(model, original, seen.decoder_output)
        return head_cross_entropy(head, hidden, targets, chunk_size=chunk_size, z_loss=z_loss)

    model.forward = forward


class _Seen:
    """What passed by in one forward: the decoder's output, and whether the head's product is the logits."""

    def __init__(self) -> None:
        self.decoder_output: Any = None
        self.projected: torch.Tensor | None = None
        self.head_is_plain = False


def _run_decoder(
    model: PreTrainedModel, original: Callable[..., Any], one_position: torch.Tensor, inputs: dict[str, Any]
) -> _Seen:
    """The model's forward with logits for one row alone, watched from its decoder and its head."""
    seen, head = _Seen(), model.get_output_embeddings()

    def see_decoder(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.decoder_output = output

    def see_head(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        seen.projected = output

    hooks = [model.base_model.register_forward_hook(see_decoder), head.register_forward_hook(see_head)]
    try:
        logits = original(logits_to_keep=one_position, **inputs).logits
    finally:
        for hook in hooks:
            hook.remove()
    if seen.decoder_output is None or seen.projected is None:
        raise ModelError(
            f"{type(model).__name__} does not run its decoder and its head as modules of their own",
            hint="this architecture is not supported yet",
        )
    # The very tensor: nothing was scaled, capped or cast behind the projection.
    seen.head_is_plain = logits is seen.projected and type(head) is nn.Linear and head.bias is None
    return seen


def _head_alone(
    model: PreTrainedModel, original: Callable[..., Any], decoder_output: Any
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model's forward from the decoder's output on, for rows [C, h] of it."""

    def head(rows: torch.Tensor) -> torch.Tensor:
        output = type(decoder_output)(**{**decoder_output, "last_hidden_state": rows[None]})
        with _replaced_forward(model.base_model, lambda *_, **__: output):
            # The ids are not looked at: the decoder that would is not run.
            logits: torch.Tensor = original(input_ids=rows.new_zeros((1, len(rows)), dtype=torch.long)).logits
        return logits[0]

    return head


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
