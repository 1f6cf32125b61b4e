"""This process among the others: rank, device, process group."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from xtuner.errors import EnvironmentFault


@dataclass(frozen=True)
class Ranks:
    """Where this process stands; read from what torchrun sets, one process alone without it."""

    rank: int
    local_rank: int
    world_size: int
    sp_size: int = 1

    @classmethod
    def from_environment(cls, *, sp_size: int = 1) -> "Ranks":
        """The values of `RANK`, `LOCAL_RANK` and `WORLD_SIZE`; `sp_size` neighbouring ranks share each pack."""
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            sp_size=sp_size,
        )

    @property
    def data_rank(self) -> int:
        """Which of the groups with packs of their own this rank is in."""
        return self.rank // self.sp_size

    @property
    def num_data_ranks(self) -> int:
        """Groups of ranks with packs of their own."""
        return self.world_size // self.sp_size

    @property
    def sequence_rank(self) -> int:
        """Which part of its packs this rank takes."""
        return self.rank % self.sp_size

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what only one may write."""
        return self.rank == 0


def join_process_group(ranks: Ranks, sharding_size: int | None = None) -> DeviceMesh:
    """Join the process group and return the mesh of all ranks, see `mesh_of_ranks`.

    NCCL for tensors on CUDA, gloo for those on the CPU (all of them without an accelerator).

    Raises:
        EnvironmentFault: fewer devices than ranks on this machine.
    """
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    if device_type == "cuda":
        if ranks.local_rank >= torch.cuda.device_count():
            raise EnvironmentFault(
                f"rank {ranks.rank} wants device {ranks.local_rank}, this machine has {torch.cuda.device_count()}",
                hint="lower --nproc-per-node to the number of devices",
            )
        torch.cuda.set_device(ranks.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend)
    else:  # started without torchrun: nobody to meet
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return mesh_of_ranks(device_type, ranks.world_size, sharding_size)


def mesh_of_ranks(device_type: str, world_size: int, sharding_size: int | None = None) -> DeviceMesh:
    """A mesh of one dimension, `shard`; with a `sharding_size` of two, `replicate` and `shard`.

    Each group of `sharding_size` neighbouring ranks shares one copy of the model; it divides `world_size`.
    """
    if sharding_size is None:
        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",))
    shape = (world_size // sharding_size, sharding_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def join_sequence_group(device_type: str, ranks: Ranks) -> dist.ProcessGroup | None:
    """The group of the ranks that share this rank's packs; None without sharing. Every rank must call it."""
    if ranks.sp_size == 1:
        return None
    shape = (ranks.num_data_ranks, ranks.sp_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("data", "sequence")).get_group("sequence")


def leave_process_group() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return when every rank has come here."""
    dist.barrier()


def broadcast_string(text: str) -> str:
    """`text` as rank 0 gave it."""
    box = [text]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def require_same_everywhere(text: str, what: str) -> None:
    """Raise `EnvironmentFault` on every rank unless all gave the same `text`."""
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    others = [rank for rank, other in enumerate(texts) if other != texts[0]]
    if others:
        raise EnvironmentFault(
            f"{what} differs between the ranks: {texts[0][:12]} on rank 0, {texts[others[0]][:12]} on rank {others[0]}",
            hint="give every machine the same files",
        )
