"""Which run and which checkpoint `--resume` means."""

import time
from dataclasses import dataclass
from pathlib import Path

from xtuner.errors import UsageError, WorkDirInUse
from xtuner.run.checkpoints import Checkpoint, Skipped, checkpoint_at, fault_of, newest_whole
from xtuner.run.layout import RunDir, find_runs, is_run_dir, list_runs
from xtuner.run.status import ALIVE_STATES, judge, read_status


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes:
        run_dir: the run, whose logs and records are continued.
        checkpoint: whole, as read just now.
        skipped: newer checkpoints that are not whole.
    """

    run_dir: RunDir
    checkpoint: Checkpoint
    skipped: tuple[Skipped, ...] = ()


def find_resume_point(resume: str, work_dir: Path) -> ResumePoint | None:
    """What `--resume` names; None for a run that begins anew.

    Args:
        resume: `none`, `auto`, or the path of a checkpoint, of a run directory, or of a work dir.
        work_dir: where `auto` looks: for the newest run that has a whole checkpoint and is not finished.

    Raises:
        UsageError: there is no whole checkpoint at the path.
        WorkDirInUse: the run is alive.
    """
    if resume == "none":
        return None
    found = _newest_in(list_runs(work_dir)) if resume == "auto" else _at(Path(resume).expanduser())
    if found is None:
        return None
    state = judge(read_status(found.run_dir), time.time())
    if state in ALIVE_STATES:
        raise WorkDirInUse(
            f"the run {found.run_dir.path} is {state}: two runs must not write to it",
            hint=f"look at it with: xtuner monitor {found.run_dir.path}",
        )
    return found


def _newest_in(runs: list[RunDir]) -> ResumePoint | None:
    for run_dir in reversed(runs):
        if judge(read_status(run_dir), time.time()) == "finished":
            continue
        checkpoint, skipped = newest_whole(run_dir)
        if checkpoint:
            return ResumePoint(run_dir, checkpoint, tuple(skipped))
    return None


def _at(path: Path) -> ResumePoint:
    checkpoint = checkpoint_at(path)
    if checkpoint and is_run_dir(path.absolute().parent.parent):
        reason = fault_of(checkpoint)
        if reason:
            raise UsageError(
                f"--resume {path}: this checkpoint cannot be used: {reason}",
                hint="pass the run directory instead: its newest whole checkpoint is taken",
            )
        return ResumePoint(RunDir(path.absolute().parent.parent), checkpoint)
    found = _newest_in(find_runs(path))
    if found is None:
        raise UsageError(
            f"--resume {path}: no whole checkpoint of an unfinished run is there",
            hint="pass a directory like WORK_DIR/RUN/checkpoints/step-00000100, or the run directory above it",
        )
    return found
