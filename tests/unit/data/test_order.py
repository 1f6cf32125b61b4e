"""The order of packs and their share among ranks: functions of the seed, the epoch and the step alone."""

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.data.order import epoch_order, packs_of_step, share_among_ranks

PINNED = [3, 6, 0, 4, 7, 1, 2, 5]  # of seed 42, as released: a resumed run must see the same, whatever NumPy does


def test_the_order_is_a_permutation_that_never_changes() -> None:
    assert epoch_order(8, 42, 0).tolist() == PINNED
    orders = [tuple(epoch_order(1000, seed, epoch)) for seed in (0, 42, 2**63, 2**64 - 1) for epoch in (0, 1, 10**6)]
    assert len(set(orders)) == len(orders) and all(sorted(order) == list(range(1000)) for order in orders)


def test_the_order_is_the_same_in_another_process() -> None:
    code = "from xtuner.data.order import epoch_order; print(epoch_order(1000, 7, 3).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(epoch_order(1000, 7, 3).tolist())


def test_no_pack_is_favoured() -> None:
    """Mean and spread of a pack's place over many epochs are those of a uniform shuffle."""
    places = np.array([np.argsort(epoch_order(50, 1, epoch)) for epoch in range(2000)])
    assert abs(places.mean(axis=0) - 24.5).max() < 1.5  # 4.6 standard errors of 14.4 / sqrt(2000)
    assert abs(places.std(axis=0) - 14.43).max() < 1.0
    neighbours = np.mean(np.diff([epoch_order(50, 1, epoch) for epoch in range(2000)], axis=1) == 1)
    assert neighbours < 0.03  # 1 in 50 by chance


def test_a_shared_order_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(8, 42, 0)[0] = 1


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_steps_walk_through_the_epochs_without_gap(num_packs: int, per_step: int, seed: int) -> None:
    num_steps = -(-3 * num_packs // per_step)
    seen = [pack for step in range(num_steps) for pack in packs_of_step(step, per_step, num_packs, seed)]
    for epoch in range(3):
        part = seen[epoch * num_packs : (epoch + 1) * num_packs]
        assert part == epoch_order(num_packs, seed, epoch).tolist()


def test_a_step_can_be_asked_for_in_any_order() -> None:
    forwards = [packs_of_step(step, 3, 7, 1) for step in range(20)]
    assert [packs_of_step(step, 3, 7, 1) for step in reversed(range(20))] == forwards[::-1]


def test_fewer_packs_than_a_step_takes_go_round() -> None:
    packs = packs_of_step(0, 8, 3, seed=0)  # 4 ranks of 2 micro-batches, and 3 packs
    assert len(packs) == 8 and sorted(packs[:3]) == sorted(packs[3:6]) == [0, 1, 2]
    assert packs_of_step(0, 4, 1, seed=0) == [0, 0, 0, 0]
    shares = share_among_ranks([1.0] * 8, 4)
    assert [len(share) for share in shares] == [2] * 4


COSTS = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=8)


@given(COSTS, st.integers(1, 8))
def test_every_rank_gets_as_many_and_each_pack_goes_to_one(costs: list[float], num_ranks: int) -> None:
    costs = costs * num_ranks
    shares = share_among_ranks(costs, num_ranks)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    assert {len(share) for share in shares} == {len(costs) // num_ranks}
    assert share_among_ranks(costs, num_ranks) == shares


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
@pytest.mark.parametrize(("per_step", "num_packs"), [(8, 50), (8, 8), (16, 3)])
def test_the_packs_of_a_step_do_not_depend_on_the_ranks(num_ranks: int, per_step: int, num_packs: int) -> None:
    for step in range(5):
        packs = packs_of_step(step, per_step, num_packs, seed=0)
        costs = [float(pack % 5) + 1 for pack in packs]
        shared = [packs[index] for share in share_among_ranks(costs, num_ranks) for index in share]
        assert sorted(shared) == sorted(packs_of_step(step, per_step, num_packs, seed=0))


def _imbalance(shares: list[list[int]], costs: list[float]) -> float:
    loads = [sum(costs[index] for index in share) for share in shares]
    return max(loads) / min(loads)


def _lock_step_cost(shares: list[list[int]], costs: list[float]) -> float:
    """Ranks wait for the slowest in every micro-batch."""
    return sum(max(costs[share[i]] for share in shares) for i in range(len(shares[0])))


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_loads_are_even_where_costs_are_not(num_ranks: int) -> None:
    generator = random.Random(0)
    ours, naive = [], []
    for _ in range(100):
        costs = [generator.lognormvariate(0, 1) for _ in range(8 * num_ranks)]
        shares = share_among_ranks(costs, num_ranks)
        in_turn = [list(range(rank, len(costs), num_ranks)) for rank in range(num_ranks)]
        ours.append([_imbalance(shares, costs), _lock_step_cost(shares, costs)])
        naive.append([_imbalance(in_turn, costs), _lock_step_cost(in_turn, costs)])
    assert (np.mean(ours, axis=0) < 0.8 * np.mean(naive, axis=0)).all()
    assert (np.array(ours)[:, 1] <= np.array(naive)[:, 1]).all()


def test_equal_costs_are_shared_in_their_order() -> None:
    assert share_among_ranks([1.0] * 4, 2) == [[0, 2], [1, 3]]
    with pytest.raises(AssertionError):
        share_among_ranks([1.0] * 3, 2)
