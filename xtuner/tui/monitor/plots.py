"""Which charts there are, and the curves of each, from what a run has said."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal, Protocol

from xtuner.run.derived import Band as RankBand
from xtuner.run.derived import Smoothed, Source
from xtuner.run.series import Series
from xtuner.run.store import LOSS_KEYS, RunStore
from xtuner.tui.monitor.session import Session
from xtuner.tui.widgets.level import Level
from xtuner.tui.widgets.plot import Band, Curve, Marker
from xtuner.tui.widgets.series_view import SeriesView

SMOOTHING_WEIGHTS = (0.0, 0.6, 0.9, 0.97, 0.99)
_MAX_MARKERS = 200
_MAX_OTHER_CHARTS = 24


class Smoothable(Source, SeriesView, Protocol):
    """A series, or an edge of a band."""


@dataclass(frozen=True)
class ChartSpec:
    """One chart.

    Attributes:
        keys: whose values it shows, by their names in the chart; of the keys of a loss, the first that the run has.
        is_global: the ranks say the same, or the first one speaks for all.
        is_smoothed: whether it swings from step to step, so that its mean tells more.
    """

    id: str
    title: str
    keys: tuple[tuple[str, str], ...]
    unit: str = ""
    is_global: bool = False
    is_smoothed: bool = True
    best: Literal["low", "high"] | None = None


CHARTS = (
    ChartSpec("loss", "loss", (("train", "loss"),), "nats", is_global=True, best="low"),
    ChartSpec("memory", "memory", (("peak", "max_memory"), ("reserved", "reserved_memory")), "GiB", is_smoothed=False),
    ChartSpec("throughput", "throughput a rank", (("tgs", "tgs"),), "tokens/s"),
    ChartSpec("grad-norm", "gradient norm", (("grad_norm", "grad_norm"),), is_global=True),
    ChartSpec("lr", "learning rate", (("lr", "lr"),), is_global=True, is_smoothed=False),
    ChartSpec("time", "step and data time", (("step", "time"), ("data", "data_time")), "s"),
)
# Shown in charts above, or no number to look at over time.
_NOT_CHARTED = {
    *LOSS_KEYS[:2],
    *(key for spec in CHARTS for _, key in spec.keys),
    "timestamp",
    "text_tokens",
    "eta",
    "skipped",
}


def other_charts(store: RunStore) -> list[ChartSpec]:
    """A chart for each key that none of `CHARTS` shows."""
    said = store.keys()
    keys = [key for key in said if key not in _NOT_CHARTED and key != store.loss_key]
    return [ChartSpec(f"key-{place}", key, ((key, key),)) for place, key in enumerate(keys[:_MAX_OTHER_CHARTS])]


@dataclass
class PlotChoice:
    """What the user chose to see.

    Attributes:
        weight: of the smoothing.
        rank: this one alone; None for the band over all.
    """

    weight: float = 0.9
    rank: int | None = None


class PlotMaker:
    """Makes the curves of a run's charts and cards; what is smoothed is kept until the charts have another weight.

    Args:
        session: the run.
        waits: whether bands are drawn however long that takes; else the first rank stands for all meanwhile.
    """

    def __init__(self, session: Session, *, waits: bool = False) -> None:
        self._session = session
        self._waits = waits
        self._store = session.store
        self._smoothed: dict[tuple[int, float], tuple[Source, Smoothed]] = {}
        self._weight = 0.0

    def curves(self, spec: ChartSpec, choice: PlotChoice) -> list[Curve]:
        """The curves of a chart."""
        if choice.weight != self._weight:
            self._smoothed.clear()
            self._weight = choice.weight
        curves = [curve for name, key in spec.keys if (curve := self._curve(spec, name, self._key(key), choice))]
        if spec.id == "loss" and len(self._session.evaluations):
            curves.append(Curve("evaluation", self._session.evaluations))
        estimate_gib = self._session.record.get("memory_estimate_gib")
        if spec.id == "memory" and curves and isinstance(estimate_gib, int | float) and isfinite(estimate_gib):
            curves.append(Curve("estimate", Level(estimate_gib, curves[0].line), is_level=True))
        return curves

    def source(self, spec: ChartSpec) -> Smoothable | None:
        """What one curve alone shows of a chart: the first rank, or the median of all."""
        key = self._key(spec.keys[0][1])
        return self._first(key) if spec.is_global else self.view(key)

    def view(self, key: str) -> Smoothable | None:
        """The values of the first rank, or the median of all, for a sparkline."""
        band = self._band(key)
        return self._first(key) if band is None else band.median

    def smoothed(self, source: Smoothable, weight: float) -> SeriesView:
        """The source, smoothed; the source itself for a weight of 0."""
        if weight == 0:
            return source
        known = self._smoothed.get((id(source), weight))
        if known is None:
            # The source is kept too: the number of an object that is gone may be given to another.
            known = self._smoothed[id(source), weight] = (source, Smoothed(source, weight))
        return known[1]

    def _key(self, key: str) -> str:
        return (self._store.loss_key or key) if key == "loss" else key

    def _band(self, key: str) -> RankBand | None:
        """The band over the ranks; None while the first rank stands for all.

        That is while pasts are read, as each part of another's would change all of the band, and until it is
        computed, which the session does a little at a time.
        """
        num_said = sum(key in rank.series for rank in self._store.ranks.values())
        if len(self._store.ranks) < 2 or not num_said or not self._session.has_past:
            return None
        band = self._store.band(key)
        return band if self._waits or band.is_near else None

    def _first(self, key: str) -> Series | None:
        first = self._store.first_rank
        return first.series.get(key) if first else None

    def _curve(self, spec: ChartSpec, name: str, key: str, choice: PlotChoice) -> Curve | None:
        weight = choice.weight if spec.is_smoothed else 0.0
        band = self._band(key) if choice.rank is None and not spec.is_global else None
        if band is not None:
            drawn = Band(band.low, band.high) if key == spec.keys[0][1] else None
            return Curve(name, self.smoothed(band.median, weight), band=drawn)
        series = self._store.series(choice.rank, key) if choice.rank is not None else self._first(key)
        if series is None:
            return None
        return Curve(name, self.smoothed(series, weight), envelope=series if weight else None)


def markers(session: Session) -> list[Marker]:
    """Checkpoints (C), exports (X), restarts (R) and evaluations (E), the newest of them."""
    store = session.store
    found = [Marker(artifact.step, "C" if artifact.kind == "checkpoint" else "X") for artifact in store.artifacts]
    found += [Marker(step, "E") for step in store.evaluations]
    found += [Marker(step, "R") for step in restarts(session)]
    return sorted(found, key=lambda marker: marker.x)[-_MAX_MARKERS:]


def restarts(session: Session) -> Sequence[float]:
    """The steps after which the run was resumed, by its record, or where the logs of a rank go back."""
    resumed = session.record.get("resumed")
    entries = resumed if isinstance(resumed, list) else []
    steps = [entry.get("after_step") for entry in entries if isinstance(entry, dict)]
    told = {float(step) for step in steps if isinstance(step, int)}
    return sorted(told or {rewind.to_step - 1 for rewind in session.store.rewinds})
