"""What a rank says when memory runs out: what was in it, and which flags would make room, with how much each frees.

All sizes are estimates from the architecture, for the rank that failed; they are there to choose by, not to add up.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from xtuner.errors import OutOfMemory
from xtuner.v1.config import OptimizerName, TrainerConfig
from xtuner.v1.config.memory import GIB, MASTER_BYTES, STATE_BYTES, BlockShape, logits_bytes, recompute_ratio
from xtuner.v1.datasets.batches import StepBatch
from xtuner.v1.engine.memory import MemoryState, memory_state
from xtuner.v1.model.matrices import hidden_matrices
from xtuner.v1.model.shard import compute_dtype, local_part

_WORTH_SAYING = 0.01  # GiB


@dataclass(frozen=True)
class MemoryShares:
    """What this rank's memory is for, in GiB; estimates.

    Attributes:
        parameters: this rank's shards.
        gradients: of the parameters that are trained.
        optimizer: its state of the same, as configured.
        saved_by_8bit: what of `optimizer` 8-bit AdamW would free.
        kept: what blocks keep for the backward pass of the longest pack, as configured.
        recomputable: what of `kept` recomputing every block would free.
        logits: one chunk of the loss.
    """

    parameters: float
    gradients: float
    optimizer: float
    saved_by_8bit: float
    kept: float
    recomputable: float
    logits: float


@contextmanager
def answer_out_of_memory(
    model: PreTrainedModel, config: TrainerConfig, device_type: str, *, step: int, batch: StepBatch | None = None
) -> Iterator[None]:
    """Turn running out of memory inside the block into an error that says what would help.

    Args:
        model: what is trained; may be on the meta device still.
        config: its options.
        device_type: "cuda" or "cpu": where it computes.
        step: the optimizer step, from 1; 0 is while the model is loaded.
        batch: what this rank trains in that step.

    Raises:
        OutOfMemory: in place of torch's error, Python's `MemoryError`, or the CPU allocator's `RuntimeError`.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        device = torch.device(device_type)
        shares = memory_shares(model, config, device_type, _longest_pack(batch, config))
        state = memory_state(device)
        raise OutOfMemory(
            _what_happened(error, state, step, batch),
            hint=_what_helps(shares, config, device_type),
            needed_gib=state.used + _asked_gib(error),
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on an accelerator, in PyTorch's CPU allocator, or in Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = (
        "DefaultCPUAllocator: can't allocate",
        "DefaultCPUAllocator: not enough memory",
        "CUDA error: out of memory",
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def memory_shares(model: PreTrainedModel, config: TrainerConfig, device_type: str, num_tokens: int) -> MemoryShares:
    """What a rank needs memory for with packs of `num_tokens` tokens."""
    parameters = list(model.parameters())
    trained = sum(local_part(parameter).numel() for parameter in parameters if parameter.requires_grad)
    item_bytes = compute_dtype(config.fsdp_config, device_type).itemsize
    text = model.config.get_text_config()
    block, all_tokens = BlockShape.of_config(text), text.num_hidden_layers * num_tokens
    input_bytes = all_tokens * block.input_bytes(item_bytes)
    freed_bytes = all_tokens * block.kept_bytes(item_bytes, config.tp_size, device_type) - input_bytes
    ratio = recompute_ratio(config.fsdp_config, device_type)
    return MemoryShares(
        parameters=sum(local_part(p).numel() * p.element_size() for p in parameters) / GIB,
        gradients=trained * MASTER_BYTES / GIB,
        optimizer=_state_gib(model, config.optimizer),
        saved_by_8bit=max(0.0, _state_gib(model, config.optimizer) - _state_gib(model, "adamw-8bit")),
        kept=(input_bytes + (1 - ratio) * freed_bytes) / GIB,
        recomputable=(1 - ratio) * freed_bytes / GIB,
        logits=logits_bytes(num_tokens, config.loss_chunk_size, text.vocab_size, item_bytes) / GIB,
    )


def _state_gib(model: PreTrainedModel, optimizer: OptimizerName) -> float:
    of_matrices, of_others = STATE_BYTES[optimizer]
    trained = sum(local_part(parameter).numel() for parameter in model.parameters() if parameter.requires_grad)
    in_matrices = sum(local_part(weight).numel() for weight in hidden_matrices(model))
    return (in_matrices * of_matrices + (trained - in_matrices) * of_others) / GIB


def _longest_pack(batch: StepBatch | None, config: TrainerConfig) -> int:
    if batch is None:
        return config.pack_max_length // config.sp_size
    return max(micro_batch.input_ids.shape[1] for micro_batch in batch.micro_batches)


_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGT]iB)")
_UNITS = {"bytes": 1 / GIB, "KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0, "TiB": 2.0**10}


def _asked_gib(error: BaseException) -> float:
    """What could not be had; 0 where the allocator did not say."""
    asked = _ASKED.search(str(error))
    return float(asked[1]) * _UNITS[asked[2]] if asked else 0.0


def _what_happened(error: BaseException, state: MemoryState, step: int, batch: StepBatch | None) -> str:
    rank = dist.get_rank() if dist.is_initialized() else 0
    asked = _ASKED.search(str(error))
    asked_words = ""
    if asked:
        asked_words = (
            f" asking for {f'{_asked_gib(error):.2f} GiB' if asked[2] == 'bytes' else ' '.join(asked.groups())}"
        )
    when = f"in step {step}" if step else "while the model was loaded"
    parts = [f"rank {rank} ran out of memory {when}{asked_words}"]
    if batch is not None:
        longest = max(batch.micro_batches, key=lambda micro_batch: micro_batch.input_ids.shape[1])
        document = max(max(micro_batch.document_lengths) for micro_batch in batch.micro_batches)
        pack = "its part of the longest pack" if longest.num_parts > 1 else "its longest pack"
        parts.append(f"{pack} has {longest.input_ids.shape[1]:,} tokens, its longest document {document:,}")
    parts.append(state.describe())
    return "; ".join(parts)


def _what_helps(shares: MemoryShares, config: TrainerConfig, device_type: str) -> str:
    """The flags that are not on already, the cheapest first."""
    states = shares.parameters + shares.gradients + shares.optimizer
    half_pack, half_chunk = config.pack_max_length // 2, config.loss_chunk_size // 2
    helps: list[tuple[str, float]] = []
    if device_type != "cpu" and not config.fsdp_config.cpu_offload:
        helps.append(("--fsdp-config.cpu-offload", states))
    if half_pack >= 2:
        helps.append((f"--pack-max-length {half_pack}", shares.kept / 2))
    if shares.recomputable:
        helps.append(("--fsdp-config.recompute-ratio 1", shares.recomputable))
    if dist.is_initialized() and dist.get_world_size() % (2 * config.sp_size * config.tp_size) == 0:
        helps.append((f"--sp-size {2 * config.sp_size}", shares.kept / 2))
    if half_chunk:
        helps.append((f"--loss-chunk-size {half_chunk}", shares.logits / 2))
    if config.optimizer == "adamw":
        helps.append(("--optimizer adamw-8bit", shares.saved_by_8bit))
    if config.load_from and not config.lora.rank:
        helps.append(("--lora.rank 16", shares.gradients + shares.optimizer))
    helps.append(("twice the ranks", states / 2))
    told = [(flag, gib) for flag, gib in helps if gib >= _WORTH_SAYING] or helps[:2]
    return "the cheapest first: " + ", ".join(f"{flag} (frees about {gib:.2f} GiB)" for flag, gib in told)
