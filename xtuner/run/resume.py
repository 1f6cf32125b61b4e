"""Which run and which checkpoint `--resume` means."""

from dataclasses import dataclass, replace
from pathlib import Path

from xtuner.errors import UsageError
from xtuner.run.checkpoints import Checkpoint, Skipped, checkpoint_at, newest_whole, verify
from xtuner.run.claim import newest_number, require_dead
from xtuner.run.layout import RunDir, find_runs, is_run_dir, list_runs
from xtuner.run.status import read_status

# Set by the launcher for its ranks: the seal of the checkpoint that was verified before they were started.
SEAL_VARIABLE = "XTUNER_CHECKPOINT_SEAL"


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes:
        run_dir: the run, whose logs and records are continued.
        checkpoint: whole, as read just now, or before by who knew its seal.
        skipped: newer checkpoints that are not whole.
        num_claims: the newest claim before the run was looked at: who goes on here makes the next one.
    """

    run_dir: RunDir
    checkpoint: Checkpoint
    skipped: tuple[Skipped, ...] = ()
    num_claims: int = 0


def find_resume_point(resume: str, work_dir: Path, known_seal: str = "") -> ResumePoint | None:
    """What `--resume` names; None for a run that begins anew.

    Args:
        resume: `none`, `auto`, or the path of a checkpoint, of a run directory, or of a work dir.
        work_dir: where `auto` looks: for the newest run that has a whole checkpoint and is not finished.
        known_seal: of the checkpoint that was found before; its files are not read again while it has that.

    Raises:
        UsageError: there is no whole checkpoint at the path.
        WorkDirInUse: somebody goes on with the run.
    """
    if resume == "none":
        return None
    if resume == "auto":
        found = _newest_in(list_runs(work_dir), known_seal)
    else:
        found = _at(Path(resume).expanduser(), known_seal)
    if found is None:
        return None
    require_dead(found.run_dir)
    return found


def resume_point_in(run_dir: RunDir, resume: str, known_seal: str = "") -> ResumePoint | None:
    """Where a run goes on that a launcher has found by `find_resume_point`, and claimed, or has just made.

    By now that could mean another run, and would take this one for being in use. `known_seal` is as there.

    Raises:
        UsageError: the checkpoint at the path is not whole.
    """
    if resume == "none":
        return None
    path = Path(resume).expanduser()
    return _at(path, known_seal) if resume != "auto" and checkpoint_at(path) else _newest_of(run_dir, known_seal)


def _newest_in(runs: list[RunDir], known_seal: str) -> ResumePoint | None:
    for run_dir in reversed(runs):
        num_claims = newest_number(run_dir)  # first of all: whoever goes on with it meanwhile makes this too small
        status = read_status(run_dir)
        if status and status.state == "finished":
            continue
        found = _newest_of(run_dir, known_seal)
        if found:
            return replace(found, num_claims=num_claims)
    return None


def _newest_of(run_dir: RunDir, known_seal: str) -> ResumePoint | None:
    checkpoint, skipped = newest_whole(run_dir, known_seal)
    return ResumePoint(run_dir, checkpoint, tuple(skipped)) if checkpoint else None


def _at(path: Path, known_seal: str) -> ResumePoint:
    named = checkpoint_at(path)
    if named and is_run_dir(path.absolute().parent.parent):
        run_dir = RunDir(path.absolute().parent.parent)
        num_claims = newest_number(run_dir)
        checkpoint, reason = verify(named, known_seal)
        if reason:
            raise UsageError(
                f"--resume {path}: this checkpoint cannot be used: {reason}",
                hint="pass the run directory instead: its newest whole checkpoint is taken",
            )
        return ResumePoint(run_dir, checkpoint, num_claims=num_claims)
    found = _newest_in(find_runs(path), known_seal)
    if found is None:
        raise UsageError(
            f"--resume {path}: no whole checkpoint of an unfinished run is there",
            hint="pass a directory like WORK_DIR/RUN/checkpoints/step-00000100, or the run directory above it",
        )
    return found
