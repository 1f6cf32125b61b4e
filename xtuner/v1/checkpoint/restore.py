"""A run goes on from a checkpoint."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from xtuner.errors import EnvironmentFault, ModelError
from xtuner.run.atomic import read_json
from xtuner.run.checkpoints import Checkpoint
from xtuner.v1.checkpoint.random_state import set_random_state
from xtuner.v1.checkpoint.tensors import load_tensors


def restore_checkpoint(
    model: PreTrainedModel,
    optimizers: Iterable[torch.optim.Optimizer],
    checkpoint: Checkpoint,
    *,
    device: torch.device,
) -> bool:
    """Let model, optimizers and random numbers be what they were; collective.

    The number of ranks may be another one: shards are cut anew. Random numbers are a rank's own, so they go on only
    where the number of ranks is the same.

    Returns:
        Whether the random numbers go on where they were.

    Raises:
        ModelError: the checkpoint is of another model, or of another `--optimizer`.
        EnvironmentFault: it belongs to another user.
    """
    restore_parameters(model, checkpoint, optimizers)
    if checkpoint.manifest().get("world_size") != dist.get_world_size():
        return False
    set_random_state(read_json(checkpoint.rank_state(dist.get_rank()))["random"], device)
    return True


def restore_parameters(
    model: PreTrainedModel, checkpoint: Checkpoint, optimizers: Iterable[torch.optim.Optimizer] = ()
) -> None:
    """Let the trained parameters, and the state of `optimizers`, be what they were; collective.

    Raises:
        ModelError, EnvironmentFault: see `restore_checkpoint`.
    """
    _require_own(checkpoint)
    try:
        load_tensors(model, optimizers, checkpoint.tensors)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{checkpoint.path} does not fit this model and optimizer: {error}",
            hint="resume with the options of the run, or leave out --resume",
        ) from None


def _require_own(checkpoint: Checkpoint) -> None:
    """Refuse files of other users: DCP's metadata is a pickle, which runs what it says.

    Raises:
        EnvironmentFault: there are some.
    """
    for path in checkpoint.tensors.iterdir():
        owner = path.lstat().st_uid
        if owner not in (os.getuid(), 0):
            raise EnvironmentFault(
                f"{path} belongs to user {owner}, this is user {os.getuid()}: reading it would run what it holds",
                hint="resume as the user who trained, or copy the run directory if you trust it",
            )
