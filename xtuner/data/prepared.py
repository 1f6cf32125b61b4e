"""What training takes from the data: sequences, the packs made of them, and the proof that all ranks have the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from xtuner.data.counts import DataCounts, total
from xtuner.data.order import epoch_order
from xtuner.data.packing import PackPlan
from xtuner.data.problems import ProblemLog, merge_logs
from xtuner.data.store import TokenStore
from xtuner.data.tokenize import TokenSequence

# Context length at which attention costs as much as the dense layers: 12 x hidden size (both of 24 h^2 and 2 h T
# multiply-adds a token and layer), taken for a hidden size of 1024.
_CROSSOVER_TOKENS = 12 * 1024


@dataclass(frozen=True)
class PreparedData:
    """Sequences of all data files, and the packs made of them; the same on every rank.

    Attributes:
        stores: the sequences of each file.
        selected: int64, which sequences are used, as indices into all stores one after the other; a sequence that
            is used twice stands twice.
        plan: packs of places in `selected`.
        ratios: how often each store's rows are used.
        paths: the file that each store was made of; none where rows have no files.
    """

    stores: list[TokenStore]
    selected: NDArray[np.int64]
    plan: PackPlan
    ratios: list[float] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def num_packs(self) -> int:
        """Packs in one epoch."""
        return len(self.plan)

    @property
    def counts(self) -> DataCounts:
        """What happened to the rows of all files, before ratios."""
        return total(store.counts for store in self.stores)

    @property
    def problems(self) -> ProblemLog:
        """The warnings about the rows of all files."""
        return merge_logs(store.problems for store in self.stores)

    def pack(self, index: int) -> list[TokenSequence]:
        """The sequences of one pack, as views."""
        return [self.sequence(int(self.selected[place])) for place in self.plan.pack(index)]

    def sequence(self, index: int) -> TokenSequence:
        """One sequence by its place in all stores."""
        number, inner = self._locate(index)
        return self.stores[number].sequence(inner)

    def rows_of_pack(self, index: int) -> list[str]:
        """Where the rows of one pack stand: `chats.jsonl:17`."""
        located = [self._locate(int(self.selected[place])) for place in self.plan.pack(index)]
        return [f"{self._name(number)}:{self.stores[number].lines[inner]}" for number, inner in located]

    def _name(self, number: int) -> str:
        return self.paths[number] if self.paths else f"data {number}"

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of a sequence's store, and its place in there."""
        for number, store in enumerate(self.stores):
            if index < len(store):
                return number, index
            index -= len(store)
        raise IndexError(index)

    def num_targets(self, pack: int) -> int:
        """Trained tokens of a pack; a sequence's first token is never a target, nothing predicts it."""
        members = self.selected[self.plan.pack(pack)]
        located = [self._locate(int(index)) for index in members]
        return sum(int(self.stores[number].num_targets[inner]) for number, inner in located)

    def pack_cost(self, pack: int) -> float:
        """About how long a pack takes, in tokens of an endless stream of very short rows."""
        lengths = np.array([len(sequence) for sequence in self.pack(pack)], dtype=np.float64)
        return float(lengths.sum() + (lengths**2).sum() / _CROSSOVER_TOKENS)

    def num_tokens_packed(self) -> int:
        """Tokens in all packs: with ratios, other than those of the files."""
        lengths = np.concatenate([store.lengths for store in self.stores])
        return int(lengths[self.selected].sum())

    def fingerprint(self) -> str:
        """SHA-256 of what the sequences and packs are made of, in hex: equal on all ranks, or they would train on
        different data."""
        digest = sha256(repr([(store.key, len(store)) for store in self.stores]).encode())
        for part in (self.selected, self.plan.members, self.plan.starts):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def select(stores: Sequence[TokenStore], ratios: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Which sequences are used: all of a store `ratio` times, its fraction as a fixed choice of whole rows."""
    chosen: list[NDArray[np.int64]] = []
    offset = 0
    for number, (store, ratio) in enumerate(zip(stores, ratios, strict=True)):
        everything = np.arange(offset, offset + len(store), dtype=np.int64)
        whole, fraction = divmod(ratio, 1.0)
        chosen += [everything] * int(whole)
        if fraction:
            rows, row_of = np.unique(store.lines, return_inverse=True)
            picked = np.zeros(len(rows), dtype=np.bool_)
            picked[epoch_order(len(rows), seed, number)[: round(fraction * len(rows))]] = True
            chosen.append(everything[picked[row_of]])
        offset += len(store)
    return np.concatenate([np.empty(0, np.int64), *chosen])
