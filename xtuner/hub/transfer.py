"""All files of a plan, several at once, with progress, and a stop that loses nothing."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from xtuner.byte_size import shown_size
from xtuner.errors import StoppedAndSaved
from xtuner.hub.download_plan import DownloadPlan, RemoteFile
from xtuner.hub.download_target import Target
from xtuner.hub.fetch import Fetcher
from xtuner.hub.findings import shown, shown_path
from xtuner.hub.hub_client import HubClient
from xtuner.hub.hub_errors import AGAIN, explained
from xtuner.hub.library_notices import library_notices
from xtuner.hub.partial_file import Stopped

_NUM_WORKERS = 4
_POLL_S = 0.1
# Long enough for a chunk that is being written, short for someone who pressed Ctrl-C.
_GRACE_S = 2.0
_SPEED_OVER_S = 10.0
# Threads of transfers that were stopped, which wait for a silent server and hold their files until it times out.
_lingering: list[threading.Thread] = []


@dataclass(frozen=True)
class TransferProgress:
    """How far a download is; `current` is the file whose bytes came last, and how far that one is."""

    done_bytes: int
    total_bytes: int
    num_done: int
    num_files: int
    bytes_per_s: float
    current: RemoteFile | None
    current_bytes: int

    @property
    def speed(self) -> str:
        """Of the last seconds, in words."""
        return f"{shown_size(int(self.bytes_per_s))}/s"

    @property
    def time_left(self) -> str:
        """`1:02:03` at the speed of the last seconds, or nothing when nothing comes."""
        if self.bytes_per_s <= 0:
            return ""
        return str(timedelta(seconds=int((self.total_bytes - self.done_bytes) / self.bytes_per_s)))

    def sentence(self) -> str:
        """The same in one line."""
        name = f", now {shown(self.current.path)}" if self.current else ""
        share = 100 * self.done_bytes // self.total_bytes if self.total_bytes else 100
        return (
            f"downloaded {shown_size(self.done_bytes)} of {shown_size(self.total_bytes)} ({share} %), "
            f"{self.num_done} of {self.num_files} files, {self.speed}{name}"
        )


class Transfer:
    """The files of `plan` that `target` lacks."""

    def __init__(self, client: HubClient, plan: DownloadPlan, target: Target, *, force: bool = False) -> None:
        self._client = client
        self._plan = plan
        self._target = target
        self._files = [file for file in plan.files if force or not target.is_there(file)]
        self._stop = threading.Event()
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._fetcher = Fetcher(client, plan, target, force, self._stop, self._notices.put)
        self._todo = deque(_in_order(self._files))
        self._lock = threading.Lock()
        self._bytes_of: dict[str, int] = {}
        self._old_bytes = 0
        self._current: RemoteFile | None = None
        self._num_done = 0
        self._error: Exception | None = None
        self._speed: deque[tuple[float, int]] = deque(maxlen=int(_SPEED_OVER_S / _POLL_S))

    @property
    def num_files(self) -> int:
        """How many files there are to fetch."""
        return len(self._files)

    @property
    def total_bytes(self) -> int:
        """The size of the files to fetch."""
        return sum(file.size for file in self._files)

    def missing_bytes(self) -> int:
        """What is still to be written to disk."""
        return self.total_bytes - sum(self._gathered_bytes(file) for file in self._files)

    def _gathered_bytes(self, file: RemoteFile) -> int:
        if self._fetcher.force or file.sha256 is None:
            return 0
        if self._target.has_content(file):
            return file.size
        gathered = self._target.partial_path(file)
        return min(gathered.stat().st_size, file.size) if gathered.is_file() else 0

    def stop(self) -> None:
        """Let `run` end soon with what has come; for any thread."""
        self._stop.set()

    def run(self, on_progress: Callable[[TransferProgress], None], on_notice: Callable[[str], None]) -> None:
        """Fetch; both functions are called from this thread.

        Raises:
            StoppedAndSaved: Ctrl-C or `stop`; what came is on disk, and the next call goes on from there.
            XTunerError: as `explained` and `Fetcher.fetch`.
        """
        # Daemons: one that waits for a silent server cannot be woken, and must not keep the program from leaving.
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(min(_NUM_WORKERS, len(self._files)))]
        try:
            self._await_earlier(on_notice)
            with library_notices(self._client, self._notices.put):
                for worker in () if self._stop.is_set() else workers:
                    worker.start()
                while self._goes_on(workers):
                    time.sleep(_POLL_S)
                    self._tell(on_progress, on_notice)
                self._tell(on_progress, on_notice)
            if self._num_done == self.num_files:
                with explained(self._client, self._plan.repo_id, self._plan.revision):
                    self._target.finish(self._plan)
                return
        except KeyboardInterrupt:
            self.stop()
        is_stopped = self._stop.is_set()
        self._stop_workers(workers)
        if is_stopped:
            raise self._stopped_by_user()
        with explained(self._client, self._plan.repo_id, self._plan.revision):
            assert self._error is not None
            raise self._error

    def _await_earlier(self, on_notice: Callable[[str], None]) -> None:
        """What an earlier transfer of this process has let go of but for a read can be fetched only after that."""
        _lingering[:] = [thread for thread in _lingering if thread.is_alive()]
        if _lingering:
            on_notice("waiting for the last connection of the download that was stopped")
        while any(thread.is_alive() for thread in _lingering) and not self._stop.is_set():
            time.sleep(_POLL_S)

    def _goes_on(self, workers: list[threading.Thread]) -> bool:
        return self._error is None and not self._stop.is_set() and any(worker.is_alive() for worker in workers)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                same_content = self._todo.popleft()
            except IndexError:
                return
            try:
                for file in same_content:
                    self._fetcher.fetch(file, partial(self._count, file))
                    with self._lock:
                        self._num_done += 1
            except Stopped:
                return
            except Exception as error:
                with self._lock:
                    self._error = self._error or error
                return

    def _count(self, file: RemoteFile, num_bytes: int, *, is_old: bool = False) -> None:
        with self._lock:
            self._old_bytes += num_bytes if is_old else 0
            self._bytes_of[file.path] = self._bytes_of.get(file.path, 0) + num_bytes
            self._current = file

    def _tell(self, on_progress: Callable[[TransferProgress], None], on_notice: Callable[[str], None]) -> None:
        while not self._notices.empty():
            on_notice(self._notices.get())
        on_progress(self._progress())

    def _progress(self) -> TransferProgress:
        with self._lock:
            done_bytes, num_done, current = sum(self._bytes_of.values()), self._num_done, self._current
            current_bytes, new_bytes = self._bytes_of[current.path] if current else 0, done_bytes - self._old_bytes
        self._speed.append((time.monotonic(), new_bytes))
        (then, bytes_then), (now, _) = self._speed[0], self._speed[-1]
        bytes_per_s = max((new_bytes - bytes_then) / (now - then), 0.0) if now > then else 0.0
        return TransferProgress(
            done_bytes, self.total_bytes, num_done, self.num_files, bytes_per_s, current, current_bytes
        )

    def _stop_workers(self, workers: list[threading.Thread]) -> None:
        self._stop.set()
        give_up_at = time.monotonic() + _GRACE_S
        for worker in workers:
            if worker.ident is not None:
                worker.join(max(0.0, give_up_at - time.monotonic()))
        _lingering.extend(worker for worker in workers if worker.is_alive())

    def _stopped_by_user(self) -> StoppedAndSaved:
        # What was counted, and for files that were not reached yet what an earlier call left.
        kept = sum(self._bytes_of.get(file.path, 0) or self._gathered_bytes(file) for file in self._files)
        where = shown_path(self._target.model_dir)
        message = f"stopped: {shown_size(kept)} of {shown_size(self.total_bytes)} are kept for {where}"
        return StoppedAndSaved(message, hint=AGAIN)


def _in_order(files: list[RemoteFile]) -> list[list[RemoteFile]]:
    """Small files first, as they show whether access is granted; files of one content one after the other."""
    groups: dict[str, list[RemoteFile]] = {}
    for file in sorted(files, key=lambda file: file.sha256 is not None):
        groups.setdefault(file.etag, []).append(file)
    return list(groups.values())
