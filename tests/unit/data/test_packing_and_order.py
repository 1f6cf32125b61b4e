"""The pack plan and the order of packs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.data.order import epoch_order, packs_of_step
from xtuner.data.packing import plan_packs


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200), st.integers(1, 8))
def test_every_sequence_stands_in_one_pack_that_holds_it(lengths: list[int], min_packs: int) -> None:
    min_packs = min(min_packs, len(lengths))
    packs = plan_packs(lengths, 64, min_packs=min_packs)
    assert sorted(index for pack in packs for index in pack) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in pack) <= 64 for pack in packs)
    assert len(packs) >= min_packs and all(packs)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200))
def test_packs_are_few(lengths: list[int]) -> None:
    # Best fit decreasing needs at most 11/9 of the optimum plus 1; the optimum is at least the total over 64.
    assert len(plan_packs(lengths, 64)) <= 11 / 9 * max(1, -(-sum(lengths) // 64)) * 1.5 + 1


def test_the_tightest_pack_is_chosen() -> None:
    assert plan_packs([6, 5, 4, 3], 10) == [[0, 2], [1, 3]]


def test_order_is_a_permutation_that_never_changes() -> None:
    assert sorted(epoch_order(1000, 42, 0)) == list(range(1000))
    assert list(epoch_order(8, 42, 0)) == PINNED
    assert list(epoch_order(8, 42, 1)) != PINNED and list(epoch_order(8, 43, 0)) != PINNED


def test_steps_walk_through_the_epochs_without_gap() -> None:
    seen = [pack for step in range(5) for pack in packs_of_step(step, 4, 10, seed=1)]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_set_of_packs_of_a_step_does_not_depend_on_ranks(num_ranks: int) -> None:
    packs = packs_of_step(3, 8, 50, seed=0)
    assert sorted(pack for rank in range(num_ranks) for pack in packs[rank::num_ranks]) == sorted(packs)


PINNED = [3, 6, 0, 4, 7, 1, 2, 5]
