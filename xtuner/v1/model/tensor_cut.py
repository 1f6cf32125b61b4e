"""How the ranks of a tensor-parallel group share one parameter: each holds a cut of it, and FSDP shards the cuts.

To FSDP and the optimizer a cut is a parameter like any other. Whoever reads or writes whole tensors asks here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class TensorCut:
    """Which part of a whole parameter this rank holds.

    Attributes:
        group: the ranks that share the parameter.
        dim: along which it is cut into as many equal parts as there are ranks.
        num_packed: matrices that lie one behind the other along `dim`, each of which is cut (2: gate and up in one).
    """

    group: dist.ProcessGroup
    dim: int
    num_packed: int = 1

    def whole_shape(self, shape: torch.Size) -> torch.Size:
        """The shape of the parameter of which a cut has `shape`."""
        return torch.Size(size * self.group.size() if dim == self.dim else size for dim, size in enumerate(shape))

    def of_whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's cut of a whole tensor."""
        packed = tensor.unflatten(self.dim, (self.num_packed, -1))
        return packed.chunk(self.group.size(), dim=self.dim + 1)[self.group.rank()].flatten(self.dim, self.dim + 1)

    def rows_in_whole(self, rows: slice, num_rows: int) -> Iterator[slice]:
        """Where the `rows` of a cut of `num_rows` lie in the whole, for a cut along dimension 0."""
        per_matrix = num_rows // self.num_packed
        for number in range(self.num_packed):
            begin, end = max(rows.start, number * per_matrix), min(rows.stop, (number + 1) * per_matrix)
            offset = (number * self.group.size() + self.group.rank() - number) * per_matrix
            if begin < end:
                yield slice(begin + offset, end + offset)

    def join(self, cut: torch.Tensor) -> torch.Tensor:
        """The whole tensor; collective over the group."""
        cuts = [torch.empty_like(cut) for _ in range(self.group.size())]
        dist.all_gather(cuts, cut.contiguous(), group=self.group)
        packed = [part.unflatten(self.dim, (self.num_packed, -1)) for part in cuts]
        return torch.cat(packed, dim=self.dim + 1).flatten(self.dim, self.dim + 1)


def mark_cut(parameter: torch.Tensor, cut: TensorCut) -> None:
    """Note that `parameter` is a cut; names change with adapters and wrappers, the parameter stays."""
    parameter._tensor_cut = cut  # type: ignore[attr-defined]


def cut_of(parameter: torch.Tensor) -> TensorCut | None:
    """The cut that `parameter` is of a whole one; None if it is whole."""
    return getattr(parameter, "_tensor_cut", None)
