"""Where a run stands, in numbers, from the ends of its rank logs and its status: a pure reader."""

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xtuner.run.discover import RunFiles, files_of_run
from xtuner.run.feed import Feed
from xtuner.run.health import Alert, Health
from xtuner.run.layout import RunDir
from xtuner.run.logline import rank_from_name
from xtuner.run.metrics import without_infinities
from xtuner.run.status import ALIVE_STATES
from xtuner.run.store import NUM_RECENT, RunStore
from xtuner.run.supervision import elapsed_s

NUM_RECENT_LOSSES = 20


@dataclass(frozen=True)
class RunSummary:
    """One moment of a run; None stands for what is not known.

    Times in seconds, memory in GiB. Step, losses, learning rate and step times are those of the first rank,
    `tokens_per_s` is the sum over all ranks, `max_memory_gib` their maximum.
    """

    run: str | None
    state: str
    step: int = 0
    total_steps: int = 0
    eta_s: float | None = None
    elapsed_s: float | None = None
    loss: float | None = None
    recent_loss: float | None = None
    lr: float | None = None
    tokens_per_s: float | None = None
    max_memory_gib: float | None = None
    last_steps: dict[int, int] = field(default_factory=dict)
    exit_code: int | None = None
    message: str = ""
    alerts: list[Alert] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The summary for `json.dumps`; a loss that is not a number is "nan", "inf" or "-inf"."""
        values: dict[str, Any] = without_infinities(asdict(self))
        return values


def summarise(run_dir: RunDir, now: float) -> RunSummary:
    """The run at `now`, in seconds since the epoch; files that are missing or broken leave their fields empty."""
    return summarise_files(files_of_run(run_dir.path), now)


def summarise_files(files: RunFiles, now: float) -> RunSummary:
    """The same for a run of any kind, as `xtuner.run.discover` finds them; only the ends of its files are read."""
    store = read_newest(files, now)
    status, state = store.status, store.state
    first = store.first_rank
    losses = first.series[store.loss_key].samples(-NUM_RECENT_LOSSES)[1] if first and store.loss_key else []
    step, total_steps = _progress(store)
    return RunSummary(
        run=str(files.path),
        state=state,
        step=step,
        total_steps=total_steps,
        eta_s=_eta_s(store, total_steps - step) if state in (*ALIVE_STATES, "finished", "unknown") else None,
        elapsed_s=elapsed_s(store.launch, status, state, now),
        loss=losses[-1] if losses else None,
        recent_loss=sum(losses) / len(losses) if losses else None,
        lr=store.latest("lr").get(min(store.ranks)) if store.ranks else None,
        tokens_per_s=sum(rates.values()) if (rates := store.latest("tgs")) else None,
        max_memory_gib=max(_recent_memory(store), default=None),
        last_steps={rank: int(steps.last_step) for rank, steps in sorted(store.ranks.items()) if steps.last_step},
        exit_code=status.exit_code if status else None,
        message=status.message if status else "",
        alerts=Health(store).check(now),
    )


def read_newest(files: RunFiles, now: float) -> RunStore:
    """The store of a run after the newest part of each of its files was read."""
    feed, store = Feed(files), RunStore(files)
    while not feed.has_newest:
        store.apply(feed.poll(), now)
    store.refresh(now)
    return store


def rank_logs(run_dir: RunDir) -> dict[int, Path]:
    """The text log of each rank, in the order of the ranks."""
    try:
        names = os.listdir(run_dir.logs)
    except OSError:
        return {}
    logs = {rank: run_dir.logs / name for name in names if (rank := rank_from_name(name)) is not None}
    return dict(sorted(logs.items()))


def _progress(store: RunStore) -> tuple[int, int]:
    first, status = store.first_rank, store.status
    if first and first.last_step is not None:
        return int(first.last_step), store.total_steps
    return (status.step, status.total_steps) if status else (0, 0)


def _eta_s(store: RunStore, num_steps_left: int) -> float | None:
    step_time_s = store.step_time_s()
    return None if step_time_s is None else step_time_s * max(0, num_steps_left)


def _recent_memory(store: RunStore) -> list[float]:
    """The peaks of the last steps of all ranks."""
    series = [rank.series["max_memory"] for rank in store.ranks.values() if "max_memory" in rank.series]
    return [value for peaks in series for value in peaks.samples(-NUM_RECENT)[1] if math.isfinite(value)]
