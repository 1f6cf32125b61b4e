"""How much memory and disk a run will need, from the sizes of its model and its options; without torch.

Sharding: FSDP2 divides parameters, gradients and optimizer state by the ranks that share one copy of the model;
with tensor parallel those divide the blocks once more by themselves, which comes to the same share of a block and to
a `tp_size` times larger one of embedding and head. Activations are those of one pack, of the part of it that a rank
has with sequence parallel. Shapes and bytes are those of `xtuner.v1.config.memory`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from xtuner.launch.devices import Hardware
from xtuner.launch.model_sizes import ModelSizes
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.memory import (
    GIB,
    MASTER_BYTES,
    STATE_BYTES,
    compute_bytes,
    logits_bytes,
    recompute_ratio,
)

COMPONENTS = ("parameters", "gradients", "optimizer", "activations", "logits", "workspace")
# What a rank takes before it has a model: the CUDA context with the library's kernels; the interpreter with torch.
_BASE_GIB = {"cuda": 0.8, "cpu": 0.45}
_USABLE = {"cuda": 0.94, "cpu": 0.9}  # of the memory: allocators cannot use every last hole, and others live here too


@dataclass(frozen=True)
class Memory:
    """GiB of one device by component; `workspace` is what comes on top: gathered weights, gradients on their way.

    Where there is no accelerator a device is a process.
    """

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    workspace: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(float(getattr(self, name)) for name in COMPONENTS)


@dataclass(frozen=True)
class Disk:
    """GiB on disk: of one export and of one checkpoint, of all that a run may hold at a time, and what is free."""

    export: float
    checkpoint: float
    needed: float
    free: float

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed <= self.free


@dataclass(frozen=True)
class Estimate:
    """What a run needs on this machine.

    Attributes:
        memory: of each device.
        usable: GiB of each device that can be used.
        host: GiB of host memory that all ranks here take together; on a CPU that is all there is.
        usable_host: GiB of host memory that can be used.
        disk: on the disk of the work dir.
        num_trained: trained parameters.
    """

    memory: Memory
    usable: float
    host: float
    usable_host: float
    disk: Disk
    num_trained: int

    @property
    def fits(self) -> bool:
        """Whether devices and host have the memory."""
        return self.memory.total <= self.usable and self.host <= self.usable_host


def estimate(config: TrainerConfig, sizes: ModelSizes, hardware: Hardware, *, nproc: int, nnodes: int = 1) -> Estimate:
    """What `config` needs on each of `nproc` devices of this machine, one of `nnodes`."""
    world_size = nproc * nnodes
    memory, offloaded = _memory(config, sizes, hardware.kind, world_size)
    usable_host = hardware.host_gib * _USABLE["cpu"]
    is_cpu = hardware.kind == "cpu"
    host = nproc * (memory.total if is_cpu else offloaded + _BASE_GIB["cpu"])
    return Estimate(
        memory=memory,
        usable=usable_host / nproc if is_cpu else hardware.memory_gib * _USABLE["cuda"],
        host=host,
        usable_host=usable_host,
        disk=_disk(config, sizes),
        num_trained=_num_trained(config, sizes),
    )


def _num_trained(config: TrainerConfig, sizes: ModelSizes) -> int:
    return config.lora.rank * sizes.adapter_dims if config.lora.rank else sizes.num_parameters


def _memory(config: TrainerConfig, sizes: ModelSizes, kind: str, world_size: int) -> tuple[Memory, float]:
    """Memory of a device, and what of its share lies in host memory."""
    parameters, gradients, optimizer = _states(config, sizes, kind, world_size)
    is_offloaded = config.fsdp_config.cpu_offload and kind != "cpu"
    offloaded = parameters + gradients + optimizer if is_offloaded else 0.0
    num_tokens = config.pack_max_length // config.sp_size
    activations, one_block = _activations(config, sizes, kind, num_tokens)
    logits = logits_bytes(num_tokens, config.loss_chunk_size, sizes.vocab_size) / GIB
    is_added_up = config.sequences_per_step(world_size) > world_size // (config.sp_size * config.tp_size)
    late = 0.0 if is_offloaded or is_added_up else gradients  # what is not there yet at the loss
    on_top = _workspace(config, sizes, kind, one_block=one_block, logits=logits, gradients=late)
    return (
        Memory(
            parameters=0.0 if is_offloaded else parameters,
            gradients=0.0 if is_offloaded else gradients,
            optimizer=0.0 if is_offloaded else optimizer,
            activations=activations,
            logits=logits,
            workspace=on_top + _BASE_GIB[kind],
        ),
        offloaded,
    )


def _states(config: TrainerConfig, sizes: ModelSizes, kind: str, world_size: int) -> tuple[float, float, float]:
    """A rank's share of parameters, gradients and optimizer state, in GiB."""
    num_sharing = config.fsdp_config.hsdp_sharding_size or world_size
    of_blocks, of_others = 1 / num_sharing, config.tp_size / num_sharing
    of_matrix, of_vector = STATE_BYTES[config.optimizer]
    if config.lora.rank:
        item = sizes.frozen_bytes if compute_bytes(config.fsdp_config, kind) == 2 else MASTER_BYTES
        frozen = item * (sizes.num_in_blocks * of_blocks + sizes.num_outside * of_others)
        trained = config.lora.rank * sizes.adapter_dims * of_blocks
        gradients, optimizer = trained * MASTER_BYTES, trained * of_matrix
        return (frozen + trained * MASTER_BYTES) / GIB, gradients / GIB, optimizer / GIB
    matrices = sizes.num_in_matrices * of_blocks
    others = sizes.num_in_vectors * of_blocks + sizes.num_outside * of_others
    masters = (matrices + others) * MASTER_BYTES
    return masters / GIB, masters / GIB, (matrices * of_matrix + others * of_vector) / GIB


def _activations(config: TrainerConfig, sizes: ModelSizes, kind: str, num_tokens: int) -> tuple[float, float]:
    """GiB that all blocks keep for the backward pass, and what one keeps that is not computed again.

    Of a block that is computed again its input stays.
    """
    item = compute_bytes(config.fsdp_config, kind)
    inputs = sizes.num_layers * num_tokens * sizes.block.hidden_size * item
    one_block = num_tokens * sizes.block.numbers_a_token(config.tp_size) * item
    num_kept = sizes.num_layers - round(recompute_ratio(config.fsdp_config, kind) * sizes.num_layers)
    return (inputs + num_kept * one_block) / GIB, one_block / GIB


def _workspace(
    config: TrainerConfig, sizes: ModelSizes, kind: str, *, one_block: float, logits: float, gradients: float
) -> float:
    """GiB on top of states, activations and logits where that is most: at the loss, or in the first block's backward.

    Embedding and head stay gathered through the step. At the loss the gradient of the head exists in fp32 and in the
    dtype of the computation, those of the shards only where micro-batches are added up. In the backward pass of a
    block its weights and those fetched ahead are gathered, its gradients exist in both dtypes on their way to the
    shards, a block that is computed again has all it keeps, and the logits are gone.
    """
    item = compute_bytes(config.fsdp_config, kind)
    is_full = not config.lora.rank
    block = sizes.num_in_blocks / sizes.num_layers / config.tp_size
    num_gathered = 1 + config.fsdp_config.prefetch if config.fsdp_config.reshard_after_forward else sizes.num_layers
    outside = sizes.num_outside * item
    gathered = min(num_gathered, sizes.num_layers) * block * item
    head_gradient = sizes.num_in_head * item * is_full
    second_copy = sizes.num_in_head * MASTER_BYTES * (is_full and item != MASTER_BYTES)
    at_loss = (outside + head_gradient + second_copy) / GIB - gradients
    in_block = (outside + head_gradient + gathered + block * (item + MASTER_BYTES) * is_full) / GIB - logits
    if recompute_ratio(config.fsdp_config, kind) > 0:
        in_block += one_block
    return max(at_loss, in_block, 0.0)


def _disk(config: TrainerConfig, sizes: ModelSizes) -> Disk:
    """Exports in the dtype of the source; a checkpoint has trained parameters and optimizer state in fp32."""
    trained = _num_trained(config, sizes)
    adapter = trained * MASTER_BYTES / GIB if config.lora.rank else 0.0
    export = adapter + (sizes.stored_bytes / GIB if config.lora.exports_model else 0.0)
    of_matrix, of_vector = STATE_BYTES["adamw" if config.optimizer == "adamw-8bit" else config.optimizer]
    in_matrices = trained if config.lora.rank else sizes.num_in_matrices
    state = in_matrices * of_matrix + (trained - in_matrices) * of_vector
    checkpoint = (trained * MASTER_BYTES + state) / GIB
    num_exports = _num_exports(config)
    # One more than are kept: an old one goes only when the new one is whole.
    num_checkpoints = config.checkpoint_maxkeep + 1 if config.checkpoint_interval or config.save_first_step else 1
    needed = num_exports * export + num_checkpoints * checkpoint
    return Disk(export, checkpoint, needed, _free_gib(config.work_dir))


def _num_exports(config: TrainerConfig) -> int:
    """Exports at a time: those that are kept and the one that is written, and the best one where there is one."""
    best = 1 if config.eval_dataset else 0
    if config.hf_interval is None:
        return 1 + best
    made = -(-config.total_step // config.hf_interval) if config.total_step else None
    kept = config.hf_max_keep + 1 if config.hf_max_keep else None
    known = [number for number in (made, kept) if number is not None]
    return (min(known) if known else 2) + best


def _free_gib(directory: Path) -> float:
    """Free disk where `directory` is or would be made."""
    existing = next((path for path in (directory, *directory.absolute().parents) if path.exists()), Path("/"))
    return shutil.disk_usage(existing).free / GIB
