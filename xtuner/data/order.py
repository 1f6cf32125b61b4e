"""The order of packs: `batch(step) = f(seed, epoch, step)`, the same on every rank and after every restart."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)  # a step needs one epoch, or two where they meet; the next step needs the same
def epoch_order(num_packs: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of `range(num_packs)` that only depends on the arguments.

    Packs are sorted by a hash of (seed, epoch, index). NumPy's own shuffles may change between its versions
    (NEP 19), and a resumed run must see the same order.
    """
    with np.errstate(over="ignore"):
        keys = _splitmix64(
            np.arange(num_packs, dtype=np.uint64) + _splitmix64(_splitmix64(np.uint64(seed)) + np.uint64(epoch))
        )
    order = np.argsort(keys, kind="stable")
    order.setflags(write=False)
    return order


def _splitmix64(x: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), element by element, modulo 2**64."""
    x = np.asarray(x, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def packs_of_step(step: int, num_sequences: int, num_packs: int, seed: int) -> list[int]:
    """The packs of optimizer step `step` (from 0): `num_sequences` of the endless stream of shuffled epochs."""
    positions = range(step * num_sequences, (step + 1) * num_sequences)
    orders = {epoch: epoch_order(num_packs, seed, epoch) for epoch in {p // num_packs for p in positions}}
    return [int(orders[p // num_packs][p % num_packs]) for p in positions]
