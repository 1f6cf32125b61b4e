"""Which run a work dir means to `xtuner attach` and `xtuner stop`: one that goes on."""

import shlex
import time
from pathlib import Path

from xtuner.errors import UsageError
from xtuner.run.layout import RunDir, find_runs, require_work_dir
from xtuner.run.status import ALIVE_STATES, Status, read_status
from xtuner.run.supervision import judge_launch, read_supervision, supervised_runs


def require_live_runs(work_dir: Path) -> list[RunDir]:
    """The runs behind `work_dir` that `xtuner sft` launched and that go on, oldest first.

    Raises:
        UsageError: there is none; says how the newest one stands.
    """
    require_work_dir(work_dir)
    runs = supervised_runs(work_dir)
    if runs:
        return runs
    known = find_runs(work_dir)
    if not known:
        raise UsageError(f"{work_dir} holds no runs", hint="pass the --work-dir of a run")
    newest = known[-1]
    supervision = read_supervision(newest)
    status = read_status(newest)
    state = judge_launch(supervision, status, time.time())
    if state in ALIVE_STATES and status is not None:
        raise _not_ours(newest, status)
    ended = supervision.message if supervision and supervision.message else (status.message if status else "")
    raise UsageError(
        f"no run in {work_dir} goes on; the newest, {newest.name}, is {state}" + (f": {ended}" if ended else ""),
        hint=f"look at it with: xtuner monitor {shlex.quote(str(newest.path))}",
    )


def _not_ours(run_dir: RunDir, status: Status) -> UsageError:
    return UsageError(
        f"the run {run_dir.path} goes on, but was not launched by xtuner sft",
        hint=f"follow it with xtuner monitor; kill -TERM {status.pid} on {status.host} saves and stops it",
    )
