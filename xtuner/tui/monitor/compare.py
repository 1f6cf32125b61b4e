"""Several runs on the same charts: one curve a run, over steps, tokens or hours."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from xtuner.run.rekeyed import Rekeyed, XsOfSteps
from xtuner.run.series import Series
from xtuner.tui.monitor.plots import ChartSpec, PlotChoice, PlotMaker, Smoothable
from xtuner.tui.monitor.session import Session
from xtuner.tui.widgets.axis import format_count, format_value
from xtuner.tui.widgets.plot import Curve

Axis = Literal["step", "tokens", "hours"]
AXES: tuple[Axis, ...] = ("step", "tokens", "hours")
AXIS_LABELS: dict[Axis, tuple[str, Callable[[float], str]]] = {
    "step": ("step", format_count),
    "tokens": ("tokens", format_count),
    "hours": ("h", format_value),
}


@dataclass
class Compared:
    """A run among others; its colour is its place, whatever else is shown."""

    session: Session
    colour: int

    def __post_init__(self) -> None:
        self.plots = PlotMaker(self.session)
        self._rekeyed: dict[tuple[int, Axis], tuple[Smoothable, Rekeyed]] = {}

    @property
    def name(self) -> str:
        """What the legend calls it."""
        return self.session.files.path.name

    def curve(self, spec: ChartSpec, choice: PlotChoice, axis: Axis) -> Curve | None:
        """The first curve of a chart, of this run alone: the first rank, or the median of all."""
        source = self.plots.source(spec)
        if source is None:
            return None
        over = source if axis == "step" else self._over(source, axis)
        line = self.plots.smoothed(over, choice.weight if spec.is_smoothed else 0.0)
        return Curve(self.name, line, colour=self.colour)

    def _over(self, source: Smoothable, axis: Axis) -> Rekeyed:
        known = self._rekeyed.get((id(source), axis))
        if known is None:
            # The source is kept too: the number of an object that is gone may be given to another.
            known = self._rekeyed[id(source), axis] = (source, Rekeyed(source, self._xs_of(axis)))
        return known[1]

    def _xs_of(self, axis: Axis) -> XsOfSteps:
        return self._tokens if axis == "tokens" else self._hours

    def _tokens(self) -> "tuple[array[float], array[float]]":
        """Tokens of the first rank until each step, times the ranks: packs are all but full on every one."""
        steps, counts = self._of_first("text_tokens")
        num_ranks = len(self.session.store.ranks)
        return steps, array("d", (num_ranks * total for total in accumulate(counts)))

    def _hours(self) -> "tuple[array[float], array[float]]":
        """Hours since the first step; a clock that was set back does not turn the curve round."""
        steps, times = self._of_first("timestamp")
        return steps, array("d", accumulate(((time - times[0]) / 3600 for time in times), max))

    def _of_first(self, key: str) -> "tuple[array[float], array[float]]":
        first = self.session.store.first_rank
        return (first.series.get(key, Series()) if first else Series()).samples()


def curves_of(runs: Sequence[Compared], spec: ChartSpec, choice: PlotChoice, axis: Axis) -> list[Curve]:
    """One curve for each run that says the key of the chart."""
    return [curve for run in runs if (curve := run.curve(spec, choice, axis))]
