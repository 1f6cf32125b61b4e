"""Series over tokens and hours: kept up while their source grows and goes back."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from xtuner.run.derived import Smoothed
from xtuner.run.rekeyed import Rekeyed
from xtuner.run.series import Series


class Axis:
    """Steps up to the last one known, each at ten times as much."""

    def __init__(self):
        self.known = 0

    def __call__(self):
        steps = range(1, self.known + 1)
        return array("d", steps), array("d", (10 * (step // 2 * 2) for step in steps))  # two steps share an x


changes = st.lists(st.tuples(st.sampled_from(["grow", "cut", "look", "axis"]), st.integers(1, 9)), max_size=40)


@given(changes)
def test_it_is_what_one_made_of_the_whole_would_be(changes):
    source, axis = Series(), Axis()
    axis.known = 20
    rekeyed = Rekeyed(source, axis)
    smoothed = Smoothed(rekeyed, 0.5)
    for change, size in changes:
        last = int(source.x_range()[1]) if source.x_range() else 0
        if change == "grow":
            for step in range(last + 1, last + 1 + size):
                source.append(step, step + size / 10)
        elif change == "cut":
            source.truncate_from(max(1, last - size))
        elif change == "axis":
            axis.known += size
        else:
            list(map(len, (rekeyed, smoothed)))
    expected = Rekeyed(source, axis)
    assert [list(part) for part in rekeyed.samples()] == [list(part) for part in expected.samples()]
    xs, ys = source.samples()
    known = [(10 * (int(x) // 2 * 2), y) for x, y in zip(xs, ys, strict=True) if x <= axis.known]
    assert list(zip(*rekeyed.samples(), strict=True)) == known
    assert [list(part) for part in smoothed.samples()] == [list(part) for part in Smoothed(expected, 0.5).samples()]
