"""What a path is, to someone who wants to watch a run: which runs it leads to, and where their files are."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.run.layout import RunDir, find_runs, is_run_dir, list_runs, require_work_dir
from xtuner.run.logline import rank_from_name

_CONSOLE_HEAD_BYTES = 2**20
_ATTEMPT = re.compile(r"attempt_[0-9]{1,9}")
_HINT = "pass the --work-dir of a run, a run directory, a directory of rank*.log files, or a log file"


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, as they were when it was looked at; `look_again` finds those that came since.

    Attributes:
        path: the run directory, the directory of the logs, or the log file.
        kind: `run`, `logs` or `console`.
        logs: text log by rank; a console, where the lines of all ranks are mixed, has the rank None.
        metrics: records with full precision by rank, where there are such.
        attempts: what torchrun captured of the ranks, one directory an attempt, in their order.
    """

    path: Path
    kind: str
    logs: dict[int | None, Path]
    metrics: dict[int, Path]
    attempts: tuple[Path, ...] = ()

    @property
    def run_dir(self) -> RunDir | None:
        """The run directory, where there is one."""
        return RunDir(self.path) if self.kind == "run" else None

    def look_again(self) -> "RunFiles":
        """The files that are there now; a path that is gone has none."""
        return _FINDERS[self.kind](self.path)


def discover(path: Path) -> list[RunFiles]:
    """The runs behind `path`, oldest first; none for a directory that holds none yet.

    A path may be a work dir, of ours or of an older XTuner (`<timestamp>/logs/rank*.log`), a run directory or its
    `logs`, a bare directory of `rank*.log` or `rank_*.log`, or a console log with the lines of all ranks.

    Raises:
        UsageError: there is nothing of that name, or a file that is no log of a run.
        EnvironmentFault: it cannot be read.
    """
    if _is_file(path):
        return [_console(path)]
    require_work_dir(path)
    if path.name == "logs" and is_run_dir(path.absolute().parent):
        path = path.absolute().parent
    runs = _runs_of(path)
    if runs:
        return [files_of_run(run.path) for run in runs]
    bare = _bare_logs(path)
    return [bare] if bare.logs else []


def _runs_of(path: Path) -> list[RunDir]:
    ours = list_runs(path)
    names = {run.name for run in ours}
    try:
        children = [child for child in path.iterdir() if child.name not in names]
    except OSError:
        children = []
    older = [RunDir(child) for child in children if _has_rank_logs(child / "logs")]
    return sorted(ours + older, key=lambda run: run.name) or find_runs(path)


def _has_rank_logs(directory: Path) -> bool:
    return any(rank_from_name(name) is not None for name in _names(directory))


def _is_file(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # missing, or no path at all: `require_work_dir` says it
        return False
    if stat.S_ISDIR(mode):
        return False
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is neither a directory nor a regular file", hint=_HINT)
    try:
        with path.open("rb") as file:
            head = file.read(_CONSOLE_HEAD_BYTES)
    except OSError as error:
        raise EnvironmentFault(
            f"{path} cannot be read: {error.strerror}", hint=f"check it with: ls -l {path}"
        ) from None
    if head and b"[XTuner]" not in head:
        raise UsageError(f"{path} is no log of a run: its first megabyte has no [XTuner] line", hint=_HINT)
    return True


def _console(path: Path) -> RunFiles:
    return RunFiles(path, "console", {rank_from_name(path): path}, {})


def _bare_logs(path: Path) -> RunFiles:
    return RunFiles(path, "logs", _rank_logs(path), {})


def files_of_run(path: Path) -> RunFiles:
    """The files of the run directory `path`, of ours or of an older XTuner; none where it is gone."""
    run = RunDir(path)
    metrics = {rank: run.metrics / name for name in _names(run.metrics) if (rank := _rank_of_metrics(name)) is not None}
    if not metrics:
        # An older XTuner: logs/exp_tracking/rank3/tracker.jsonl, written out every half minute.
        tracked = run.logs / "exp_tracking"
        folders = {rank_from_name(f"{name}.log"): tracked / name / "tracker.jsonl" for name in _names(tracked)}
        metrics = {rank: file for rank, file in folders.items() if rank is not None and os.path.isfile(file)}
    attempts = sorted((name for name in _names(run.logs) if _ATTEMPT.fullmatch(name)), key=lambda name: int(name[8:]))
    return RunFiles(
        path, "run", _rank_logs(run.logs), dict(sorted(metrics.items())), tuple(run.logs / name for name in attempts)
    )


def _rank_of_metrics(name: str) -> int | None:
    return rank_from_name(f"{name.removesuffix('.jsonl')}.log") if name.endswith(".jsonl") else None


def _rank_logs(directory: Path) -> dict[int | None, Path]:
    found = {rank: directory / name for name in _names(directory) if (rank := rank_from_name(name)) is not None}
    return dict(sorted(found.items()))


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


_FINDERS = {"run": files_of_run, "logs": _bare_logs, "console": _console}
