"""`xtuner monitor`: how a run goes, as text, from its files alone."""

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import typer

from xtuner.cli import console
from xtuner.errors import TrainingFailed, UsageError
from xtuner.run.layout import RunDir, find_runs
from xtuner.run.logline import StepLine, parse, rank_from_name
from xtuner.run.status import ALIVE_STATES, Status, judge, read_status
from xtuner.run.tail import FileTail

_POLL_S = 0.5
_RECENT = 20  # steps that recent means are taken over


@dataclass
class Reading:
    """What the rank logs of a run have said so far."""

    run_dir: RunDir
    tails: dict[int, FileTail] = field(default_factory=dict)
    last: dict[int, StepLine] = field(default_factory=dict)
    recent: deque[StepLine] = field(default_factory=lambda: deque(maxlen=_RECENT))  # of the first rank

    def read(self) -> list[str]:
        """Read on in all rank logs; returns the new lines of rank 0."""
        shown: list[str] = []
        for path in sorted(self.run_dir.logs.glob("rank*.log")):
            rank = rank_from_name(path)
            if rank is None:
                continue
            tail = self.tails.setdefault(rank, FileTail(path))
            while lines := tail.read_lines():
                shown += lines if rank == 0 else []
                for line in lines:
                    self._take(rank, parse(line, rank))
        return shown

    def _take(self, rank: int, line: object) -> None:
        if isinstance(line, StepLine):
            self.last[rank] = line
            if rank == 0:
                self.recent.append(line)


def command(
    work_dir: Path = typer.Argument(..., help="A work dir, or one run directory in it."),
    once: bool = typer.Option(False, "--once", help="Say where the newest run stands, and leave."),
    json: bool = typer.Option(False, "--json", help="The same as JSON."),
) -> None:
    """Follow the newest run of a work dir.

    Reads its files only: leaving never touches the run. Exit code 6 when the run failed or is lost.

    \b
    Example:
      xtuner monitor work_dirs --once
    """
    if not work_dir.is_dir():
        raise UsageError(f"there is no work dir {work_dir}", hint="pass the --work-dir of a run")
    runs = find_runs(work_dir)
    if (once or json) and not runs:
        raise UsageError(f"{work_dir} holds no runs", hint="without --once, monitor waits for one")
    reading = Reading(runs[-1] if runs else _wait_for_run(work_dir))
    if once or json:
        reading.read()
        summary = summarise(reading, read_status(reading.run_dir), time.time())
        console.data_json(summary) if json else console.data("\n".join(_render(summary)))
        state = summary["state"]
    else:
        state = _follow(reading)
    if state in ("failed", "lost"):
        raise typer.Exit(TrainingFailed.exit_code)


def summarise(reading: Reading, status: Status | None, now: float) -> dict[str, Any]:
    """A run in numbers: times in seconds, memory in GiB, tokens per second over all ranks."""
    last = [reading.last[rank] for rank in sorted(reading.last)]
    first = reading.recent[-1] if reading.recent else None
    times = [line.values.get("time", 0) + line.values.get("data_time", 0) for line in reading.recent]
    losses = [line.values["reduced_llm_loss"] for line in reading.recent if "reduced_llm_loss" in line.values]
    step, total = (first.step, first.total_steps) if first else (0, status.total_steps if status else 0)
    return {
        "run": str(reading.run_dir.path),
        "state": judge(status, now),
        "step": step,
        "total_steps": total,
        "eta_s": median(times) * (total - step) if times else None,
        "elapsed_s": (status.heartbeat_at - status.started_at) if status else None,
        "loss": losses[-1] if losses else None,
        "recent_loss": fmean(losses) if losses else None,
        "lr": first.values.get("lr") if first else None,
        "tokens_per_s": sum(line.values.get("tgs", 0) for line in last),
        "max_memory_gib": max((line.values.get("max_memory", 0) for line in last), default=None),
        "last_steps": {str(rank): reading.last[rank].step for rank in sorted(reading.last)},
        "message": status.message if status else "",
    }


def _render(summary: dict[str, Any]) -> list[str]:
    def number(key: str, pattern: str) -> str:
        return "-" if summary[key] is None else pattern.format(summary[key])

    steps = sorted(summary["last_steps"].items(), key=lambda item: int(item[0]))
    lines = [
        f"run       {summary['run']}",
        f"state     {summary['state']}",
        f"step      {summary['step']}/{summary['total_steps']}",
        f"loss      {number('loss', '{:.3f}')} (mean of the last {_RECENT}: {number('recent_loss', '{:.3f}')})",
        f"lr        {number('lr', '{:.6f}')}",
        f"tokens/s  {number('tokens_per_s', '{:.1f}')} over all ranks",
        f"memory    {number('max_memory_gib', '{:.2f}')} GiB at most",
        f"elapsed   {_duration(summary['elapsed_s'])}, left {_duration(summary['eta_s'])}",
        "ranks     " + (", ".join(f"{rank}: step {step}" for rank, step in steps) or "-"),
    ]
    return lines + ([f"message   {summary['message']}"] if summary["message"] else [])


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _wait_for_run(work_dir: Path) -> RunDir:
    console.say(f"{work_dir} holds no runs yet, waiting for one (Ctrl+C leaves)")
    while not (runs := find_runs(work_dir)):
        time.sleep(_POLL_S)
    return runs[-1]


def _follow(reading: Reading) -> str:
    """Print rank 0's lines until the run ends; returns the last state."""
    console.say(f"following {reading.run_dir.path} (Ctrl+C leaves, the run goes on)")
    try:
        while True:
            state = judge(read_status(reading.run_dir), time.time())  # before reading, so that no line is missed
            for line in reading.read():
                console.data(line)
            if state not in (*ALIVE_STATES, "unknown"):
                console.say(f"the run is {state}")
                return state
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return "left"
