"""How much memory and disk a run will need, from the sizes of its model and its options; without torch.

Memory is that of the moment of a step at which most is taken, see `xtuner.launch.step_memory`, and what is taken
besides tensors. `benchmarks/memory.py` holds it against real runs.

Sharding: FSDP2 divides parameters, gradients and optimizer state by the ranks that share one copy of the model;
with tensor parallel those divide the blocks once more by themselves, which comes to the same share of a block and to
a `tp_size` times larger one of embedding and head. Activations are those of one pack, of the part of it that a rank
has with sequence parallel.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from xtuner.launch.devices import Hardware
from xtuner.launch.model_sizes import ModelSizes
from xtuner.launch.step_memory import Moment, Parts, StepMemory
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.memory import GIB, MASTER_BYTES, STATE_BYTES

COMPONENTS = ("parameters", "gradients", "optimizer", "activations", "logits", "workspace")
# What a rank takes before it has a model. On a CPU the interpreter with torch, transformers and gloo: the resident peak
# of a run on a model of 0.3 million parameters, half of it from importing torch. The CUDA context with the kernels of
# the libraries, which is no part of what `torch.cuda` counts.
BASE_GIB = {"cuda": 0.8, "cpu": 0.39}
# Memory that glibc's heap holds at the peak besides each byte in tensors, where there is no accelerator. It keeps what
# is freed (the engine's `keep_freed_memory`), and the holes that short-lived tensors leave between long-lived ones are
# too small for much of what comes later: 0.15 to 0.4 in the cases of `benchmarks/memory.py`. Logits leave none: they
# come last, in one piece. On an accelerator `max_memory` is what tensors take; what its allocator wastes is in
# `_USABLE`.
_HEAP_HOLES = 0.27
# In a tensor each for the threads of forward and backward pass, 32 MiB on a Hopper GPU, less on others
# (`getChosenWorkspaceSize` in aten/src/ATen/cuda/CublasHandlePool.cpp); part of what `torch.cuda` counts.
_CUBLAS_GIB = {"cuda": 2 * 32 / 1024, "cpu": 0.0}
_USABLE = {"cuda": 0.94, "cpu": 0.9}  # of the memory: allocators cannot use every last hole, and others live here too


@dataclass(frozen=True)
class Memory:
    """GiB of one device by component, at the moment of a step when most is taken.

    At that moment some of the others need not be there: no gradients at the loss, no logits in the backward pass.
    `workspace` is what comes on top: gathered weights, gradients on their way, what the process and its allocator
    take. Where there is no accelerator a device is a process.
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
        moment: of a step, when so much is taken.
        usable: GiB of each device that can be used.
        host: GiB of host memory that all ranks here take together; on a CPU that is all there is.
        usable_host: GiB of host memory that can be used.
        disk: on the disk of the work dir.
        num_trained: trained parameters.
    """

    memory: Memory
    moment: Moment
    usable: float
    host: float
    usable_host: float
    disk: Disk
    num_trained: int

    @property
    def fits(self) -> bool:
        """Whether devices and host have the memory."""
        return self.memory.total <= self.usable and self.host <= self.usable_host

    def logged_gib(self, kind: str) -> float:
        """What a rank will log as `max_memory`: on an accelerator what its tensors take, without the context."""
        return self.memory.total - (BASE_GIB[kind] if kind == "cuda" else 0.0)


def estimate(config: TrainerConfig, sizes: ModelSizes, hardware: Hardware, *, nproc: int, nnodes: int = 1) -> Estimate:
    """What `config` needs on each of `nproc` devices of this machine, one of `nnodes`."""
    world_size = nproc * nnodes
    step = StepMemory(config, sizes, hardware.kind, world_size)
    peak = step.peak()
    memory = _memory(step, peak)
    offloaded = (step.parameters + step.gradients + step.optimizer) / GIB if step.is_offloaded else 0.0
    usable_host = hardware.host_gib * _USABLE["cpu"]
    is_cpu = hardware.kind == "cpu"
    host = nproc * (memory.total if is_cpu else offloaded + BASE_GIB["cpu"])
    return Estimate(
        memory=memory,
        moment=peak.moment,
        usable=usable_host / nproc if is_cpu else hardware.memory_gib * _USABLE["cuda"],
        host=host,
        usable_host=usable_host,
        disk=_disk(config, sizes),
        num_trained=_num_trained(config, sizes),
    )


def _num_trained(config: TrainerConfig, sizes: ModelSizes) -> int:
    return config.lora.rank * sizes.adapter_dims if config.lora.rank else sizes.num_parameters


def _memory(step: StepMemory, peak: Parts) -> Memory:
    """The memory of a device with the tensors of `peak`."""
    held = _HEAP_HOLES * (peak.total - peak.logits) + step.scattered if step.kind == "cpu" else 0.0
    beside_tensors = held / GIB + BASE_GIB[step.kind] + _CUBLAS_GIB[step.kind]
    return Memory(
        parameters=peak.parameters / GIB,
        gradients=peak.gradients / GIB,
        optimizer=peak.optimizer / GIB,
        activations=peak.activations / GIB,
        logits=peak.logits / GIB,
        workspace=peak.workspace / GIB + beside_tensors,
    )


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
