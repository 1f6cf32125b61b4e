"""Where a run stands, in numbers, from the ends of its rank logs and its status: a pure reader."""

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xtuner.run.discover import files_of_run
from xtuner.run.health import Alert, find_alerts
from xtuner.run.layout import RunDir
from xtuner.run.logline import StepLine, parse, rank_from_name
from xtuner.run.metrics import without_infinities
from xtuner.run.series import median_of
from xtuner.run.status import ALIVE_STATES, END_STATES, Status, judge, read_status
from xtuner.run.tail import FileTail

NUM_RECENT_LOSSES = 20
_NUM_RECENT_TIMES = 50
_LOSS_KEYS = ("reduced_llm_loss", "total_loss", "loss")
# Only the ends of the logs are read: a step line has some 250 bytes, a log of a long run gigabytes.
_LEAD_BYTES = 2**20
_OTHER_BYTES = 2**16


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
    status = read_status(run_dir)
    state = judge(status, now)
    logs = rank_logs(run_dir)
    recent = _recent_steps(logs[min(logs)]) if logs else []
    last = {rank: line for rank, path in logs.items() if (line := _last_step(path, rank))}
    first = recent[-1] if recent else None
    losses = [loss for line in recent[-NUM_RECENT_LOSSES:] if (loss := _loss(line)) is not None]
    step, total_steps = _progress(first, status)
    return RunSummary(
        run=str(run_dir.path),
        state=state,
        step=step,
        total_steps=total_steps,
        eta_s=_eta_s(recent, total_steps - step) if state in (*ALIVE_STATES, "finished", "unknown") else None,
        elapsed_s=_elapsed_s(status, state, now),
        loss=losses[-1] if losses else None,
        recent_loss=sum(losses) / len(losses) if losses else None,
        lr=first.values.get("lr") if first else None,
        tokens_per_s=_sum(line.values.get("tgs") for line in last.values()),
        max_memory_gib=_max(line.values.get("max_memory") for line in (*recent, *last.values())),
        last_steps={rank: line.step for rank, line in last.items()},
        exit_code=status.exit_code if status else None,
        message=status.message if status else "",
        alerts=find_alerts(files_of_run(run_dir.path), now),
    )


def rank_logs(run_dir: RunDir) -> dict[int, Path]:
    """The text log of each rank, in the order of the ranks."""
    try:
        names = os.listdir(run_dir.logs)
    except OSError:
        return {}
    logs = {rank: run_dir.logs / name for name in names if (rank := rank_from_name(name)) is not None}
    return dict(sorted(logs.items()))


def _recent_steps(path: Path) -> list[StepLine]:
    """The last steps of a log; a run that went back to a checkpoint says steps again, the last word counts."""
    steps: list[StepLine] = []
    for line in map(parse, _read_end(path, _LEAD_BYTES)):
        if isinstance(line, StepLine):
            while steps and steps[-1].step >= line.step:
                steps.pop()
            steps.append(line)
    return steps[-_NUM_RECENT_TIMES:]


def _last_step(path: Path, rank: int) -> StepLine | None:
    lines = (parse(text, rank) for text in reversed(_read_end(path, _OTHER_BYTES)))
    return next((line for line in lines if isinstance(line, StepLine)), None)


def _read_end(path: Path, num_bytes: int) -> list[str]:
    return FileTail(path, last_bytes=num_bytes).read_lines(num_bytes)


def _progress(first: StepLine | None, status: Status | None) -> tuple[int, int]:
    if first:
        return first.step, first.total_steps
    return (status.step, status.total_steps) if status else (0, 0)


def _eta_s(recent: list[StepLine], num_steps_left: int) -> float | None:
    """The median time of the last steps, for each of those left: one slow step does not move it."""
    measured = [line.values["time"] + line.values.get("data_time", 0.0) for line in recent if "time" in line.values]
    median_s = median_of(measured)
    return None if math.isnan(median_s) else median_s * max(0, num_steps_left)


def _elapsed_s(status: Status | None, state: str, now: float) -> float | None:
    if status is None:
        return None
    # A run that ended or was lost stopped the clock with its last heartbeat.
    end = status.heartbeat_at if state in (*END_STATES, "lost") else now
    return max(0.0, end - status.started_at)


def _loss(line: StepLine) -> float | None:
    return next((line.values[key] for key in _LOSS_KEYS if key in line.values), None)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _max(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
