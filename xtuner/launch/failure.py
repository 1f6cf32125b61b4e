"""Why a launch failed: the first rank that failed, found in what torchrun kept."""

from pathlib import Path

from xtuner.errors import StoppedAndSaved, TrainingFailed, XTunerError, error_for_exit_code
from xtuner.run.failure import RankFailure, failures_of, find_killed, find_killed_before_restart, first_failure
from xtuner.run.layout import RunDir
from xtuner.run.status import read_status


def explain_failure(log_dir: Path, torchrun_output: str, run_dir: RunDir | None = None) -> XTunerError:
    """The error to show for a failed launch: that of the rank that failed by itself, with its exit code.

    The others fail because of it: their connections break, or torchrun ends them. They are asked last.

    Args:
        log_dir: the directory given to torchrun's `--log-dir`, or that of the attempt that is meant.
        torchrun_output: what torchrun itself printed; names the rank when that could leave no note (SIGKILL).
        run_dir: where ranks on other machines have left theirs.
    """
    first = first_failure(failures_of(log_dir, run_dir))
    if first and not first.is_consequence:
        return _tell(first, log_dir)
    killed = _explain_silent_death(log_dir, torchrun_output)
    if killed:
        return killed
    if first:
        return _tell(first, log_dir)
    last = torchrun_output.strip().splitlines()[-1:] or ["it printed nothing"]
    return TrainingFailed(f"torchrun failed: {last[0]}", hint=f"its output is in {log_dir}")


def explain_stop(run_dir: RunDir, begun_at: float) -> StoppedAndSaved | None:
    """What the ranks of a launch that began at `begun_at` left when a signal let them save; None if none did."""
    status = read_status(run_dir)
    if status is None or status.heartbeat_at < begun_at or status.exit_code != StoppedAndSaved.exit_code:
        return None
    return StoppedAndSaved(status.message, hint=f"go on with the same command and --resume {run_dir.path}")


def _tell(failure: RankFailure, log_dir: Path) -> XTunerError:
    if failure.exit_code != TrainingFailed.exit_code:
        return error_for_exit_code(failure.exit_code, failure.message, hint=failure.hint)
    return TrainingFailed(
        f"{failure.sentence}\n{failure.traceback_end}".rstrip(),
        hint=failure.hint or f"all output of the ranks is in {log_dir}",
    )


def _explain_silent_death(log_dir: Path, torchrun_output: str) -> XTunerError | None:
    killed = find_killed(torchrun_output) or find_killed_before_restart(torchrun_output)
    if killed is None:
        return None
    hint = killed.hint or f"all output of the ranks is in {log_dir}"
    return TrainingFailed(killed.sentence, hint=hint)
