"""Which of several launches goes on with a run that all of them find dead at the same moment.

RUN/claims/00001.json, 00002.json ...    one file a launch that went on with the run; the newest one counts

A launch remembers the newest number before it looks at the run, and makes the file of the next number exclusively when
it has found the run dead. Of several that have seen the same only one can, on any file system and without a lock: the
others learn by that file that they have lost. A claim ends with its process. None is ever removed: with a number that
is given twice, a launch that was slow could go on from what it saw long ago.
"""

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from xtuner.errors import EnvironmentFault, WorkDirInUse
from xtuner.run.atomic import read_object
from xtuner.run.faults import point
from xtuner.run.layout import RunDir
from xtuner.run.process import ProcessIdentity, this_process
from xtuner.run.status import ALIVE_STATES, LOST_AFTER_S, judge, read_status
from xtuner.run.supervision import STARTS_WITHIN_S, is_supervised, read_supervision

_NAME = re.compile(r"([0-9]{5,})\.json")


@dataclass(frozen=True)
class Claim:
    """A launch that has said that it goes on with a run.

    Attributes:
        number: counted from 1.
        at: seconds since the epoch.
        process: who has said it; None while that is being written, or if its writer died over it.
    """

    number: int
    at: float
    process: ProcessIdentity | None

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host}" if self.process else "another process"


def newest_claim(run_dir: RunDir) -> Claim | None:
    """The claim that counts; None for a run that was never gone on with."""
    number = newest_number(run_dir)
    path = _path(run_dir, number)
    if number == 0:
        return None
    values = read_object(path)
    host, pid, born, at = (values.get(name) for name in ("host", "pid", "born", "at"))
    if isinstance(host, str) and isinstance(pid, int) and isinstance(born, str) and isinstance(at, int | float):
        return Claim(number, float(at), ProcessIdentity(host, pid, born))
    try:
        return Claim(number, path.stat().st_mtime, None)
    except OSError:
        return None  # its writer could not write it, and took it back


def newest_number(run_dir: RunDir) -> int:
    """The number of the newest claim; 0 without one."""
    try:
        names = os.listdir(run_dir.claims)
    except OSError:
        return 0
    return max((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), default=0)


def claim_run(run_dir: RunDir, seen: int) -> int:
    """Claim the run for this process; the number of the claim.

    Args:
        run_dir: a run that was found dead.
        seen: the newest number before the run was looked at.

    Raises:
        WorkDirInUse: another launch was faster.
        EnvironmentFault: the run directory cannot be written.
    """
    path = _path(run_dir, seen + 1)
    point("claim.pre")
    try:
        run_dir.claims.mkdir(exist_ok=True)
        _write_exclusively(path, json.dumps({**asdict(this_process()), "at": time.time()}))
    except FileExistsError:
        raise _in_use(run_dir, f"{newest_claim(run_dir) or 'another process'} was faster to go on with it") from None
    except OSError as error:
        raise EnvironmentFault(
            f"{run_dir.claims} cannot be written: {error.strerror}", hint="check its permissions and the free disk"
        ) from None
    return seen + 1


def take_over_claim(run_dir: RunDir, number: int) -> None:
    """Let the claim that another process has made for this one be this one's own; nothing if it is that already.

    Raises:
        WorkDirInUse, EnvironmentFault: see `claim_run`.
    """
    claim = newest_claim(run_dir)
    if claim is None or claim.process != this_process():
        claim_run(run_dir, number)


def require_dead(run_dir: RunDir) -> None:
    """Check that nobody goes on with the run: its ranks, the process that looks after it, or one that has claimed it.

    Raises:
        WorkDirInUse: somebody does.
    """
    state = judge(read_status(run_dir), time.time())
    if state in ALIVE_STATES:
        raise _in_use(run_dir, f"it is {state}")
    if is_supervised(run_dir):  # its ranks may have written nothing yet
        raise _in_use(run_dir, "it is being started or goes on")
    claim = newest_claim(run_dir)
    if claim and _is_held(run_dir, claim):
        raise _in_use(run_dir, f"{claim} goes on with it")


def _is_held(run_dir: RunDir, claim: Claim) -> bool:
    """Whether a process other than this one holds `claim`, as far as this machine can know."""
    process, age_s = claim.process, time.time() - claim.at
    if process is None:
        return age_s <= LOST_AFTER_S
    if process.is_here:
        return process.is_alive and process != this_process()
    supervision, status = read_supervision(run_dir), read_status(run_dir)
    if supervision and supervision.process == process:
        return is_supervised(run_dir)
    if status and (status.host, status.pid) == (process.host, process.pid):
        return judge(status, time.time()) in ALIVE_STATES
    return age_s <= STARTS_WITHIN_S


def _write_exclusively(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            point("claim.made")
            file.write(text)
    except BaseException:
        path.unlink(missing_ok=True)  # nothing was done in its name yet
        raise


def _path(run_dir: RunDir, number: int) -> Path:
    return run_dir.claims / f"{number:05d}.json"


def _in_use(run_dir: RunDir, why: str) -> WorkDirInUse:
    return WorkDirInUse(
        f"the run {run_dir.path} is in use: {why}; two launches must not write to it",
        hint=f"look at it with: xtuner monitor {run_dir.path}",
    )
