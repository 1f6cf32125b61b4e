"""A checkpoint is written by all ranks under a temporary name and committed by the first: see `xtuner.run.checkpoints`.

A save that fails costs nothing but itself: what was written is removed, the checkpoints before it stay, and every rank
learns of it. What a rank does alone ends in an agreement of all before any of them enters the collectives of
`torch.distributed.checkpoint`: a rank that missed them would leave the others waiting.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from transformers import PreTrainedModel

from xtuner.errors import StoppedNotSaved
from xtuner.run.atomic import write_json
from xtuner.run.checkpoints import Checkpoint, FileEntry, commit, durable_entry, new_save_id, temporary_directory
from xtuner.run.faults import point
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.random_state import random_state
from xtuner.v1.checkpoint.tensors import save_tensors, tensors_of

Value = TypeVar("Value")


class SaveFailed(Exception):
    """A checkpoint was not saved; raised on every rank, with the reason of the first rank that had one."""


@dataclass(frozen=True)
class Snapshot:
    """What this rank holds of the state of a run.

    Attributes:
        tensors: its shards, by the names under which they are stored.
        random: the state of its random number generators.
    """

    tensors: dict[str, torch.Tensor]
    random: dict[str, Any]

    @classmethod
    def take(
        cls, model: PreTrainedModel, optimizers: Iterable[torch.optim.Optimizer], device: torch.device
    ) -> "Snapshot":
        """The state as it is now; its tensors change with the next step.

        Args:
            model: sharded.
            optimizers: of its parameters.
            device: whose random numbers are saved too.
        """
        return cls(tensors_of(model, optimizers), random_state(device))

    def copied(self) -> "Snapshot":
        """A copy in the memory of the host, which no step changes."""
        host = torch.device("cpu")
        tensors = {name: tensor.detach().to(host, copy=True) for name, tensor in self.tensors.items()}
        return Snapshot(tensors, self.random)


def save_checkpoint(
    snapshot: Snapshot | Exception,
    run_dir: RunDir,
    step: int,
    *,
    facts: Mapping[str, Any],
    needed_bytes: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Checkpoint:
    """Save the state after `step`; collective.

    Args:
        snapshot: the state, or why this rank could not take it.
        run_dir: where to.
        step: the last step that was trained.
        facts: what the manifest says besides; what the first rank gives is.
        needed_bytes: about how much it will take; with less room it is not begun.
        group: of all ranks, through which they agree; a save beside the training needs one that nobody else uses.

    Raises:
        SaveFailed: nothing was saved.
    """
    rank = dist.get_rank()
    temporary = _agree(lambda: _begin(run_dir, step, needed_bytes) if rank == 0 else None, group)[0]
    assert temporary is not None
    try:
        _agree(lambda: _write_state(snapshot, temporary, rank), group)
        assert isinstance(snapshot, Snapshot)
        entries = _agree(lambda: _write_tensors(snapshot, temporary, rank, group), group)
        flat = [entry for of_rank in entries for entry in of_rank]
        checkpoint = _agree(lambda: commit(run_dir, temporary, step, flat, facts) if rank == 0 else None, group)[0]
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
    for name in ("dcp", "state"):
        (temporary / name).mkdir(parents=True)
    return temporary


def _write_state(snapshot: Snapshot | Exception, temporary: Path, rank: int) -> None:
    """Write what this rank alone knows.

    Raises:
        OSError: the disk failed.
        Exception: `snapshot`, if it is none.
    """
    if isinstance(snapshot, Exception):
        raise snapshot
    point("save.state")
    write_json(Checkpoint(temporary, step=0).rank_state(rank), {"random": snapshot.random})
    point("save.tensors")


def _write_tensors(snapshot: Snapshot, temporary: Path, rank: int, group: dist.ProcessGroup | None) -> list[FileEntry]:
    """Write what this rank holds of the tensors, and make its files durable; the files."""
    checkpoint = Checkpoint(temporary, step=0)
    shards = save_tensors(snapshot.tensors, checkpoint.tensors, group)
    point("save.written")
    others = [checkpoint.rank_state(rank), *([checkpoint.tensors / ".metadata"] if rank == 0 else [])]
    return [
        *(FileEntry(path.relative_to(temporary).as_posix(), file.size, file.sha256) for path, file in shards.items()),
        *(durable_entry(temporary, path) for path in others),
    ]


def _agree(work: Callable[[], Value], group: dist.ProcessGroup | None) -> list[Value]:
    """What `work` gave on each rank; where it failed on one, it failed on all.

    Raises:
        SaveFailed: on every rank.
    """
    try:
        outcome: tuple[Any, str] = work(), ""
    except StoppedNotSaved:  # a second signal: out now
        raise
    except CheckpointException as error:  # none of Exception's children; the same on every rank
        outcome = None, _reason(*_first_failure(error))
    except Exception as error:
        outcome = None, _reason(dist.get_rank(), error)
    outcomes: list[tuple[Any, str]] = [(None, "")] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome, group=group)
    for _, reason in outcomes:
        if reason:
            raise SaveFailed(reason)
    return [value for value, _ in outcomes]


def _reason(rank: int, error: BaseException) -> str:
    return f"rank {rank}: {type(error).__name__}: {error}"


def _first_failure(error: CheckpointException) -> tuple[int, BaseException]:
    rank = min(error.failures)
    return rank, error.failures[rank][0]
