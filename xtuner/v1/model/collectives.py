"""Exchanges inside a forward pass, with the gradients they need; all tensors are the ranks' own, none is a DTensor.

Each has a twin that undoes it in the backward pass (Megatron-LM, Shoeybi et al. 2019, section 3, calls the first two
f and g). "Alike" is a tensor that all ranks of the group hold the same of.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def copy_to_group(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """`tensor`, alike, for computing another part of the result on each rank; its gradients are summed."""
    return _Copy.apply(tensor, group)


def reduce_from_group(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The sum of the ranks' tensors, alike; the gradient of the sum is that of each."""
    return _Reduce.apply(tensor, group)


def gather_parts(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The ranks' tensors side by side in the last dimension, alike; each gets its part of the gradient."""
    return _Gather.apply(tensor, group)


def split_to_group(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """This rank's part of the last dimension of `tensor`, alike; the gradients are gathered."""
    return _Split.apply(tensor, group)


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _sum(grad, ctx.group), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        return _sum(tensor, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _gather(tensor, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _own_part(grad, ctx.group), None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _own_part(tensor, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _gather(grad, ctx.group), None


def _sum(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _gather(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts, dim=-1)


def _own_part(tensor: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return tensor.chunk(group.size(), dim=-1)[group.rank()].contiguous()
