"""The packs of an evaluation: each once, shared among the ranks, equally many forward passes on every rank."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xtuner.data.order import share_among_ranks
from xtuner.data.prepared import PreparedData
from xtuner.data.tokenize import TokenSequence
from xtuner.v1.datasets.batches import EVERYTHING, DataShare, MicroBatch, make_micro_batch


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
        share: what of each round this rank runs.
        max_packs: the first so many packs are taken; None for all.
        pad_multiple: as in `Batches`.
    """

    def __init__(
        self,
        data: PreparedData,
        share: DataShare = EVERYTHING,
        *,
        max_packs: int | None = None,
        pad_multiple: int = 1,
    ) -> None:
        num_packs = min(data.num_packs, max_packs or data.num_packs)
        costs = [data.pack_cost(pack) for pack in range(num_packs)] + [0.0] * (-num_packs % share.num_shares)
        self._data = data
        places = share_among_ranks(costs, share.num_shares)[share.index]
        self._packs = [place if place < num_packs else None for place in places]
        self._share = share
        self._pad_multiple = pad_multiple
        self.num_packs = num_packs
        self.num_targets = sum(data.num_targets(pack) for pack in range(num_packs))

    def __iter__(self) -> Iterator[EvalBatch]:
        for pack in self._packs:
            sequences = [_IDLE] if pack is None else self._data.pack(pack)
            micro_batch = make_micro_batch(sequences, self._pad_multiple).part(self._share.part, self._share.num_parts)
            yield EvalBatch(micro_batch, counts=pack is not None)


_IDLE = TokenSequence(np.zeros(2, np.int32), np.ones(2, np.bool_))
