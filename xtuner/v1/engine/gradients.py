"""The global norm of gradients that lie in parts on the ranks, and clipping to it."""

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from xtuner.v1.model.shard import local_part
from xtuner.v1.model.tensor_cut import cut_of


def clip_gradients(model: PreTrainedModel, max_norm: float, device: torch.device) -> float:
    """Scale all gradients down to the global L2 norm `max_norm` and return the norm they had; collective.

    Each number counts once: the square of a part counts 1 / n times on each of the n ranks that hold it.

    Args:
        model: after its backward pass.
        max_norm: gradients with a smaller norm stay as they are.
        device: where the ranks add up.
    """
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    by_holders: dict[int, list[torch.Tensor]] = {}
    for parameter in trained:
        assert parameter.grad is not None
        by_holders.setdefault(_num_holders(parameter), []).append(local_part(parameter.grad))
    square = torch.zeros((), dtype=torch.float64, device=device)
    for num_holders, gradients in by_holders.items():
        norm = torch.nn.utils.get_total_norm(gradients).to(device, torch.float64)
        square += norm**2 / num_holders
    dist.all_reduce(square)
    norm = square.sqrt()
    torch.nn.utils.clip_grads_with_norm_(trained, max_norm, norm.float())
    return float(norm.item())


def _num_holders(parameter: torch.Tensor) -> int:
    """How many ranks hold the same part of `parameter` as this one."""
    num_parts, cut = 1, cut_of(parameter)
    if isinstance(parameter, DTensor):
        sizes, placements = parameter.device_mesh.shape, parameter.placements
        num_parts = next(size for size, placement in zip(sizes, placements, strict=True) if placement.is_shard())
    return dist.get_world_size() // (num_parts * (cut.group.size() if cut else 1))
