"""Which sequences share a pack: one global plan by length, best fit first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class PackPlan:
    """Packs of sequences.

    Attributes:
        members: int64 [sequences], sequence indices, those of a pack side by side and ascending.
        starts: int64 [packs + 1], where each pack begins in `members`.
    """

    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pack(self, index: int) -> NDArray[np.int64]:
        """The sequences of one pack."""
        return self.members[self.starts[index] : self.starts[index + 1]]

    def sums(self, values: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
        """For each pack, the sum of `values` over its sequences."""
        return np.add.reduceat(np.asarray(values, np.float64)[self.members], self.starts[:-1])


def plan_packs(lengths: ArrayLike, capacity: int) -> PackPlan:
    """Put every sequence into a pack of at most `capacity` tokens: best fit over decreasing lengths.

    Each sequence goes where it leaves the least room (Johnson 1973: at most 11/9 of the optimal number of packs).
    Sequences of equal length are placed together, so the work grows with the number of different lengths and
    not with that of sequences; ten million take seconds.

    Args:
        lengths: tokens of each sequence, 1 to `capacity`.
        capacity: tokens of a pack.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert len(sizes) > 0 and sizes.min() >= 1 and sizes.max() <= capacity, "the caller has cut them to size"
    order = np.argsort(-sizes, kind="stable")
    pack_of = np.empty(len(sizes), dtype=np.int64)  # of each place in `order`
    bins = _Bins(capacity)
    values, counts = np.unique(sizes, return_counts=True)
    place = 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        pack_of[place : place + count] = bins.place(length, count)
        place += count
    return _as_plan(order, pack_of, bins.num_packs)


def pack_singly(num_sequences: int) -> PackPlan:
    """One sequence a pack."""
    return PackPlan(np.arange(num_sequences, dtype=np.int64), np.arange(num_sequences + 1, dtype=np.int64))


class _Bins:
    """Open packs by the room they have left.

    Rooms in use are bits of one number, so that the tightest fit is one shift and one lowest-bit search.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._packs_with: dict[int, list[NDArray[np.int64]]] = {}
        self._rooms = 0  # bit r is set while some pack has r tokens of room
        self.num_packs = 0

    def place(self, length: int, count: int) -> NDArray[np.int64]:
        """Packs for `count` sequences of `length` tokens.

        The tightest pack is still the tightest when it has taken one, so it takes as many as it holds.
        """
        chosen: list[NDArray[np.int64]] = []
        while count:
            fitting = self._rooms >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else self._capacity
            each = room // length
            packs = self._take(room, -(-count // each)) if fitting else self._open(-(-count // each))
            filled = np.repeat(packs, each)[:count]
            num_full, rest = divmod(len(filled), each)
            self._put(room - each * length, packs[:num_full])
            self._put(room - rest * length, packs[num_full:])
            chosen.append(filled)
            count -= len(filled)
        return np.concatenate(chosen)

    def _open(self, count: int) -> NDArray[np.int64]:
        self.num_packs += count
        return np.arange(self.num_packs - count, self.num_packs, dtype=np.int64)

    def _take(self, room: int, count: int) -> NDArray[np.int64]:
        stack = self._packs_with[room]
        packs = stack.pop()
        if len(packs) > count:
            stack.append(packs[: len(packs) - count])
            packs = packs[len(packs) - count :]
        if not stack:
            self._rooms ^= 1 << room
        return packs

    def _put(self, room: int, packs: NDArray[np.int64]) -> None:
        if len(packs) and room:
            self._packs_with.setdefault(room, []).append(packs)
            self._rooms |= 1 << room


def _as_plan(order: NDArray[np.int64], pack_of: NDArray[np.int64], num_packs: int) -> PackPlan:
    by_pack = np.lexsort((order, pack_of))
    starts = np.zeros(num_packs + 1, dtype=np.int64)
    np.cumsum(np.bincount(pack_of, minlength=num_packs), out=starts[1:])
    return PackPlan(order[by_pack], starts)
