"""The adapters of a LoRA run as a directory that `peft.PeftModel.from_pretrained(base, directory)` loads."""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from xtuner.v1.model.export import begin_directory, commit_directory, discard_directory, share_file
from xtuner.v1.model.export_check import check_weights
from xtuner.v1.model.lora import adapter_name_in_peft, is_adapter
from xtuner.v1.model.shard import whole


def export_adapter(model: PreTrainedModel, directory: Path, *, is_writer: bool) -> None:
    """Write the adapters of `model` in fp32, and how to put them on; every rank must call it.

    Args:
        model: the sharded model, with adapters.
        directory: the final name; it must not exist.
        is_writer: true on exactly one rank.

    Raises: as `export_model`.
    """
    tensors = _gather(model, keep=is_writer)
    if not is_writer:
        return
    try:
        temporary = begin_directory(directory)
        weights = temporary / "adapter_model.safetensors"
        save_file(tensors, weights, metadata={"format": "pt"})
        share_file(weights)
        check_weights(temporary, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
        _write_config(model, temporary)
        commit_directory(temporary, directory)
    except Exception:
        discard_directory(directory)
        raise


def _gather(model: PreTrainedModel, *, keep: bool) -> dict[str, torch.Tensor]:
    """The whole adapters on the CPU, by the names peft gives them in files; empty where `keep` is false."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            # Gathering is collective: every rank takes part, only the writer keeps the result.
            full = whole(parameter).detach()
            if keep:
                tensors[adapter_name_in_peft(name)] = full.float().cpu().contiguous()
    return tensors


def _write_config(model: PreTrainedModel, directory: Path) -> None:
    (config,) = model.peft_config.values()
    config = copy.copy(config)
    config.inference_mode = True
    for field in ("target_modules", "target_parameters", "exclude_modules"):
        if isinstance(getattr(config, field), set):  # in a file, sets would stand in an order of chance
            setattr(config, field, sorted(getattr(config, field)))
    config.save_pretrained(str(directory))
