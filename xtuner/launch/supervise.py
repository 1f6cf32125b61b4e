"""Start torchrun, follow rank 0, pass signals on, and say how it ended."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from xtuner.errors import StoppedAndSaved, StoppedNotSaved
from xtuner.launch.devices import threads_per_rank
from xtuner.launch.failure import explain_failure
from xtuner.launch.plan import LaunchPlan, torchrun_command
from xtuner.run.layout import RUN_DIR_VARIABLE, RunDir
from xtuner.run.status import read_status
from xtuner.run.tail import FileTail

_POLL_S = 0.2
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def run_to_end(plan: LaunchPlan, run_dir: RunDir | None, on_line: Callable[[str], None]) -> None:
    """Launch `plan` and wait for it.

    Args:
        plan: what to launch; its `log_dir` must be set.
        run_dir: the run directory on the machine with rank 0; None on the others, whose ranks are told by rank 0.
        on_line: gets each line of rank 0's log.

    Raises:
        XTunerError: the launch failed; the error is that of the first rank that failed.
    """
    assert plan.log_dir is not None, "failures are found in the captured output"
    environment = dict(os.environ)
    if run_dir:
        environment[RUN_DIR_VARIABLE] = str(run_dir.path.absolute())
    environment.setdefault("OMP_NUM_THREADS", str(threads_per_rank(plan.nproc_per_node)))
    plan.log_dir.mkdir(parents=True, exist_ok=True)
    output_path = plan.log_dir / "torchrun.log"
    log = _behind_what_is_there(FileTail(run_dir.rank_log(0))) if run_dir else None
    with output_path.open("wb") as output:
        # A session of its own: Ctrl-C then reaches the ranks once, through us, and not twice.
        process = subprocess.Popen(
            torchrun_command(plan),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    attempts = _AttemptLinks(plan.log_dir, run_dir) if run_dir else None
    with _passing_signals_on(process) as received:
        is_running = True
        while is_running:
            is_running = process.poll() is None  # before the look, so that the last lines are seen
            if log and attempts:
                attempts.refresh()
                while lines := log.read_lines():
                    for line in lines:
                        on_line(line)
            if is_running:
                time.sleep(_POLL_S)
    if process.returncode == 0:
        return
    status = read_status(run_dir) if run_dir else None
    if run_dir and status and status.state == "stopped" and status.exit_code == StoppedAndSaved.exit_code:
        raise StoppedAndSaved(status.message, hint=f"go on with the same command and --resume {run_dir.path}")
    if received:
        raise StoppedNotSaved(
            f"stopped by {signal.Signals(received[0]).name}; what was trained since the last checkpoint was not saved",
            hint="start again with --resume auto, which goes on from the last checkpoint if there is one",
        )
    raise explain_failure(plan.log_dir, output_path.read_text(encoding="utf-8", errors="backslashreplace"))


def _behind_what_is_there(log: FileTail) -> FileTail:
    """`log` read to its end: of a run that is resumed, what was said before is not said again."""
    while log.read_lines():
        pass
    return log


class _AttemptLinks:
    """torchrun hides its captures under a random name; `logs/attempt_0` leads there.

    The attempts of a run that is resumed are counted on.
    """

    def __init__(self, log_dir: Path, run_dir: RunDir) -> None:
        self._log_dir = log_dir
        self._run_dir = run_dir
        self._known: set[Path] = set()
        self._num_links = len(list(run_dir.logs.glob("attempt_*")))

    def refresh(self) -> None:
        """Link what is new."""
        for captured in sorted(set(self._log_dir.glob("*/attempt_*")) - self._known):
            self._known.add(captured)
            self._run_dir.attempt_logs(self._num_links).symlink_to(os.path.relpath(captured, self._run_dir.logs))
            self._num_links += 1


@contextmanager
def _passing_signals_on(process: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """Send signals that reach us on to torchrun, which sends them to its ranks; yields those received."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if process.poll() is None:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
