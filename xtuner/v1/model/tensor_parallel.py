"""Tensor parallel (Megatron-LM, Shoeybi et al. 2019): the ranks of a group share the matrices of each decoder block.

Each model of `transformers` comes with a plan: which of its modules can be cut, and how. A column-wise layer holds
some rows of its weight [out, in] and gives some of the outputs, say those of some heads; a row-wise one takes them
as they are and its partial results are summed. What the plan does not name is whole on every rank and computes the
same there. Parameters are cut before FSDP shards them, so that each rank's cuts are sharded among the ranks with the
same ones.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

from xtuner.errors import ModelError, UsageError
from xtuner.v1.model.build import decoder_blocks
from xtuner.v1.model.collectives import copy_to_group, gather_parts, reduce_from_group, split_to_group
from xtuner.v1.model.tensor_cut import TensorCut

_COLWISE = {"colwise", "colwise_gather_output", "packed_colwise"}
_ROWWISE = {"rowwise", "rowwise_split_input"}
_EXPERTS = {"moe_tp_experts"}
_SUMMED = {"replicated_with_grad_allreduce"}
_NUM_PACKED = {"packed_colwise": 2}
_IN_BLOCKS = "layers.*."


def require_plan(model: PreTrainedModel, tp_size: int) -> None:
    """Refuse what cannot be cut for `tp_size` ranks, while `model` is still whole.

    Raises:
        ModelError: no plan, or one with a word that is not known here.
        UsageError: `tp_size` does not divide what is cut, or LoRA adapts stacked experts.
    """
    if tp_size == 1:
        return
    styles = _styles(model)
    unknown = sorted(set(styles.values()) - _COLWISE - _ROWWISE - _EXPERTS - _SUMMED)
    if unknown or not styles:
        what = f"a plan with {', '.join(unknown)}" if unknown else "no plan for its decoder blocks"
        raise ModelError(
            f"--tp-size {tp_size}: {type(model).__name__} comes with {what}",
            hint="use --tp-size 1; FSDP shards every model, and --sp-size shares long packs",
        )
    _require_even_heads(model, styles, tp_size)
    for path, module, style in _planned(model):
        for name, cut_dim, num_packed in _cuts(path, module, style):
            size = module.get_parameter(name).shape[cut_dim]
            if size % (tp_size * num_packed):
                raise UsageError(
                    f"--tp-size {tp_size} does not divide the {size // num_packed} of {path} in {type(model).__name__}",
                    hint="use a smaller --tp-size",
                )


def cut_model(model: PreTrainedModel, group: dist.ProcessGroup) -> dict[str, TensorCut]:
    """Cut a meta model for the ranks of `group` in place, by its own plan; the cuts by the names of the parameters.

    Call `require_plan` first.
    """
    cuts: dict[str, TensorCut] = {}
    for path, module, style in _planned(model):
        for name, dim, num_packed in _cuts(path, module, style):
            cut = TensorCut(group, dim, num_packed)
            _replace(module, name, cut)
            cuts[f"{path}.{name}"] = cut
        _let_run(module, style, group)
    return cuts


# --- The plan ---


def _styles(model: PreTrainedModel) -> dict[str, str]:
    """The words of the model's plan by the path inside a block, `self_attn.q_proj: colwise`."""
    plan = model.config.get_text_config().base_model_tp_plan or {}
    return {path.removeprefix(_IN_BLOCKS): style for path, style in plan.items() if path.startswith(_IN_BLOCKS)}


def _planned(model: PreTrainedModel) -> list[tuple[str, nn.Module, str]]:
    """Path, module and style of all modules that are cut or run in another way than before.

    An adapter of LoRA is cut where the layer it adapts is: column-wise its second matrix, row-wise its first.
    """
    styles = _styles(model)
    names = {id(module): path for path, module in model.named_modules()}
    found: list[tuple[str, nn.Module, str]] = []
    for block in decoder_blocks(model):
        for path, style in styles.items():
            module = _find(block, path)
            if module is None:  # a layer without experts, or a parameter of a module that is in the plan itself
                continue
            base = getattr(module, "base_layer", None)
            if base is None:
                parts = [module]
            elif hasattr(module, "parameter_name"):
                raise UsageError(
                    "--tp-size and LoRA on stacked experts do not go together",
                    hint="name linear layers with --lora.target-modules, or use --tp-size 1",
                )
            else:
                adapters = module.lora_B if style in _COLWISE else module.lora_A
                parts = [base, *adapters.values()]  # type: ignore[operator]
            found += [(names[id(part)], part, style) for part in parts]
    return found


def _find(block: nn.Module, path: str) -> nn.Module | None:
    try:
        return block.get_submodule(path)
    except AttributeError:
        return None


def _cuts(path: str, module: nn.Module, style: str) -> list[tuple[str, int, int]]:
    """Name, dimension and number of packed matrices of each parameter of `module` that is cut.

    Raises:
        ModelError: the module is none that this style is known for.
    """
    if style in _SUMMED:
        return []
    if style in _EXPERTS:
        return _cuts_of_experts(path, module)
    if not isinstance(module, nn.Linear):
        raise ModelError(
            f"{path} is planned {style} and is no linear layer but {type(module).__name__}", hint="use --tp-size 1"
        )
    if style in _ROWWISE:
        return [("weight", 1, 1)]
    names = ["weight"] if module.bias is None else ["weight", "bias"]
    return [(name, 0, _NUM_PACKED.get(style, 1)) for name in names]


def _cuts_of_experts(path: str, module: nn.Module) -> list[tuple[str, int, int]]:
    """Stacked experts: gate and up [E, 2 I, H] by the rows of each, down [E, H, I] by its columns."""
    names = {name for name, _ in module.named_parameters(recurse=False)}
    if names != {"gate_up_proj", "down_proj"} or getattr(module, "is_transposed", False):
        raise ModelError(
            f"{path} holds its experts in another way than gate_up_proj and down_proj: {', '.join(sorted(names))}",
            hint="use --tp-size 1",
        )
    return [("gate_up_proj", 1, 2), ("down_proj", 2, 1)]


def _require_even_heads(model: PreTrainedModel, styles: dict[str, str], tp_size: int) -> None:
    """Heads stay whole: a rank that has some of a projection's outputs has all those of some heads."""
    if not any(style == "colwise" and "attn" in path for path, style in styles.items()):
        return
    config = model.config.get_text_config()
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    if num_heads % tp_size or num_kv_heads % tp_size:
        fitting = [size for size in range(1, num_kv_heads + 1) if num_heads % size == num_kv_heads % size == 0]
        raise UsageError(
            f"--tp-size {tp_size} does not divide the {num_heads} attention heads and {num_kv_heads} key-value heads "
            f"of {type(model).__name__}",
            hint=f"use one of {', '.join(map(str, fitting))}",
        )


# --- The modules ---


def _replace(module: nn.Module, name: str, cut: TensorCut) -> None:
    """Put the cut of a meta parameter in its place."""
    whole = module.get_parameter(name)
    module._parameters[name] = nn.Parameter(torch.empty_like(cut.of_whole(whole)), requires_grad=whole.requires_grad)


def _let_run(module: nn.Module, style: str, group: dist.ProcessGroup) -> None:
    """Put the exchanges of `style` around the forward pass of `module`."""
    if style in _SUMMED:
        module.forward = _with_summed_gradients(module, group)
    elif style in _EXPERTS:
        module.forward = _experts(module, group)
    elif style in _COLWISE:
        module.forward = _colwise(module, group, gathers=style == "colwise_gather_output")
    else:
        module.forward = _rowwise(module, group, splits=style == "rowwise_split_input")


def _colwise(module: nn.Module, group: dist.ProcessGroup, *, gathers: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    original = module.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        out = original(copy_to_group(hidden, group))
        return gather_parts(out, group) if gathers else out

    return forward


def _rowwise(module: Any, group: dist.ProcessGroup, *, splits: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        part = split_to_group(hidden, group) if splits else hidden
        out = reduce_from_group(F.linear(part, module.weight), group)
        return out if module.bias is None else out + module.bias  # once, not once a rank

    return forward


def _experts(module: nn.Module, group: dist.ProcessGroup) -> Callable[..., torch.Tensor]:
    """Each rank runs its part of every expert; the router chose them, and weighs them, alike on all ranks."""
    original = module.forward

    def forward(hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        out = original(copy_to_group(hidden, group), top_k_index, copy_to_group(top_k_weights, group))
        return reduce_from_group(out, group)

    return forward


def _with_summed_gradients(module: nn.Module, group: dist.ProcessGroup) -> Callable[..., Any]:
    """A whole parameter that meets some heads alone (a norm of queries): its gradient is the sum over the ranks."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        own = dict(module._parameters)
        try:
            for name, parameter in own.items():
                module._parameters[name] = None if parameter is None else copy_to_group(parameter, group)  # type: ignore[assignment]
            return original(*args, **kwargs)
        finally:
            module._parameters.update(own)

    return forward
