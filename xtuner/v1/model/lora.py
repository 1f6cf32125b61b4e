"""LoRA (Hu et al. 2021, arXiv:2106.09685): peft's low-rank adapters on frozen weights, before FSDP shards them.

peft wraps a layer: `q_proj.weight` becomes `q_proj.base_layer.weight` beside `q_proj.lora_A.default.weight` [r, in]
and `q_proj.lora_B.default.weight` [out, r]. Stacked experts, one parameter of three dimensions, are wrapped as
modules, one wrapper a parameter inside the other. Everything else in the engine knows the plain names only.
"""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from xtuner.errors import ModelError, UsageError
from xtuner.hub.safetensors_header import read_header
from xtuner.hub.weights import weight_map
from xtuner.v1.config import LoraConfig
from xtuner.v1.model.initialize import seed_of
from xtuner.v1.model.matrices import linear_layers_and_experts
from xtuner.v1.model.shard import copy_rows, whole_shape

_ADAPTER = "default"  # peft's name of the only adapter
_WRAPPER = ".base_layer"
_DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16"}


def add_adapters(model: PreTrainedModel, config: LoraConfig, base: Path) -> None:
    """Freeze a meta model and put adapters on the layers that `config` names; rank 0 changes nothing.

    Args:
        model: on the meta device and not sharded.
        config: rank, scale, dropout and layers.
        base: the model directory, written down for whoever loads the adapter.

    Raises:
        UsageError: no layer has that name, or experts are to be adapted with dropout.
        ModelError: peft cannot adapt exactly these layers.
    """
    if not config.rank:
        return
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    linear, experts = _choose(model, config)
    if experts and config.dropout:
        raise UsageError(
            f"--lora.dropout {config.dropout:g} does not work on stacked experts ({_suffixes(experts, 2)[0]})",
            hint="use --lora.dropout 0, or name other layers with --lora.target-modules",
        )
    names = _suffixes(linear, 1) if not config.target_modules else sorted(config.target_modules)
    modules = [name for name in names if _matching(linear, name)]
    adapters = PeftConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base.absolute()),
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,
        lora_dropout=config.dropout,
        target_modules=modules or None,
        target_parameters=_suffixes(experts, 2) or None,
        exclude_modules=sorted(set(_matching_any(_module_names(model), modules)) - set(linear)) or None,
    )
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers that peft missed are told below, as an error
        inject_adapter_in_model(adapters, model, adapter_name=_ADAPTER)
    _check_wrapped(model, {*(f"{path}.weight" for path in linear), *experts})


def store_frozen_as(model: PreTrainedModel, dtype: torch.dtype, base: Path) -> None:
    """Keep the frozen weights of an adapted meta model in `dtype` where `base` holds all of them so: nothing is lost.

    Masters in fp32 exist to collect small updates; frozen weights get none, and half the memory is the point of LoRA.
    """
    if dtype == torch.float32 or _file_dtypes(base) != {_DTYPE_NAMES.get(dtype)}:
        return
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)  # in place, so that tied weights stay one parameter


def _file_dtypes(model_dir: Path) -> set[str]:
    """The dtypes of all tensors of a model directory, in the words of safetensors."""
    headers = map(read_header, set(weight_map(model_dir).values()))
    return {tensor.dtype for header in headers for tensor in header.tensors.values()}


def initialize_adapters(model: PreTrainedModel, seed: int, dropout_stream: int) -> None:
    """Fill the shards of all adapters as peft does: A uniform, B zero, so that training starts at the base model.

    Each matrix is drawn whole from a seed of its own, so its values are the same at every world size. The dropout of
    the adapters is seeded by `dropout_stream`: alike on ranks that run the same tokens, different on others.
    """
    for path, module in adapted_modules(model).items():
        weight_A, weight_B = adapter_weights(module)
        generator = torch.Generator().manual_seed(seed_of(seed, path))
        full = torch.empty(whole_shape(weight_A), dtype=torch.float32)
        nn.init.kaiming_uniform_(full, a=math.sqrt(5), generator=generator)
        copy_rows(weight_A, full, f"{path}.lora_A")
        copy_rows(weight_B, torch.zeros(whole_shape(weight_B)), f"{path}.lora_B")
    torch.manual_seed(seed_of(seed, f"dropout of rank {dropout_stream}"))


def adapted_modules(model: nn.Module) -> dict[str, Any]:
    """peft's wrappers by their path in `model`; empty without LoRA."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(getattr(module, "lora_A", None), nn.ModuleDict)
    }


def adapter_weights(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A [r, in] and B [out, r] of a wrapper; for E stacked experts A is [E * r, in] and B [out, r * E]."""
    return module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight


def plain_name(name: str) -> str | None:
    """The name that a parameter or buffer has without adapters, None for those of an adapter."""
    return None if is_adapter(name) else name.replace(_WRAPPER, "")


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return f".lora_A.{_ADAPTER}." in name or f".lora_B.{_ADAPTER}." in name


def adapter_name_in_peft(name: str) -> str:
    """The name that peft gives an adapter's parameter in adapter_model.safetensors."""
    return f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}"


def plain_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` without those of adapters, under their plain names."""
    return {plain: tensor for name, tensor in tensors.items() if (plain := plain_name(name)) is not None}


def describe_adapters(model: PreTrainedModel) -> str:
    """One line on what is trained."""
    config = model.peft_config[_ADAPTER]
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"LoRA: rank {config.r}, alpha {config.lora_alpha}, {len(adapted_modules(model))} matrices adapted; "
        f"{trained:,} of {total:,} parameters are trained ({trained / total:.2%})"
    )


def wrapped_name(path: str, module: Any) -> str:
    """The plain name of the parameter that a wrapper at `path` adapts."""
    return f"{path}.{getattr(module, 'parameter_name', 'weight')}".replace(_WRAPPER, "")


def merged_tensors(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole tensors of a layer under their plain names, adapters added in fp32; what no adapter touches as it is.

    Args:
        model: adapted or not.
        tensors: by the names they have in `model`; an adapter comes together with the weight it adapts.
    """
    merged = plain_tensors(tensors)
    suffix = f".lora_A.{_ADAPTER}.weight"
    for path in [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]:
        module = model.get_submodule(path)
        weight_A, weight_B = tensors[f"{path}{suffix}"], tensors[f"{path}.lora_B.{_ADAPTER}.weight"]
        target = wrapped_name(path, module)
        merged[target] = merged[target].float() + _delta(module, weight_A.float(), weight_B.float())
    return merged


def _delta(module: Any, weight_A: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    """What an adapter adds to its weight: scale * B A, for each expert where they are stacked."""
    scale: float = module.scaling[_ADAPTER]
    if not hasattr(module, "parameter_name"):
        return scale * (weight_B @ weight_A)
    num_experts: int = module.num_experts
    rank = weight_A.shape[0] // num_experts
    stacked_A = weight_A.reshape(num_experts, rank, -1)  # [E, r, in]
    stacked_B = weight_B.reshape(-1, rank, num_experts)  # [out, r, E]
    # Experts multiply from the right or, GPT-OSS's, from the left: their module says which.
    is_transposed = getattr(module.get_base_layer(), "is_transposed", False)
    return scale * torch.einsum("ore,eri->eio" if is_transposed else "ore,eri->eoi", stacked_B, stacked_A)


def _choose(model: PreTrainedModel, config: LoraConfig) -> tuple[list[str], list[str]]:
    """The linear layers and the stacked experts to adapt, by full name.

    Raises:
        UsageError: a name of `config` fits none.
        ModelError: no layer is linear.
    """
    linear, experts = linear_layers_and_experts(model)
    if not linear and not experts:
        raise ModelError(
            f"{type(model).__name__} has no linear layers in its decoder blocks that LoRA could adapt",
            hint="train all weights: leave out --lora.rank",
        )
    if not config.target_modules:
        return linear, experts
    for name in config.target_modules:
        if not _matching([*linear, *experts], name):
            raise UsageError(
                f"--lora.target-modules {name}: no layer of {type(model).__name__}'s decoder blocks has this name",
                hint=f"these can be adapted: {', '.join(_suffixes([*linear, *experts], 1))}",
            )
    return _matching_any(linear, config.target_modules), _matching_any(experts, config.target_modules)


def _check_wrapped(model: PreTrainedModel, wanted: set[str]) -> None:
    """Raise `ModelError` unless exactly the parameters `wanted` are adapted and nothing else is trained.

    peft takes some names (`gate_proj`, `down_proj`) of a mixture of experts for what was called so in transformers 4.
    """
    found = {wrapped_name(path, module) for path, module in adapted_modules(model).items()}
    if found != wanted:
        mistaken = {name.removesuffix(".weight") for name in found ^ wanted}
        leaves = set(_suffixes(mistaken, 1))
        others = [
            name for name in _suffixes((name.removesuffix(".weight") for name in wanted), 1) if name not in leaves
        ]
        raise ModelError(
            f"peft mistakes layers of {type(model).__name__} for others: {', '.join(_suffixes(mistaken, 2))}",
            hint=f"name the other layers: --lora.target-modules {','.join(others)}",
        )
    assert all(p.requires_grad == is_adapter(name) for name, p in model.named_parameters()), "only adapters train"


def _module_names(model: nn.Module) -> list[str]:
    return [path for path, _ in model.named_modules()]


def _matching(names: Iterable[str], target: str) -> list[str]:
    """Those of `names` that `target` means to peft: the whole name, or its last parts."""
    return [name for name in names if name == target or name.endswith(f".{target}")]


def _matching_any(names: Iterable[str], targets: Iterable[str]) -> list[str]:
    found = {name for target in targets for name in _matching(names, target)}
    return [name for name in names if name in found]


def _suffixes(names: Iterable[str], num_parts: int) -> list[str]:
    """The last parts of `names`, each once."""
    return sorted({".".join(name.split(".")[-num_parts:]) for name in names})
