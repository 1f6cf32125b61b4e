"""The order of packs: `batch(step) = f(seed, epoch, step)`, the same on every rank and after every restart."""

from collections.abc import Sequence
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


def share_among_ranks(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Which packs of a step each rank takes: equally many, at about equal cost.

    Ranks wait for each other in every micro-batch, so packs of similar cost go side by side; within such a group
    the dearest goes to the rank that has had the least so far.

    Args:
        costs: of each pack of the step; a multiple of `num_ranks` of them.
        num_ranks: ranks that share the step.

    Returns:
        For each rank the indices into `costs`, in the order of its micro-batches.
    """
    assert len(costs) % num_ranks == 0, "checked by TrainerConfig.check_world_size"
    by_cost = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for begin in range(0, len(by_cost), num_ranks):
        lightest_first = sorted(range(num_ranks), key=lambda rank: (loads[rank], rank))
        for rank, index in zip(lightest_first, by_cost[begin : begin + num_ranks], strict=True):
            shares[rank].append(index)
            loads[rank] += costs[index]
    return shares
