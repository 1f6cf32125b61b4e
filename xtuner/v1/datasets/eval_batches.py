"""The packs of an evaluation: each once, shared among the ranks, equally many forward passes on every rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xtuner.data.order import share_among_ranks
from xtuner.data.prepared import PreparedData
from xtuner.data.tokenize import TokenSequence
from xtuner.v1.datasets.batches import MicroBatch, make_micro_batch


@dataclass(frozen=True)
class EvalBatch:
    """One forward pass of one rank: a pack; `counts` is false where it is only there for the other ranks' sake."""

    micro_batch: MicroBatch
    counts: bool


class EvalBatches:
    """The packs one rank evaluates; iterating again gives the same again.

    FSDP's forward pass is collective. Where the packs do not divide by the ranks, the idle ones take a pack of two
    tokens that counts nothing.

    Args:
        data: what was prepared, the same on every rank.
        rank: this rank.
        world_size: ranks that share the packs.
        max_packs: the first so many packs are taken; None for all.
        part, num_parts, pad_multiple: as in `Batches`.
    """

    def __init__(
        self,
        data: PreparedData,
        *,
        rank: int,
        world_size: int,
        max_packs: int | None = None,
        part: int = 0,
        num_parts: int = 1,
        pad_multiple: int = 1,
    ) -> None:
        num_packs = min(data.num_packs, max_packs or data.num_packs)
        costs = [data.pack_cost(pack) for pack in range(num_packs)] + [0.0] * (-num_packs % world_size)
        self._data = data
        self._packs = [place if place < num_packs else None for place in share_among_ranks(costs, world_size)[rank]]
        self._part = part, num_parts
        self._pad_multiple = pad_multiple
        self.num_packs = num_packs
        self.num_targets = sum(data.num_targets(pack) for pack in range(num_packs))

    def __iter__(self) -> Iterator[EvalBatch]:
        for pack in self._packs:
            sequences = [_IDLE] if pack is None else self._data.pack(pack)
            micro_batch = make_micro_batch(sequences, self._pad_multiple).part(*self._part)
            yield EvalBatch(micro_batch, counts=pack is not None)


_IDLE = TokenSequence(np.zeros(2, np.int32), np.ones(2, np.bool_))
