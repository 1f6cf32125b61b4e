"""The pack plan: every sequence in one pack that holds it, and hardly any room left over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from xtuner.data.packing import PackPlan, pack_singly, plan_packs

CAPACITY = 64
LENGTHS = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=200)


def _packs(plan: PackPlan) -> list[list[int]]:
    return [plan.pack(index).tolist() for index in range(len(plan))]


def _best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """The rooms that are left, ascending, by the textbook: slow and plain."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


def _check(plan: PackPlan, lengths: NDArray[np.int64], capacity: int) -> None:
    """Without a loop over packs, so that it takes large plans too."""
    assert (np.sort(plan.members) == np.arange(len(lengths))).all()
    assert plan.starts[0] == 0 and plan.starts[-1] == len(lengths) and (np.diff(plan.starts) > 0).all()
    sums = plan.sums(lengths)
    assert sums.max() <= capacity and sums.sum() == lengths.sum()
    is_inner = np.ones(len(lengths), dtype=np.bool_)
    is_inner[plan.starts[:-1]] = False  # the first of each pack may be smaller than the one before
    assert (np.diff(plan.members)[is_inner[1:]] > 0).all()


@given(LENGTHS)
def test_every_sequence_stands_in_one_pack_that_holds_it(lengths: list[int]) -> None:
    _check(plan_packs(lengths, CAPACITY), np.array(lengths), CAPACITY)


@given(LENGTHS)
def test_it_is_best_fit_over_decreasing_lengths(lengths: list[int]) -> None:
    plan = plan_packs(lengths, CAPACITY)
    rooms = sorted(CAPACITY - int(total) for total in plan.sums(np.array(lengths)))
    assert rooms == _best_fit_decreasing(lengths, CAPACITY)


@pytest.mark.parametrize(
    ("lengths", "packs"),
    [
        ([6, 5, 4, 3], [[0, 2], [1, 3]]),  # the tightest room, not the first
        ([10], [[0]]),
        ([10, 10], [[0], [1]]),
        ([1] * 10, [list(range(10))]),
        ([1] * 11, [list(range(10)), [10]]),
        ([3, 7, 3, 7], [[0, 3], [1, 2]]),
        ([6, 6, 6, 4, 4], [[0], [1, 3], [2, 4]]),
    ],
)
def test_small_plans_by_hand(lengths: list[int], packs: list[list[int]]) -> None:
    plan = plan_packs(lengths, 10)
    assert sorted(sorted(lengths[i] for i in pack) for pack in _packs(plan)) == sorted(
        sorted(lengths[i] for i in pack) for pack in packs
    )
    assert len(plan) == len(packs)


def _realistic_lengths(num_sequences: int, capacity: int) -> NDArray[np.int64]:
    """Chats are log-normal with a long tail, cut at the capacity; a tenth are one-liners."""
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(5.8, 0.9, num_sequences)
    lengths[::10] = generator.integers(8, 60, len(lengths[::10]))
    return np.clip(lengths, 2, capacity).astype(np.int64)


@pytest.mark.parametrize("capacity", [2048, 4096, 32_768])
def test_hardly_any_room_is_left_of_300_000_sequences(capacity: int) -> None:
    lengths = _realistic_lengths(300_000, capacity)
    plan = plan_packs(lengths, capacity)
    _check(plan, lengths, capacity)
    waste = 1 - lengths.sum() / (len(plan) * capacity)
    in_order = 1 - lengths.sum() / (_next_fit(lengths, capacity) * capacity)
    assert waste < 0.02 and in_order > 2 * waste


def _next_fit(lengths: NDArray[np.int64], capacity: int) -> int:
    """Packs where sequences are taken as they come."""
    packs = room = 0
    for length in lengths.tolist():
        if length > room:
            packs, room = packs + 1, capacity
        room -= length
    return packs


def test_the_plan_depends_on_the_lengths_alone() -> None:
    lengths = _realistic_lengths(5000, 4096)
    first, second = plan_packs(lengths, 4096), plan_packs(lengths.tolist(), 4096)
    assert (first.members == second.members).all() and (first.starts == second.starts).all()


def test_lengths_that_no_pack_holds_are_our_own_mistake() -> None:
    for lengths in ([], [11], [0]):
        with pytest.raises(AssertionError):
            plan_packs(lengths, 10)


def test_one_sequence_a_pack() -> None:
    assert _packs(pack_singly(3)) == [[0], [1], [2]] and len(pack_singly(0)) == 0


def test_sums_add_up_over_each_pack() -> None:
    plan = plan_packs([6, 5, 4, 3], 10)
    assert plan.sums(np.array([1.0, 10.0, 100.0, 1000.0])).tolist() == [101.0, 1010.0]
