"""Several workers at once: chunks go out, results come back in order, and only a few are ever under way."""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from xtuner.data.jobs import Job, ShowJob
from xtuner.data.rows import ChunkResult, PipelineSpec
from xtuner.data.view import RowView
from xtuner.errors import DataError, EnvironmentFault, XTunerError

_AHEAD = 2  # jobs waiting for each worker
# Not `-m`, which would look for modules in the working directory first: the path is the parent's, as multiprocessing
# has it.
_START = "import sys; sys.path[:] = sys.argv[2:]; from xtuner.data.worker import main; main(int(sys.argv[1]))"


class WorkerPool:
    """`num_workers` processes with one pipeline each; a context manager.

    Workers start at once, and all of them at the same time: what they import takes a second.
    """

    def __init__(self, spec: PipelineSpec, num_workers: int) -> None:
        self._workers = [_Worker(spec) for _ in range(num_workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="data-worker")

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop(at_once=error is not None)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs: Iterable[Job]) -> Iterator[ChunkResult]:
        """The results of `jobs`, in their order; jobs are taken as they are needed.

        Raises:
            XTunerError: what a worker met, and what became of a worker that died.
        """
        pending: deque[Future[ChunkResult]] = deque()
        for job in jobs:
            pending.append(self._threads.submit(self._do, job))
            if len(pending) >= _AHEAD * len(self._workers):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def abandon(self) -> None:
        """End the workers now, whatever a template is doing: for screens that are left."""
        for worker in self._workers:
            worker.stop(at_once=True)

    def show(self, job: ShowJob) -> RowView:
        """One row, as the model sees it; may be called from any thread.

        Raises:
            XTunerError: as `run`.
        """
        view = self._do(job)
        assert isinstance(view, RowView)
        return view

    def _do(self, job: Job | ShowJob) -> Any:
        worker = self._idle.get()
        try:
            return worker.do(job)
        finally:
            self._idle.put(worker)


class _Worker:
    def __init__(self, spec: PipelineSpec) -> None:
        self._spec = spec
        ours, theirs = socket.socketpair()
        # One thread a worker: the tokenizers library and numpy would each take all cores again.
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C reaches the whole terminal; the parent decides
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self._is_ready = False
        self._connection.send(spec)

    def do(self, job: Job | ShowJob) -> Any:
        try:
            if not self._is_ready:
                _raise_if_error(self._connection.recv())
                self._is_ready = True
            self._connection.send(job)
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._explain_death(job) from None
        _raise_if_error(answer)
        return answer

    def stop(self, *, at_once: bool) -> None:
        if at_once:
            self._process.kill()
        else:
            self._connection.close()
        self._process.wait()

    def _explain_death(self, job: Job | ShowJob) -> XTunerError:
        code, where = self._process.wait(), job.where
        if code == -signal.SIGXCPU:
            return DataError(
                f"{where}: the chat template did not end within {self._spec.cpu_limit_s(job.num_bytes)} s of CPU time",
                hint="look at the model's chat_template.jinja; it comes from whoever made the model",
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        out_of_memory = "SIGKILL usually means that the machine ran out of memory: pass a smaller --num-data-workers"
        return EnvironmentFault(
            f"a process that tokenises died ({how}) at {where}",
            hint=out_of_memory if code == -signal.SIGKILL else "what it said itself stands above",
        )


def _raise_if_error(answer: Any) -> None:
    if isinstance(answer, tuple):
        kind, message, hint = answer
        raise kind(message, hint=hint)
