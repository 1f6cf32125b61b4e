"""RMSNorm (Zhang and Sennrich 2019) in one kernel; written in PyTorch's operations it takes eight, its gradient more.

On a GPU most of a small model's step goes by with starting kernels. Families of models write the norm differently:
Llama rounds before it multiplies by the weight, GPT-OSS after it, as the kernel does; Gemma multiplies by one more than
the weight. So each module is asked, with random numbers, whether it computes what the kernel computes.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

_EPS_NAMES = ("variance_epsilon", "eps")
_TOLERANCE = 1e-5  # fp32 sums in another order


def fuse_norms(model: nn.Module, device_type: str) -> int:
    """Let each plain RMSNorm of `model` run as one kernel where the device has it; how many do.

    Before sharding, so that FSDP's hooks stay outside. Nothing changes on a CPU, which has no such kernel. What runs in
    a dtype of its own, other than the weight's, runs as it did.
    """
    if device_type != "cuda":
        return 0
    verdicts: dict[tuple[type, int, float], bool] = {}
    num_fused = 0
    for module in model.modules():
        eps = _eps_of(module)
        if eps is None:
            continue
        key = (type(module), module.get_parameter("weight").numel(), eps)
        if key not in verdicts:
            verdicts[key] = _is_plain(module, eps)
        if verdicts[key]:
            module.forward = partial(_fused, module, module.forward, eps)
            num_fused += 1
    return num_fused


def _eps_of(module: nn.Module) -> float | None:
    """The epsilon of what looks like a norm with a weight a dimension and nothing else; None of anything else."""
    parameters = dict(module.named_parameters())
    if "RMSNorm" not in type(module).__name__ or list(parameters) != ["weight"] or parameters["weight"].dim() != 1:
        return None
    found = (getattr(module, name, None) for name in _EPS_NAMES)
    return next((eps for eps in found if isinstance(eps, float)), None)


@torch.no_grad()
def _is_plain(module: nn.Module, eps: float) -> bool:
    """Whether `module` normalises by the mean square over the last dimension and multiplies by its weight."""
    probe = copy.deepcopy(module).to_empty(device="cpu")
    weight = probe.get_parameter("weight")
    generator = torch.Generator().manual_seed(0)
    weight.copy_(torch.randn(weight.shape, generator=generator))
    inputs = torch.randn(4, *weight.shape, generator=generator)
    try:
        out = probe(inputs)
    except (TypeError, ValueError, RuntimeError):  # it takes more than one tensor, or a special one
        return False
    expected = F.rms_norm(inputs, weight.shape, weight, eps)
    return isinstance(out, torch.Tensor) and torch.allclose(out, expected, rtol=_TOLERANCE, atol=_TOLERANCE)


def _fused(
    module: nn.Module, original: Callable[[torch.Tensor], torch.Tensor], eps: float, hidden: torch.Tensor
) -> torch.Tensor:
    weight = module.get_parameter("weight")  # FSDP's of the moment
    if hidden.dtype != weight.dtype:
        return original(hidden)
    return F.rms_norm(hidden, weight.shape, weight, eps)
