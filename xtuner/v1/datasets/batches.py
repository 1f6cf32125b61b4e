"""Packs to micro-batches: `fetch(step)` depends on nothing but the data, the seed and the step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from xtuner.data.order import packs_of_step, share_among_ranks
from xtuner.data.prepared import PreparedData
from xtuner.data.tokenize import TokenSequence


@dataclass(frozen=True)
class MicroBatch:
    """One pack of T tokens with N targets, as the model takes it; or one rank's part of a pack, see `part`.

    Attributes:
        input_ids: int64 [1, T].
        position_ids: int64 [1, T], starting at 0 in each document.
        document_lengths: tokens of each document, summing to T; of a part, those of the whole pack.
        target_positions: int64 [N], the positions whose next token is a target.
        targets: int64 [N], those next tokens.
        num_padding: tokens at the end of the pack that belong to no row; they are the last document.
        num_parts: ranks that share the pack, each with a part of equal length.
        index: which part this is.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    document_lengths: list[int]
    target_positions: torch.Tensor
    targets: torch.Tensor
    num_padding: int = 0
    num_parts: int = 1
    index: int = 0

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of the documents that are rows; of a part, those of the whole pack."""
        return self.document_lengths[:-1] if self.num_padding else self.document_lengths

    @property
    def num_tokens(self) -> int:
        """Tokens of the rows, without padding."""
        length = self.input_ids.shape[1]
        rows_end = length * self.num_parts - self.num_padding
        return min(max(rows_end - self.index * length, 0), length)

    @property
    def num_targets(self) -> int:
        """Trained tokens of the pack."""
        return self.targets.shape[0]

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            target_positions=self.target_positions.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
        )

    def part(self, index: int, num_parts: int) -> "MicroBatch":
        """The tokens of rank `index` of the `num_parts` that share the pack, and the targets that they predict.

        The parts are equally long, and their targets are as many as those of the pack; a part may have none.
        """
        if num_parts == 1:
            return self
        pack = self._padded_to_multiple(num_parts)
        length = pack.input_ids.shape[1] // num_parts
        begin, end = index * length, (index + 1) * length
        is_here = (pack.target_positions >= begin) & (pack.target_positions < end)
        return replace(
            pack,
            input_ids=pack.input_ids[:, begin:end],
            position_ids=pack.position_ids[:, begin:end],
            target_positions=pack.target_positions[is_here] - begin,
            targets=pack.targets[is_here],
            num_parts=num_parts,
            index=index,
        )

    def _padded_to_multiple(self, multiple: int) -> "MicroBatch":
        missing = -self.input_ids.shape[1] % multiple
        if not missing:
            return self
        lengths = list(self.document_lengths)
        if self.num_padding:
            lengths[-1] += missing
        else:
            lengths.append(missing)
        begin = lengths[-1] - missing
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, self.input_ids.new_zeros(1, missing)], dim=1),
            position_ids=torch.cat([self.position_ids, torch.arange(begin, lengths[-1])[None]], dim=1),
            document_lengths=lengths,
            num_padding=self.num_padding + missing,
        )


@dataclass(frozen=True)
class StepBatch:
    """What one rank trains in one optimizer step.

    Attributes:
        micro_batches: this rank's packs.
        global_targets: trained tokens of the step over all ranks, the divisor of the loss. Every rank knows the
            whole plan, so it is counted without communication.
    """

    micro_batches: list[MicroBatch]
    global_targets: int

    @property
    def num_tokens(self) -> int:
        """Tokens of this rank."""
        return sum(batch.num_tokens for batch in self.micro_batches)

    @property
    def num_targets(self) -> int:
        """Trained tokens of this rank."""
        return sum(batch.num_targets for batch in self.micro_batches)


@dataclass(frozen=True)
class DataShare:
    """What one rank runs of the packs of a step; all of it, if nothing else is said.

    Attributes:
        index, num_shares: which share of the packs, of how many; ranks that run the same packs have the same share.
        part, num_parts: which part of each of these packs, of how many.
    """

    index: int = 0
    num_shares: int = 1
    part: int = 0
    num_parts: int = 1


EVERYTHING = DataShare()


class Batches:
    """The batches of one rank. The set of rows of a step is the same for every number of ranks.

    Args:
        data: what was prepared, the same on every rank.
        share: what of each step this rank runs.
        sequences_per_step: packs in one step, over all ranks.
        seed: decides the order of the packs.
        pad_multiple: packs are padded to a multiple of this many tokens. The padding is a document of its own
            behind the rows, known by its place and never by its id, so that PAD may be equal to EOS.
    """

    def __init__(
        self,
        data: PreparedData,
        share: DataShare = EVERYTHING,
        *,
        sequences_per_step: int,
        seed: int,
        pad_multiple: int = 1,
    ) -> None:
        assert sequences_per_step % share.num_shares == 0, "checked by TrainerConfig.check_world_size"
        self._data = data
        self._share = share
        self._sequences_per_step = sequences_per_step
        self._seed = seed
        self._pad_multiple = pad_multiple

    def steps_per_epoch(self) -> int:
        """Optimizer steps until every pack was seen; the last one is filled up from the next epoch's order."""
        return -(-self._data.num_packs // self._sequences_per_step)

    def fetch(self, step: int) -> StepBatch:
        """The batch of optimizer step `step` (from 1)."""
        packs, share = self._packs_of(step), self._share
        micro_batches = [
            make_micro_batch(self._data.pack(pack), self._pad_multiple).part(share.part, share.num_parts)
            for pack in self._own(packs)
        ]
        return StepBatch(micro_batches, sum(self._data.num_targets(pack) for pack in packs))

    def rows_of(self, step: int) -> list[list[str]]:
        """Where the rows of each micro-batch of `step` stand: `chats.jsonl:17`."""
        return [self._data.rows_of_pack(pack) for pack in self._own(self._packs_of(step))]

    def _packs_of(self, step: int) -> list[int]:
        return packs_of_step(step - 1, self._sequences_per_step, self._data.num_packs, self._seed)

    def _own(self, packs: list[int]) -> list[int]:
        """Those of the packs of a step that this rank runs."""
        shares = share_among_ranks([self._data.pack_cost(pack) for pack in packs], self._share.num_shares)
        return [packs[index] for index in shares[self._share.index]]


def make_micro_batch(sequences: Sequence[TokenSequence], pad_multiple: int = 1) -> MicroBatch:
    """The pack of `sequences`, in their order; for `pad_multiple` see `Batches`."""
    lengths = [len(sequence) for sequence in sequences]
    num_padding = -sum(lengths) % pad_multiple
    ids = np.concatenate([*(sequence.ids for sequence in sequences), np.zeros(num_padding, np.int32)])
    is_target = np.concatenate([*(sequence.is_trained for sequence in sequences), np.zeros(num_padding, np.bool_)])
    # Position i predicts token i + 1; the first token of a document is nobody's target.
    is_target[np.cumsum([0, *lengths[:-1]])] = False
    positions = np.flatnonzero(is_target) - 1
    ids = ids.astype(np.int64)
    document_lengths = [*lengths, num_padding] if num_padding else lengths
    return MicroBatch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.cat([torch.arange(length) for length in document_lengths])[None],
        document_lengths=document_lengths,
        target_positions=torch.from_numpy(positions),
        targets=torch.from_numpy(ids[positions + 1]),
        num_padding=num_padding,
    )
