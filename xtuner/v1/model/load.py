"""Weights from safetensors straight into shards: no rank ever holds the whole model.

Most tensors are read row by row: a rank copies the rows it owns. Some architectures store other tensors than they
compute with (a mixture of experts: one matrix an expert on disk, all experts stacked in memory). Those go through
transformers' own conversion, one layer at a time.
"""

import re
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from xtuner.errors import ModelError
from xtuner.hub.weights import weight_map
from xtuner.v1.model.build import build_meta_model
from xtuner.v1.model.lora import plain_tensors
from xtuner.v1.model.shard import copy_rows


def load_weights(model: PreTrainedModel, model_dir: Path) -> None:
    """Fill the shards of `model` from the safetensors files of `model_dir`, cast to the parameters' dtype.

    Afterwards `model` knows which conversions were used, so that an export can revert them.

    Raises:
        ModelError: a tensor is missing or has another shape than the architecture wants.
    """
    files = weight_map(model_dir)
    targets = plain_tensors(model.state_dict(keep_vars=True))
    direct, converted = _sort_keys(model, list(files), targets)
    loaded: set[str] = set()
    for path, keys in _by_file(direct, files).items():
        with safe_open(path, framework="pt") as file:
            for key in keys:
                copy_rows(targets[key], file.get_slice(key), key)
                loaded.add(key)
    loaded |= _load_converted(model, converted, files, targets)
    _check_complete(model, targets, loaded, model_dir)


def _sort_keys(
    model: PreTrainedModel, keys: list[str], targets: dict[str, torch.Tensor]
) -> tuple[list[str], dict[str, list[str]]]:
    """Keys that are parameters as they stand, and the others by layer."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    direct: list[str] = []
    converted: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        renamed, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, targets)
        if renamed == key and pattern is None and key in targets:
            direct.append(key)
        else:
            layer = re.match(r".*?\.\d+\.", key)
            converted[layer.group() if layer else ""].append(key)
    return direct, converted


def _by_file(keys: list[str], files: dict[str, Path]) -> dict[Path, list[str]]:
    grouped: dict[Path, list[str]] = defaultdict(list)
    for key in keys:
        grouped[files[key]].append(key)
    return grouped


def _load_converted(
    model: PreTrainedModel,
    groups: dict[str, list[str]],
    files: dict[str, Path],
    targets: dict[str, torch.Tensor],
) -> set[str]:
    """Convert group by group in an unsharded shadow of the model, whose other layers stay on the meta device."""
    model._weight_conversions = []
    if not groups:
        return set()
    transformers_logging.disable_progress_bar()
    shadow = build_meta_model(model.config)
    mapping = get_model_conversion_mapping(shadow)
    used: set[int] = set()
    loaded: set[str] = set()
    for keys in groups.values():
        tensors = {}
        for path, keys_here in _by_file(keys, files).items():
            with safe_open(path, framework="pt") as file:
                tensors.update({key: file.get_tensor(key) for key in keys_here})
        settings = LoadStateDictConfig(dtype=torch.float32, weight_mapping=mapping)
        convert_and_load_state_dict_in_model(shadow, tensors, settings)
        used |= {id(conversion) for conversion in shadow._weight_conversions or ()}
        for name, tensor in list(shadow.state_dict(keep_vars=True).items()):
            if tensor.is_meta:
                continue
            copy_rows(targets[name], tensor.detach(), name)
            loaded.add(name)
            _return_to_meta(shadow, name)
    model._weight_conversions = [conversion for conversion in mapping if id(conversion) in used]
    return loaded


def _return_to_meta(model: PreTrainedModel, name: str) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    store = module._parameters if leaf in module._parameters else module._buffers
    store[leaf] = store[leaf].to("meta")


def _check_complete(
    model: PreTrainedModel, targets: dict[str, torch.Tensor], loaded: set[str], model_dir: Path
) -> None:
    filled = {id(targets[name]) for name in loaded}  # a tied parameter stands under two names
    missing = [name for name, tensor in targets.items() if id(tensor) not in filled]
    if missing:
        raise ModelError(
            f"{model_dir} lacks {len(missing)} of the {len(targets)} tensors of {type(model).__name__}: "
            + ", ".join(missing[:5]),
            hint="the download is incomplete, or config.json belongs to another model",
        )
