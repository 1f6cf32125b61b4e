"""FSDP2: one shard group a decoder block, one for the rest (embeddings, final norm, head) at the root."""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.config import FSDPConfig
from xtuner.v1.model.block_forward import arrange_forwards
from xtuner.v1.model.build import decoder_blocks
from xtuner.v1.model.fused_norm import fuse_norms
from xtuner.v1.model.tensor_cut import cut_of, mark_cut
from xtuner.v1.model.tensor_parallel import cut_model


def shard_model(
    model: PreTrainedModel, mesh: DeviceMesh, config: FSDPConfig, tensor_group: dist.ProcessGroup | None = None
) -> None:
    """Shard a meta model over `mesh` in place and give its shards memory; their values are still undefined.

    Parameters stay fp32 and gradients are reduced in fp32. Tied embeddings stay one parameter of the root group,
    which keeps head and embedding in the same all-gather. Over a mesh of two dimensions the first holds copies and
    the second shards (HSDP). With a `tensor_group` its ranks share the matrices of the blocks (tensor parallel), and
    `mesh` is that of the ranks with the same cuts.
    """
    cuts = cut_model(model, tensor_group) if tensor_group else {}
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype(config, mesh.device_type), reduce_dtype=torch.float32)
    is_accelerated = mesh.device_type != "cpu"
    # Pinning needs an accelerator; without one, offloading is a no-op that must still run.
    offload = CPUOffloadPolicy(pin_memory=is_accelerated) if config.cpu_offload else OffloadPolicy()
    blocks = decoder_blocks(model)
    fuse_norms(model, mesh.device_type)
    arrange_forwards(blocks, config, mesh.device_type)
    reshard = config.reshard_after_forward
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=offload, reshard_after_forward=reshard)
    # The root keeps FSDP's own choice: its weights are the first that the backward pass needs.
    fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offload)
    _prefetch(blocks, config.prefetch)
    model.to_empty(device="cpu" if config.cpu_offload else mesh.device_type)
    if config.cpu_offload and is_accelerated:
        # Only parameters are offloaded: FSDP moves those itself, buffers (rotary frequencies) it does not.
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty_like(buffer, device=mesh.device_type)
    for name, cut in cuts.items():  # FSDP has made parameters of its own by now
        mark_cut(model.get_parameter(name), cut)


def _prefetch(blocks: list[torch.nn.Module], num_ahead: int) -> None:
    """Let each block ask for the weights of the `num_ahead` that run after it, in both directions."""
    for run_order, set_prefetch in (
        (blocks, FSDPModule.set_modules_to_forward_prefetch),
        (blocks[::-1], FSDPModule.set_modules_to_backward_prefetch),
    ):
        for index, block in enumerate(run_order):
            set_prefetch(block, run_order[index + 1 : index + 1 + num_ahead])  # type: ignore[arg-type]


def compute_dtype(config: FSDPConfig, device_type: str) -> torch.dtype:
    """The dtype of forward and backward that `config` asks for on a kind of device."""
    if config.compute_dtype == "auto":
        return torch.float32 if device_type == "cpu" else torch.bfloat16
    return torch.float32 if config.compute_dtype == "float32" else torch.bfloat16


def local_rows(tensor: torch.Tensor) -> slice:
    """The rows of dimension 0 that this rank holds of an FSDP2-sharded tensor (all of a plain one).

    FSDP2 cuts as `torch.chunk` does: equal chunks of ceil(rows / ranks), the last ones shorter or empty.
    """
    if not isinstance(tensor, DTensor):
        return slice(0, tensor.shape[0])
    # With copies (HSDP) the mesh has a second dimension, along which nothing is cut.
    [dim] = [dim for dim, placement in enumerate(tensor.placements) if placement.is_shard()]
    rank, num_ranks = tensor.device_mesh.get_local_rank(dim), tensor.device_mesh.size(dim)
    chunk = -(-tensor.shape[0] // num_ranks)
    begin = min(rank * chunk, tensor.shape[0])
    return slice(begin, min(begin + chunk, tensor.shape[0]))


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The storage this rank holds of `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of `tensor`, on its device; of a sharded or cut one this is collective, so every rank must ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    cut = cut_of(tensor)
    return cut.join(full) if cut else full


def whole_shape(tensor: torch.Tensor) -> torch.Size:
    """The shape of `whole(tensor)`."""
    cut = cut_of(tensor)
    return cut.whole_shape(tensor.shape) if cut else tensor.shape


@torch.no_grad()
def copy_rows(target: torch.Tensor, source: object, name: str) -> None:
    """Copy this rank's part of `source` (a whole tensor or a safetensors slice) into its part of `target`.

    Raises:
        ModelError: the shapes differ.
    """
    shape = source.get_shape() if hasattr(source, "get_shape") else source.shape  # type: ignore[attr-defined]
    if tuple(shape) != tuple(whole_shape(target)):
        raise ModelError(
            f"{name} is {list(shape)} on disk, the architecture wants {list(whole_shape(target))}",
            hint="config.json and the weights belong to different models",
        )
    part = local_part(target)
    if target.dim() == 0:
        part.copy_(source[...])  # type: ignore[index]
    elif part.numel():
        part.copy_(_read_rows(source, target))


def _read_rows(source: Any, target: torch.Tensor) -> torch.Tensor:
    """What of the whole `source` this rank holds of `target`."""
    rows, cut = local_rows(target), cut_of(target)
    if cut is None:
        return source[rows]
    if cut.dim:
        return cut.of_whole(source[rows])
    return torch.cat([source[there] for there in cut.rows_in_whole(rows, target.shape[0])])
