"""Launches of the same run on other machines: where one ends before the ranks have met, those here wait for very long.

Later they notice by themselves that their connections break.
"""

import time
from pathlib import Path

from xtuner.errors import XTunerError, error_for_exit_code
from xtuner.launch.job import NODES, Job
from xtuner.run.layout import RunDir, list_runs
from xtuner.run.rank_place import read_places
from xtuner.run.supervision import read_supervision

_Launch = tuple[Path, float]  # where its files are, and when it began
_LOOK_EVERY_S = 2.0
# Ranks that had met after all have said so by then.
_PATIENCE_S = 10.0


class Peers:
    """Looks whether a launch that meets this one at the same address ends while the ranks here wait for its own.

    With `--max-restarts` nothing is looked at: a machine that died may come back.

    Attributes:
        error: why this launch must end too; None while it need not.
    """

    def __init__(self, job: Job) -> None:
        self.error: XTunerError | None = None
        self._job = job
        self._is_needed = job.num_machines > 1 and job.max_restarts == 0
        self._looked_at = 0.0
        self._before: set[_Launch] = set()
        self._found: tuple[float, XTunerError] | None = None

    def look(self, attempt: Path | None) -> None:
        """Look, if it is time to; `attempt` has what torchrun captures of the ranks here, None before it starts any."""
        now = time.monotonic()
        if not self._is_needed or now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        if attempt is None:
            # Other launches, or ended before those here met anybody. No clock is asked: machines may have several.
            self._before = set(self._ended())
        elif read_places(attempt):
            self._is_needed = False
        elif self._found is None:
            error = self.ended()
            self._found = (now, error) if error else None
        elif now - self._found[0] >= _PATIENCE_S:
            self.error = self._found[1]

    def ended(self) -> XTunerError | None:
        """Why another launch has ended before the ranks had met; None where none has, or they had."""
        if not self._is_needed:
            return None
        return next((error for launch, error in self._ended().items() if launch not in self._before), None)

    def _ended(self) -> dict[_Launch, XTunerError]:
        """The launches of other machines at the same address that have ended badly."""
        found: dict[_Launch, XTunerError] = {}
        for home in _homes(self._job):
            known = read_supervision(home)
            if known and known.exit_code and known.meeting == self._job.meeting:
                message = f"xtuner sft on {known.host} ended before the ranks had met: {known.message}"
                error = error_for_exit_code(known.exit_code, message, hint=known.hint)
                found[home.path, known.begun_at] = error
        return found


def _homes(job: Job) -> list[RunDir]:
    """Where the launches of a work dir have their files: the one with rank 0 in its run directory, the others not."""
    work_dir = job.run_dir.work_dir if job.run_dir else job.log_dir.parent.parent
    others = [RunDir(path) for path in sorted(work_dir.glob(f"{NODES}/*"))]
    return others if job.run_dir else [*others, *list_runs(work_dir)]
