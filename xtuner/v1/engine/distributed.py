"""This process among the others: rank, device, process group."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from xtuner.errors import EnvironmentFault, XTunerError
from xtuner.v1.datasets.batches import DataShare

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """Where this process stands; read from what torchrun sets, one process alone without it."""

    rank: int
    local_rank: int
    world_size: int
    sp_size: int = 1
    tp_size: int = 1
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, *, sp_size: int = 1, tp_size: int = 1) -> "Ranks":
        """The values of `RANK`, `LOCAL_RANK`, `WORLD_SIZE` and `LOCAL_WORLD_SIZE`.

        `tp_size` neighbouring ranks share each block (tensor parallel), `sp_size` neighbouring groups of those share
        each pack (sequence parallel).
        """
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            sp_size=sp_size,
            tp_size=tp_size,
            local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )

    @property
    def data_share(self) -> DataShare:
        """What this rank runs of the packs of a step."""
        token_rank = self.rank // self.tp_size
        num_groups = self.world_size // (self.tp_size * self.sp_size)
        return DataShare(token_rank // self.sp_size, num_groups, token_rank % self.sp_size, self.sp_size)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what only one may write."""
        return self.rank == 0


def join_process_group(ranks: Ranks, sharding_size: int | None = None) -> DeviceMesh:
    """Join the process group and return the mesh that FSDP shards over, see `mesh_of_ranks`.

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
    return mesh_of_ranks(device_type, ranks.world_size, sharding_size, ranks.tp_size)


def mesh_of_ranks(device_type: str, world_size: int, sharding_size: int | None = None, tp_size: int = 1) -> DeviceMesh:
    """A mesh of one dimension, `shard`; with a `sharding_size` of two, `replicate` and `shard`.

    Each group of `sharding_size` neighbouring ranks shares one copy of the model; it divides `world_size`. With a
    `tp_size`, which divides both, the mesh holds every `tp_size`th rank: those with the same cuts of the model.
    """
    sizes = {"shard": (sharding_size or world_size) // tp_size}
    if sharding_size is not None:
        sizes = {"replicate": world_size // sharding_size, **sizes}
    names = tuple(sizes)
    if tp_size == 1:
        return init_device_mesh(device_type, tuple(sizes.values()), mesh_dim_names=names)
    return init_device_mesh(device_type, (*sizes.values(), tp_size), mesh_dim_names=(*names, "tensor"))[names]


def join_sequence_group(device_type: str, ranks: Ranks) -> dist.ProcessGroup | None:
    """The group of the ranks that share this rank's packs; None without sharing. Every rank must call it."""
    return _group_of("sequence", device_type, ranks) if ranks.sp_size > 1 else None


def join_tensor_group(device_type: str, ranks: Ranks) -> dist.ProcessGroup | None:
    """The group of the ranks that share this rank's blocks; None without sharing. Every rank must call it."""
    return _group_of("tensor", device_type, ranks) if ranks.tp_size > 1 else None


def _group_of(name: str, device_type: str, ranks: Ranks) -> dist.ProcessGroup:
    shape = (ranks.data_share.num_shares, ranks.sp_size, ranks.tp_size)
    return init_device_mesh(device_type, shape, mesh_dim_names=("data", "sequence", "tensor")).get_group(name)


def leave_process_group() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return when every rank has come here."""
    dist.barrier()


def from_first(work: Callable[[], Value]) -> Value:
    """What `work` gives on rank 0, where alone it is called; collective.

    Raises:
        XTunerError: on every rank, if `work` raised it.
    """
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except XTunerError as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    value, refusal = outcome
    if refusal:
        raise refusal
    return cast(Value, value)


def gather_strings(text: str) -> list[str]:
    """The `text` of every rank."""
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return texts


def require_same_everywhere(text: str, what: str) -> None:
    """Raise `EnvironmentFault` on every rank unless all gave the same `text`."""
    texts = gather_strings(text)
    others = [rank for rank, other in enumerate(texts) if other != texts[0]]
    if others:
        raise EnvironmentFault(
            f"{what} differs between the ranks: {texts[0][:12]} on rank 0, {texts[others[0]][:12]} on rank {others[0]}",
            hint="give every machine the same files",
        )
