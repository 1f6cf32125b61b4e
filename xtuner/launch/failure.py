"""Why a launch failed: the first rank that failed, found in what torchrun kept."""

import time
from pathlib import Path

from xtuner.errors import StoppedAndSaved, TrainingFailed, XTunerError, error_for_exit_code
from xtuner.launch.job import Job
from xtuner.launch.killed_ranks import run_dir_of
from xtuner.run.failure import RankFailure, failures_of, find_killed, find_killed_before_restart, first_failure
from xtuner.run.layout import RunDir
from xtuner.run.rank_place import read_places
from xtuner.run.status import read_status

# A rank elsewhere that was killed says nothing itself: its launcher looks five times a second, and leaves its note on a
# file system that may show it late.
_LET_OTHERS_SPEAK_S = 5.0
_LOOK_EVERY_S = 0.1


def await_notes(log_dir: Path, job: Job) -> bool:
    """Wait some seconds for the note of a rank elsewhere, where those here cannot tell; whether anything tells now.

    Args:
        log_dir: that of the attempt.
        job: the launch, whose torchrun has ended.
    """
    if not read_places(log_dir) and find_killed(job.read_torchrun_log()):
        return True  # before the ranks have met, none can end because of another one elsewhere
    until = time.monotonic() + (_LET_OTHERS_SPEAK_S if job.num_machines > 1 else 0.0)
    while _is_unexplained(first_failure(failures_of(log_dir, run_dir_of(job, log_dir)))):
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _is_unexplained(first: RankFailure | None) -> bool:
    return first is None or first.is_consequence


def explain_failure(log_dir: Path, torchrun_output: str, job: Job | None = None) -> XTunerError:
    """The error to show for a failed launch: that of the rank that failed by itself, with its exit code.

    The others fail because of it: their connections break, or torchrun ends them. They are asked last.

    Args:
        log_dir: the directory given to torchrun's `--log-dir`, or that of the attempt that is meant.
        torchrun_output: what torchrun itself printed; names the rank when that could leave no note (SIGKILL).
        job: has the notes of ranks on other machines; where memory ran out, options are sought with which it fits.
    """
    first = first_failure(failures_of(log_dir, run_dir_of(job, log_dir) if job else None))
    if _is_unexplained(first):
        first = find_killed(torchrun_output) or find_killed_before_restart(torchrun_output) or first
    if first:
        return _tell(first, log_dir, job)
    last = torchrun_output.strip().splitlines()[-1:] or ["it printed nothing"]
    return TrainingFailed(f"torchrun failed: {last[0]}", hint=f"its output is in {log_dir}")


def explain_stop(run_dir: RunDir, begun_at: float) -> StoppedAndSaved | None:
    """What the ranks of a launch that began at `begun_at` left when a signal let them save; None if none did."""
    status = read_status(run_dir)
    if status is None or status.heartbeat_at < begun_at or status.exit_code != StoppedAndSaved.exit_code:
        return None
    return StoppedAndSaved(status.message, hint=f"go on with the same command and --resume {run_dir.path}")


def _tell(failure: RankFailure, log_dir: Path, job: Job | None) -> XTunerError:
    if failure.exit_code != TrainingFailed.exit_code:
        return error_for_exit_code(failure.exit_code, failure.message, hint=failure.hint)
    return TrainingFailed(
        f"{failure.sentence}\n{failure.traceback_end}".rstrip(),
        hint=_with_advice(failure.hint or f"all output of the ranks is in {log_dir}", _advice(failure, job)),
    )


def _advice(failure: RankFailure, job: Job | None) -> str:
    if job is None or job.run_dir is None:
        return ""
    if failure.signal_name == "SIGKILL" and failure.is_here:
        # Here and below: it knows options, and who supervises a run for days stays small.
        from xtuner.launch.after_shortage import advice_after_kill

        return advice_after_kill(job.run_dir, nproc=job.num_ranks, nnodes=job.num_machines)
    if failure.needed_gib is None:
        return ""
    from xtuner.launch.after_shortage import advice_after_shortage

    nproc = failure.num_local_ranks
    nnodes = max(1, failure.num_ranks // nproc)
    return advice_after_shortage(job.run_dir, needed_gib=failure.needed_gib, nproc=nproc, nnodes=nnodes)


def _with_advice(hint: str, advice: str) -> str:
    return f"{hint}\n{advice}" if advice else hint
