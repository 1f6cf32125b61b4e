"""Ranks that do not notice that another one failed: torchrun asks them to go, and waits half a minute."""

import os
import signal
import time
from pathlib import Path

from xtuner.errors import StoppedAndSaved
from xtuner.launch.job import Job
from xtuner.run.failure import asked_to_go, read_failures
from xtuner.run.process import parent_of
from xtuner.run.tail import FileTail

# A rank that runs Python goes at once. One that waits for a peer inside a collective, or for its address, does not.
_PATIENCE_S = 2.0


class Survivors:
    """Ends ranks that torchrun has asked to go and that have not gone; without the others they can do nothing."""

    def __init__(self, job: Job) -> None:
        self._output = FileTail(job.torchrun_log)
        self._asked_at: dict[int, float] = {}

    def look(self, torchrun_pid: int, attempt: Path | None) -> None:
        """End those whose time is up, unless the ranks of `attempt` are leaving with their state saved."""
        now = time.monotonic()
        for line in self._output.read_lines():
            if signal.SIGTERM.name in line:
                self._asked_at.update(dict.fromkeys(asked_to_go(line), now))
        late = [pid for pid, asked_at in self._asked_at.items() if now - asked_at >= _PATIENCE_S]
        if not late:
            return
        is_saving = attempt is not None and _is_saving(attempt)
        for pid in late:
            del self._asked_at[pid]
            if not is_saving and parent_of(pid) == torchrun_pid:
                os.kill(pid, signal.SIGKILL)


def _is_saving(attempt: Path) -> bool:
    """Whether a rank has left since a signal let all of them save: the others may not be done yet."""
    return any(failure.exit_code == StoppedAndSaved.exit_code for failure in read_failures(attempt))
