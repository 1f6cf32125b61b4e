"""The model's mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """`model` without dropout inside the block, and as it was before behind it: training or not, and sharded."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        _reshard(model)


def _reshard(model: PreTrainedModel) -> None:
    """Let FSDP free the weights it gathered.

    It keeps those of the root (and with --fsdp-config.no-reshard-after-forward, of all blocks) for a backward pass
    that does not come here. Until then the model's parameters are the gathered ones, in the dtype of computing, and
    an export or a checkpoint would write those.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
