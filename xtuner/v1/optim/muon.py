"""Muon over sharded matrices: torch's own orthogonalisation, each matrix whole on one rank at a time.

`torch.optim.Muon` takes DTensors, but lets them be redistributed at every product of its Newton-Schulz iteration,
adds up partial products in bfloat16, and fails where a rank holds no rows. Here as many matrices as there are ranks
travel at once: each rank gets all rows of one, orthogonalises it, and sends the rows back where they belong. So the
work of a step is divided among the ranks, and a rank holds no more than a few whole matrices.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


class ShardedMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) with Nesterov momentum and weight decay.

    A step is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`: the update of a matrix [rows, columns]
    is scaled by 0.2 * sqrt(max(rows, columns)), which gives it the root mean square that AdamW's updates usually
    have, so that learning rates and weight decays found for AdamW fit (Moonlight, Liu et al. 2025, arXiv:2502.16982,
    section 2.2). State: one momentum per parameter, in its dtype.

    Args:
        params: matrices [rows, columns] or stacks of experts [experts, rows, columns], each expert a matrix of its
            own; plain or sharded by rows (stacks by experts) over one dimension of their mesh. All ranks of a mesh
            must step together, with gradients on the same parameters.
        lr: learning rate.
        momentum: decay of the running mean of gradients.
        weight_decay: decoupled, as AdamW's.

    Raises:
        ValueError: a parameter of another shape, or cut in another way.
    """

    def __init__(
        self, params: Iterable[torch.Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.dim() not in (2, 3):
                raise ValueError(f"Muon takes matrices and stacks of them, not a parameter of {parameter.dim()} dims")
            if isinstance(parameter, DTensor):
                _shard_axis(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; collective where they are sharded."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _rounds([p for p in group["params"] if p.grad is not None]):
                velocities = [self._velocity(parameter, group["momentum"]) for parameter in parameters]
                for parameter, direction in zip(parameters, _directions(parameters, velocities), strict=True):
                    local = _local(parameter)
                    rate = group["lr"] * 0.2 * math.sqrt(max(parameter.shape[-2:]))
                    local.mul_(1 - group["lr"] * group["weight_decay"])
                    local.add_(direction.to(local.device), alpha=-rate)
        return loss

    def _velocity(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """This rank's rows of the gradient after momentum, where and in the dtype in which they are orthogonalised."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, mean = _local(parameter.grad), _local(state["momentum_buffer"])
        mean.lerp_(gradient, 1 - momentum)
        # Parameters that are offloaded to the CPU travel and are multiplied on the device all the same.
        device = parameter.device_mesh.device_type if isinstance(parameter, DTensor) else parameter.device
        return gradient.lerp(mean, momentum).to(device, torch.bfloat16)


def _rounds(parameters: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """What is orthogonalised at a time: a parameter whose matrices are whole here, or one cut matrix for each rank."""
    cut: list[DTensor] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor) and parameter.dim() == 2 and _num_shards(parameter) > 1:
            cut.append(parameter)
        else:
            yield [parameter]
    # Neighbours cost the same, so that the ranks of a round need the same time. Every rank sorts alike.
    cut.sort(key=lambda parameter: (parameter.numel(), min(parameter.shape)))
    while cut:
        size = _num_shards(cut[0])
        yield list(cut[:size])
        del cut[:size]


def _directions(parameters: list[torch.Tensor], velocities: list[torch.Tensor]) -> list[torch.Tensor]:
    """This rank's rows of the orthogonalised velocities of a round."""
    [first, *others] = parameters
    if isinstance(first, DTensor) and first.dim() == 2 and _num_shards(first) > 1:
        return _exchanged(parameters, velocities)  # type: ignore[arg-type]
    assert not others
    [velocity] = velocities
    if velocity.dim() == 2:
        return orthogonalized([velocity])
    experts = orthogonalized(list(velocity))
    return [torch.stack(experts) if experts else velocity]


def _exchanged(parameters: list[DTensor], velocities: list[torch.Tensor]) -> list[torch.Tensor]:
    """`_directions` of one cut matrix a rank at most: rank j gets all rows of matrix j and returns them treated."""
    axis = _shard_axis(parameters[0])
    group, num_ranks = parameters[0].device_mesh.get_group(axis), _num_shards(parameters[0])
    rank = dist.get_rank(group)
    given = [velocity.numel() for velocity in velocities] + [0] * (num_ranks - len(velocities))
    taken = [0] * num_ranks
    if rank < len(parameters):
        num_rows, num_columns = parameters[rank].shape
        taken = [rows * num_columns for rows in _rows_of_ranks(num_rows, num_ranks)]
    matrix = velocities[0].new_empty(sum(taken))
    dist.all_to_all_single(matrix, torch.cat([v.flatten() for v in velocities]), taken, given, group)
    if rank < len(parameters):
        [direction] = orthogonalized([matrix.view(parameters[rank].shape)])
        matrix = direction.flatten()
    rows = matrix.new_empty(sum(given))
    dist.all_to_all_single(rows, matrix.contiguous(), given, taken, group)
    return [part.view_as(velocity) for part, velocity in zip(rows.split(given), velocities, strict=False)]


def orthogonalized(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each matrix with its singular values moved to about 1, by torch's Newton-Schulz iteration in bfloat16.

    `torch.optim.Muon` offers that as a step only: without momentum, from zero, at rate 1 the step is the negative of
    it. Matrices lie down for it, because torch would scale the steps of tall ones.
    """
    if not matrices:
        return []
    flat = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    steps = [torch.nn.Parameter(torch.zeros_like(matrix)) for matrix in flat]
    for step, matrix in zip(steps, flat, strict=True):
        step.grad = -matrix
    torch.optim.Muon(steps, lr=1.0, weight_decay=0.0, momentum=0.0).step()
    return [
        step.detach().T if matrix.shape[0] > matrix.shape[1] else step.detach()
        for step, matrix in zip(steps, matrices, strict=True)
    ]


def _shard_axis(parameter: DTensor) -> int:
    """The mesh dimension along which the rows of `parameter` are cut; with copies (HSDP) there are others.

    Raises:
        ValueError: it is not cut by rows, along one dimension.
    """
    axes = [axis for axis, placement in enumerate(parameter.placements) if not placement.is_replicate()]
    if len(axes) != 1 or not parameter.placements[axes[0]].is_shard(0):
        raise ValueError(f"Muon takes parameters sharded by rows, not {parameter.placements}")
    return axes[0]


def _num_shards(parameter: DTensor) -> int:
    return parameter.device_mesh.size(_shard_axis(parameter))


def _rows_of_ranks(num_rows: int, num_ranks: int) -> list[int]:
    """Rows that each rank holds: FSDP2 cuts as `torch.chunk` does, the last parts shorter or empty."""
    chunk = -(-num_rows // num_ranks)
    return [max(0, min(chunk, num_rows - rank * chunk)) for rank in range(num_ranks)]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
