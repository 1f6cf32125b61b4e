"""Ranks that a signal has ended: they leave no note, so that the other machines see their connections break alone."""

import socket
import time
from pathlib import Path

from xtuner.launch.job import Job
from xtuner.run.failure import BLAMED, asked_to_go, end_by_signal, is_killed, leave_note
from xtuner.run.layout import RunDir
from xtuner.run.rank_place import RankPlace, read_places
from xtuner.run.tail import FileTail


class KilledRanks:
    """Leaves the notes of ranks on this machine that a signal has ended, where the launchers of all machines look."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._output = FileTail(job.torchrun_log)
        self._asked: set[int] = set()

    def look(self, attempt: Path | None) -> None:
        """Take what torchrun has said since; `attempt` has what it captures of the ranks."""
        for line in self._output.read_lines():
            self._asked.update(asked_to_go(line))
            for exit_code, local_rank, pid in BLAMED.findall(line):
                if is_killed(int(exit_code), int(pid), self._asked):
                    self._leave_note(int(local_rank), -int(exit_code), attempt)

    def _leave_note(self, local_rank: int, number: int, attempt: Path | None) -> None:
        place = self._place_of(local_rank, attempt)
        if place is None or (attempt and (attempt / str(local_rank) / "error.json").exists()):
            return  # which one it is nobody knows, or it has said more itself
        failure = end_by_signal(place.rank, number, host=socket.gethostname(), time=time.time())
        leave_note(failure, failure.signal_name, place.run_dir.failure_note(place.rank))

    def _place_of(self, local_rank: int, attempt: Path | None) -> RankPlace | None:
        known = read_places(attempt).get(local_rank) if attempt else None
        if known is None and self._job.run_dir and self._job.num_machines == 1:
            return RankPlace(local_rank, self._job.run_dir)
        return known


def run_dir_of(job: Job, log_dir: Path) -> RunDir | None:
    """The run directory as the launcher of any machine may know it: where it has none, from its ranks."""
    return job.run_dir or next((place.run_dir for place in read_places(log_dir).values()), None)
