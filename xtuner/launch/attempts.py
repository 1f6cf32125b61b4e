"""What torchrun captures of its ranks, one directory an attempt, found under the names that it makes up."""

import os
from pathlib import Path

from xtuner.launch.job import Job


class Attempts:
    """The attempts of a launch; `logs/attempt_0` and so on of the run directory lead to them.

    Those of a run that is resumed are counted on.

    Attributes:
        newest: the directory of the one that goes on, or was the last; None before the first.
    """

    def __init__(self, job: Job) -> None:
        self.newest: Path | None = None
        self._log_dir = job.log_dir
        self._run_dir = job.run_dir
        self._known: set[Path] = set()
        self._num_links = len(list(job.run_dir.logs.glob("attempt_*"))) if job.run_dir else 0

    def look(self) -> list[Path]:
        """The attempts that have ended since the last call, as others began after them."""
        found = sorted(set(self._log_dir.glob("*/attempt_*")) - self._known, key=_number)
        for attempt in found:
            self._link(attempt)
        self._known.update(found)
        begun = [self.newest, *found] if self.newest else found
        self.newest = begun[-1] if begun else None
        return begun[:-1]

    def _link(self, attempt: Path) -> None:
        if self._run_dir:
            link = self._run_dir.attempt_logs(self._num_links)
            link.symlink_to(os.path.relpath(attempt, self._run_dir.logs))
            self._num_links += 1


def _number(attempt: Path) -> int:
    digits = attempt.name.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0
