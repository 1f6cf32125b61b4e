"""A launch that goes on by itself: its supervising process has no terminal, and outlives whoever started it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from xtuner.errors import EnvironmentFault
from xtuner.launch.job import Job, write_job
from xtuner.launch.plan import LaunchPlan
from xtuner.run.layout import RunDir
from xtuner.run.supervision import read_supervision

if TYPE_CHECKING:
    from xtuner.data.prepare import Progress

_SUPERVISOR = Path(__file__).resolve().parent / "entry" / "supervisor.py"
_POLL_S = 0.05
# Kept so that each is asked how it ended: a process that nobody asks stays in the table as a zombie.
_started: list["subprocess.Popen[bytes]"] = []


def launch_detached(plan: LaunchPlan, on_progress: "Callable[[Progress], None] | None" = None) -> RunDir:
    """Prepare the data of `plan`, start it in a process of its own, and return its run directory.

    The run can be found and stopped when this returns. On a machine without rank 0 the directory is that machine's
    own, and holds its ranks' output alone.

    Raises:
        XTunerError: see `prepare_job`.
        EnvironmentFault: the supervising process did not start.
    """
    from xtuner.launch.prepare import prepare_job

    return start_detached(prepare_job(plan, on_progress))


def start_detached(job: Job) -> RunDir:
    """Start the process that supervises `job`, and wait until it does.

    Raises:
        EnvironmentFault: it ended at once.
    """
    job_file = write_job(job)
    with job.supervisor_log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(_SUPERVISOR), str(job_file.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # no terminal that could close, no Ctrl-C meant for others
        )
    _started.append(process)
    while not _supervises(process.pid, job.home):
        if process.poll() is not None and not _supervises(process.pid, job.home):
            raise EnvironmentFault(
                f"the supervising process ended with exit code {process.returncode}: {_last_words(job)}",
                hint=f"all it said is in {job.supervisor_log}",
            )
        time.sleep(_POLL_S)
    return job.home


def _supervises(pid: int, home: RunDir) -> bool:
    supervision = read_supervision(home)
    return supervision is not None and supervision.pid == pid


def _last_words(job: Job) -> str:
    """The error it ended with, or whatever it said last."""
    said = job.supervisor_log.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    errors = [line.partition("error: ")[2] for line in said if "error: " in line]
    return (errors or said or ["it said nothing"])[-1]
