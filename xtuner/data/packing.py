"""Which sequences share a pack: one global plan by length, best fit first."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plan_packs(lengths: Sequence[int] | NDArray[np.int64], capacity: int, *, min_packs: int = 1) -> list[list[int]]:
    """Put every sequence into a pack of at most `capacity` tokens: best fit over decreasing lengths.

    Each sequence goes where it leaves the least room (Johnson 1973: at most 11/9 of the optimal number of packs).
    The room left per pack is a bit set, so that the tightest pack is one shift and one lowest-bit search.

    Args:
        lengths: tokens of each sequence, 1 to `capacity`.
        capacity: tokens of a pack.
        min_packs: split packs until there are this many; there must be that many sequences.

    Returns:
        Sequence indices of each pack, ascending within a pack.
    """
    assert len(lengths) >= min_packs, "the caller checks that there are enough sequences"
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    packs: list[list[int]] = []
    packs_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set while some pack has r tokens of room
    for index in order.tolist():
        length = int(lengths[index])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = packs_with_room[room].pop()
            if not packs_with_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(index)
        packs_with_room[room - length].append(pack)
        rooms |= 1 << (room - length)
    _split_until(packs, min_packs)
    return [sorted(pack) for pack in packs]


def _split_until(packs: list[list[int]], min_packs: int) -> None:
    while len(packs) < min_packs:
        largest = max(packs, key=len)
        half = len(largest) // 2
        packs.append(largest[half:])
        del largest[half:]
