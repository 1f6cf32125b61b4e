"""Values that are not on disk: buffers, and all weights when training starts from `--model-cfg`."""

import hashlib

import torch
from transformers import PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.model.shard import copy_rows, whole_shape


@torch.no_grad()
def initialize_buffers(model: PreTrainedModel) -> None:
    """Fill the non-persistent buffers (rotary frequencies) by the model's own initialisation.

    Raises:
        ModelError: the architecture computes a buffer nowhere but in its constructor.
    """
    on_disk = set(model.state_dict())
    modules = [
        (path, module)
        for path, module in model.named_modules()
        if any(f"{path}.{name}".lstrip(".") not in on_disk for name, _ in module.named_buffers(recurse=False))
    ]
    for path, module in modules:
        for buffer in module.buffers(recurse=False):
            if buffer.is_floating_point():
                buffer.fill_(float("nan"))
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = True  # keeps what was loaded
        model._init_weights(module)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and buffer.isnan().any():
                raise ModelError(
                    f"{type(model).__name__} does not say how to compute its buffer {path}.{name}",
                    hint="this architecture is not supported yet",
                )


@torch.no_grad()
def initialize_weights(model: PreTrainedModel, seed: int) -> None:
    """Fill all parameters of a sharded model by the model's own initialisation, the same at every world size.

    Each module is initialised whole on the CPU from a seed of its own, and every rank keeps its rows: at most one
    module's weights exist unsharded at a time.
    """
    done: set[int] = set()
    for path, module in model.named_modules():
        sharded = {name: p for name, p in module.named_parameters(recurse=False) if id(p) not in done}
        if not sharded:
            continue
        done |= {id(parameter) for parameter in sharded.values()}
        torch.manual_seed(seed_of(seed, path))
        for name, parameter in sharded.items():
            module._parameters[name] = torch.nn.Parameter(torch.zeros(whole_shape(parameter), dtype=parameter.dtype))
        model._init_weights(module)
        for name, parameter in sharded.items():
            full = module._parameters[name]
            assert full is not None
            module._parameters[name] = parameter
            copy_rows(parameter, full.detach(), f"{path}.{name}")
    torch.manual_seed(seed)


def seed_of(seed: int, path: str) -> int:
    """The seed of the module at `path`, for `torch.manual_seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{path}".encode()).digest()[:8], "little") >> 1
