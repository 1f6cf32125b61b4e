"""A checkpoint is written by all ranks under a temporary name and committed by the first: see `xtuner.run.checkpoints`.

A save that fails costs nothing but itself: what was written is removed, the checkpoints before it stay, and every rank
learns of it.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from xtuner.run.atomic import write_json
from xtuner.run.checkpoints import Checkpoint, FileEntry, commit, durable_entry, new_save_id, temporary_directory
from xtuner.run.faults import point
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.random_state import random_state
from xtuner.v1.checkpoint.tensors import save_tensors

Value = TypeVar("Value")


class SaveFailed(Exception):
    """A checkpoint was not saved; raised on every rank, with the reason of the first rank that had one."""


def save_checkpoint(
    model: PreTrainedModel,
    optimizers: Iterable[torch.optim.Optimizer],
    run_dir: RunDir,
    step: int,
    *,
    device: torch.device,
    facts: Mapping[str, Any],
    needed_bytes: int = 0,
) -> Checkpoint:
    """Save the state after `step`; collective.

    Args:
        model: sharded.
        optimizers: of its parameters.
        run_dir: where to.
        step: the last step that was trained.
        device: whose random numbers are saved too.
        facts: what the manifest says besides; what the first rank gives is.
        needed_bytes: about how much it will take; with less room it is not begun.

    Raises:
        SaveFailed: nothing was saved.
    """
    rank = dist.get_rank()
    temporary = _agree(lambda: _begin(run_dir, step, needed_bytes) if rank == 0 else None)[0]
    assert temporary is not None
    try:
        entries = _agree(lambda: _write_part(model, optimizers, temporary, rank, device))
        flat = [entry for of_rank in entries for entry in of_rank]
        checkpoint = _agree(lambda: commit(run_dir, temporary, step, flat, facts) if rank == 0 else None)[0]
    except SaveFailed:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    assert checkpoint is not None
    return checkpoint


def _begin(run_dir: RunDir, step: int, needed_bytes: int) -> Path:
    """An empty temporary directory.

    Raises:
        OSError: it cannot be made, or there is too little room.
    """
    point("save.mkdir")
    free = shutil.disk_usage(run_dir.path).free
    if free < needed_bytes:
        raise OSError(errno.ENOSPC, f"needs about {needed_bytes:,} bytes, {free:,} are free", str(run_dir.path))
    temporary = temporary_directory(run_dir, step, new_save_id())
    (temporary / "state").mkdir(parents=True)
    return temporary


def _write_part(
    model: PreTrainedModel,
    optimizers: Iterable[torch.optim.Optimizer],
    temporary: Path,
    rank: int,
    device: torch.device,
) -> list[FileEntry]:
    """Write what this rank holds, durably; the files."""
    checkpoint = Checkpoint(temporary, step=0)
    point("save.tensors")
    save_tensors(model, optimizers, checkpoint.tensors)
    write_json(checkpoint.rank_state(rank), {"random": random_state(device)})
    point("save.written")
    own = [*checkpoint.tensors.glob(f"__{rank}_*"), checkpoint.rank_state(rank)]
    if rank == 0:
        own.append(checkpoint.tensors / ".metadata")
    return [durable_entry(temporary, path) for path in own]


def _agree(work: Callable[[], Value]) -> list[Value]:
    """What `work` gave on each rank; where it failed on one, it failed on all.

    Raises:
        SaveFailed: on every rank.
    """
    try:
        outcome: tuple[Any, str] = work(), ""
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # DCP's own is none of Exception's children
        outcome = None, f"{type(error).__name__}: {error}"
    outcomes: list[tuple[Any, str]] = [(None, "")] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    for rank, (_, reason) in enumerate(outcomes):
        if reason:
            raise SaveFailed(f"rank {rank}: {reason}")
    return [value for value, _ in outcomes]
