"""The cards: the numbers that matter, with how they change."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xtuner.run.series import Series
from xtuner.run.store import NUM_RECENT
from xtuner.tui.monitor.plots import PlotMaker
from xtuner.tui.monitor.session import Session
from xtuner.tui.widgets.axis import format_value
from xtuner.tui.widgets.card import Mood, Reading
from xtuner.tui.widgets.series_view import SeriesView

_NUM_COMPARED = 100
_CARD_WEIGHT = 0.9
_DATA_BOUND_SHARE = 0.3
_MEMORY_SHARE = 0.97


@dataclass(frozen=True)
class CardSpec:
    """One card: its title, what it reads, and what its sparkline shows."""

    title: str
    read: Callable[[Session, PlotMaker], Reading]
    view: Callable[[Session, PlotMaker], SeriesView | None]


def _loss_view(session: Session, plots: PlotMaker) -> SeriesView | None:
    series = _of_first(session, session.store.loss_key)
    return None if series is None else series


def _loss(session: Session, plots: PlotMaker) -> Reading:
    """The smoothed loss, and how it changed in the last hundred steps."""
    series = _of_first(session, session.store.loss_key)
    if not series:
        return Reading()
    newest = series.samples(-1)[1][0]
    if not math.isfinite(newest):
        return Reading(format_value(newest), mood="bad")
    smoothed = plots.smoothed(series, _CARD_WEIGHT)
    bounds = smoothed.x_range()
    now = smoothed.value_at(bounds[1]) if bounds else None
    if now is None:
        return Reading()
    before = smoothed.value_at(now[0] - _NUM_COMPARED)
    if before is None:
        return Reading(format_value(now[1]))
    change = now[1] - before[1]
    mood: Mood = "good" if change < 0 else ""
    return Reading(format_value(now[1]), f"{change:+.3f}", mood)


def _lr(session: Session, plots: PlotMaker) -> Reading:
    values = session.store.latest("lr")
    return Reading(format_value(values[min(values)])) if values else Reading()


def _throughput(session: Session, plots: PlotMaker) -> Reading:
    """Tokens a second of all ranks together."""
    rates = [rate for rate in session.store.latest("tgs").values() if math.isfinite(rate)]
    return Reading(f"{format_value(sum(rates))}/s") if rates else Reading()


def _step_time(session: Session, plots: PlotMaker) -> Reading:
    seconds = session.store.step_time_s()
    return Reading(f"{format_value(seconds)} s") if seconds is not None else Reading()


def _data_share(session: Session, plots: PlotMaker) -> Reading:
    waited, computed = (_recent_mean(_of_first(session, key)) for key in ("data_time", "time"))
    if waited is None or computed is None or waited + computed <= 0:
        return Reading()
    share = waited / (waited + computed)
    return Reading(f"{100 * share:.1f} %", mood="bad" if share > _DATA_BOUND_SHARE else "")


def _memory(session: Session, plots: PlotMaker) -> Reading:
    """The most of any rank now, the peak of the run, and what the device has."""
    now = [gib for gib in session.store.latest("max_memory").values() if math.isfinite(gib)]
    if not now:
        return Reading()
    limit_gib = session.facts.memory_limit_gib
    peak = max(_peak(rank.series["max_memory"]) for rank in session.store.ranks.values() if "max_memory" in rank.series)
    reserved = session.store.latest("reserved_memory").values()
    is_near = bool(limit_gib) and max([*now, *reserved]) > _MEMORY_SHARE * (limit_gib or math.inf)
    limit = f"/{limit_gib:.0f}" if limit_gib else ""
    return Reading(f"{max(now):.1f}{limit} GiB", f"peak {peak:.1f}", "bad" if is_near else "")


def _grad_norm(session: Session, plots: PlotMaker) -> Reading:
    values = session.store.latest("grad_norm")
    if not values:
        return Reading()
    newest = values[min(values)]
    return Reading(format_value(newest), mood="" if math.isfinite(newest) else "bad")


def _ranks(session: Session, plots: PlotMaker) -> Reading:
    """How many ranks are at the newest step."""
    store = session.store
    if not store.ranks:
        return Reading()
    num_there = sum((rank.last_step or 0) >= store.step - 1 for rank in store.ranks.values())
    mood: Mood = "" if num_there == len(store.ranks) else "bad"
    return Reading(f"{num_there}/{len(store.ranks)}", mood=mood, detail="at this step")


def _view(key: str) -> Callable[[Session, PlotMaker], SeriesView | None]:
    return lambda session, plots: plots.view(key)


CARDS: Sequence[CardSpec] = (
    CardSpec("loss", _loss, _loss_view),
    CardSpec("lr", _lr, lambda session, plots: _of_first(session, "lr")),
    CardSpec("tokens", _throughput, _view("tgs")),
    CardSpec("step", _step_time, _view("time")),
    CardSpec("data", _data_share, _view("data_time")),
    CardSpec("memory", _memory, _view("max_memory")),
    CardSpec("grad", _grad_norm, lambda session, plots: _of_first(session, "grad_norm")),
    CardSpec("ranks", _ranks, lambda session, plots: None),
)


def _of_first(session: Session, key: str | None) -> Series | None:
    first = session.store.first_rank
    return first.series.get(key) if first and key else None


def _recent_mean(series: Series | None) -> float | None:
    values = [value for value in series.samples(-NUM_RECENT)[1] if math.isfinite(value)] if series else []
    return sum(values) / len(values) if values else None


def _peak(series: Series) -> float:
    bounds = series.x_range()
    [column] = series.columns(*bounds, 1) if bounds else series.columns(0, 1, 1)
    return column.high if column.low <= column.high else 0.0
