"""The model's mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """`model` without dropout inside the block, and in the mode it had before, training or not, behind it."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
