"""How a run goes, as text: a summary, or its lines as they come."""

import os
import shlex
import time
from pathlib import Path

from xtuner.cli import console
from xtuner.errors import TrainingFailed
from xtuner.run.discover import discover
from xtuner.run.figures import duration
from xtuner.run.health import Alert
from xtuner.run.layout import RunDir, find_runs, require_work_dir
from xtuner.run.status import END_STATES
from xtuner.run.summary import NUM_RECENT_LOSSES, RunSummary, rank_logs, summarise, summarise_files
from xtuner.run.supervision import state_of
from xtuner.run.tail import FileTail

_POLL_S = 0.5
# A network file system may be away for a moment.
_GONE_AFTER_S = 10.0
_MAX_RANKS_LISTED = 16
_ALERTS_EXIT_CODE = 1


def _exit_code(state: str) -> int:
    return TrainingFailed.exit_code if state in ("failed", "lost") else 0


def show_once(work_dir: Path, *, as_json: bool) -> int:
    """Say where the newest run stands; returns the exit code.

    Raises:
        UsageError, EnvironmentFault: as `discover`.
    """
    runs = discover(work_dir)
    summary = summarise_files(runs[-1], time.time()) if runs else RunSummary(run=None, state="waiting")
    if as_json:
        console.data_json(summary.to_json())
    elif not runs:
        console.data(f"state     waiting: {work_dir} holds no runs yet")
    else:
        console.data("\n".join(render(summary)))
    return _exit_code(summary.state) or (_ALERTS_EXIT_CODE if summary.alerts else 0)


def render(summary: RunSummary) -> list[str]:
    """The summary as lines of text, one subject a line."""
    percent = f" ({100 * summary.step / summary.total_steps:.1f} %)" if summary.total_steps else ""
    num_losses = min(NUM_RECENT_LOSSES, max(1, summary.step))
    loss, recent_loss = _number(summary.loss, ".3f"), _number(summary.recent_loss, ".3f")
    lines = [
        f"run       {summary.run}",
        f"state     {summary.state}",
        f"step      {summary.step}/{summary.total_steps}{percent}",
        f"time      {duration(summary.elapsed_s)} so far, {duration(summary.eta_s)} left",
        f"loss      {loss} (mean of the last {num_losses}: {recent_loss})",
        f"lr        {_number(summary.lr, '.6f')}",
        f"tokens/s  {_number(summary.tokens_per_s, '.1f')} over all ranks",
        f"memory    {_number(summary.max_memory_gib, '.2f')} GiB at most",
        f"ranks     {_render_ranks(summary.last_steps)}",
    ]
    if summary.message:
        lines.append(f"message   {summary.message}")
    return lines + [line for alert in summary.alerts for line in _render_alert(alert)]


def _render_alert(alert: Alert) -> list[str]:
    evidence = [f"          {line}" for line in alert.evidence.splitlines()]
    return [f"alert     {alert.level}: {alert.text}", *evidence, f"          hint: {alert.hint}"]


def _render_ranks(last_steps: dict[int, int]) -> str:
    if not last_steps:
        return "-"
    if len(last_steps) <= _MAX_RANKS_LISTED:
        return ", ".join(f"{rank}: step {step}" for rank, step in last_steps.items())
    behind = min(last_steps, key=lambda rank: last_steps[rank])
    newest = max(last_steps.values())
    return f"{len(last_steps)} ranks; step {newest} at most, step {last_steps[behind]} at least (rank {behind})"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def follow_newest(work_dir: Path) -> int:
    """Print what the first rank of the newest run says, until it ends; returns the exit code.

    Raises:
        UsageError, EnvironmentFault: as `require_work_dir`.
    """
    require_work_dir(work_dir)
    return _exit_code(_follow_to_end(work_dir))


def _follow_to_end(work_dir: Path) -> str:
    run_dir: RunDir | None = None
    try:
        run_dir = _wait_for_run(work_dir)
        console.say(f"following {run_dir.path} (Ctrl-C leaves, the run goes on)")
        state = _follow(run_dir)
        console.say(_closing_line(run_dir, state))
    except KeyboardInterrupt:
        if run_dir:
            console.say(f"left {run_dir.path}, {_closing_line(run_dir, state_of(run_dir, time.time()))}")
        return "left"
    return state


def _wait_for_run(work_dir: Path) -> RunDir:
    runs = find_runs(work_dir)
    if not runs:
        console.say(f"{work_dir} holds no runs yet, waiting for the first (Ctrl-C leaves)")
    while not runs:
        time.sleep(_POLL_S)
        runs = find_runs(work_dir)
    return runs[-1]


def _follow(run_dir: RunDir) -> str:
    """Print the first rank's lines as they come, until the run ends; returns its state."""
    tail: FileTail | None = None
    has_heading = False
    seen_at = time.monotonic()
    while True:
        state = state_of(run_dir, time.time())  # before the lines, so that none is missed
        if tail is None and (logs := rank_logs(run_dir)):
            tail = FileTail(logs[min(logs)])
        while tail and (lines := tail.read_lines()):
            if not has_heading:
                _say_whose_lines(run_dir)
                has_heading = True
            for line in lines:
                console.data(line)
        if os.path.isdir(run_dir.path):
            seen_at = time.monotonic()
        elif time.monotonic() - seen_at > _GONE_AFTER_S:
            return "lost"
        if state in (*END_STATES, "lost"):
            return state
        time.sleep(_POLL_S)


def _say_whose_lines(run_dir: RunDir) -> None:
    first, *others = rank_logs(run_dir)
    if others:
        path = shlex.quote(str(run_dir.path))
        console.say(
            f"these are the lines of rank {first}, of {1 + len(others)} ranks; all: xtuner monitor {path} --once"
        )


def _closing_line(run_dir: RunDir, state: str) -> str:
    summary = summarise(run_dir, time.time())
    loss = "" if summary.loss is None else f", loss {summary.loss:.3f}"
    after = "" if summary.elapsed_s is None else f", after {duration(summary.elapsed_s)}"
    message = f": {summary.message}" if summary.message else ""
    return f"the run is {state} at step {summary.step}/{summary.total_steps}{loss}{after}{message}"
