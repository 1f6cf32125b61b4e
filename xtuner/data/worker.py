"""A process that turns chunks of rows into tokens; `WorkerPool` starts it.

A program of its own and no fork: the parent may hold torch and threads, or be a script without a `__main__` guard.
It ends when its parent closes the connection or dies.

The chat template comes from whoever made the model. It runs in transformers' sandbox, which stops it from reaching
the machine but not from looping or building gigabytes of text; so the first chunk is worked on with a limit on
CPU time and memory, after which the template counts as known.
"""

import importlib
import os
import resource
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from xtuner.data.jobs import Job, ShowJob
from xtuner.data.rows import PipelineSpec, RowPipeline
from xtuner.data.view import view_row
from xtuner.errors import DataError, XTunerError


def main(descriptor: int) -> None:
    """Answer jobs until there are no more: a `ChunkResult`, or the error that ended the job."""
    threading.Thread(target=_end_with_parent, args=[descriptor], daemon=True).start()
    connection = Connection(descriptor)
    try:
        spec: PipelineSpec = connection.recv()
        try:
            pipeline = RowPipeline(spec)
            _import_renderer(pipeline)
        except XTunerError as error:
            connection.send(_portable(error))
            return
        connection.send(None)
        is_first = True
        while True:
            job: Job | ShowJob = connection.recv()
            connection.send(_answer(pipeline, job, is_first=is_first))
            is_first = False
    except (EOFError, OSError):
        return


def _end_with_parent(descriptor: int) -> None:
    """End this process when the other side is gone, whatever a template is doing in the meantime."""
    hang_up = select.poll()
    hang_up.register(descriptor, 0)  # POLLHUP comes unasked
    hang_up.poll()
    os._exit(1)


def _import_renderer(pipeline: RowPipeline) -> None:
    """Libraries reserve memory when they load: before the limits are set."""
    if pipeline.files.template is not None:
        try:
            _name_packages("transformers", "transformers.utils")
            importlib.import_module(_RENDERER)
        except Exception:  # another layout than the one known
            for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
                del sys.modules[name]
            importlib.import_module(_RENDERER)


_RENDERER = "transformers.utils.chat_template_utils"


def _name_packages(*names: str) -> None:
    """Let modules of these packages be imported without the packages' own code.

    transformers looks through all its 1,700 files when it is imported, a second of CPU time for each worker; the one
    module that is used here needs none of that.
    """
    for name in names:
        outer = name.rpartition(".")[0]
        spec = PathFinder.find_spec(name, sys.modules[outer].__path__ if outer else None)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(name, name=name)
        package = ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package


def _answer(pipeline: RowPipeline, job: Job | ShowJob, *, is_first: bool) -> Any:
    try:
        if not is_first:
            return _work(pipeline, job)
        with _limited(pipeline.spec, job.num_bytes):
            return _work(pipeline, job)
    except MemoryError:
        return _portable(
            DataError(
                f"{job.where}: the chat template took more than "
                f"{pipeline.spec.memory_limit_bytes(job.num_bytes) / 2**30:.3g} GiB of memory to render",
                hint="look at the model's chat_template.jinja; it comes from whoever made the model",
            )
        )
    except XTunerError as error:
        return _portable(error)


def _work(pipeline: RowPipeline, job: Job | ShowJob) -> Any:
    if isinstance(job, Job):
        return pipeline.process(job.chunk, job.path, job.format)
    return view_row(pipeline, job.line, job.where, job.format, is_last=job.is_last)


@contextmanager
def _limited(spec: PipelineSpec, num_bytes: int) -> Iterator[None]:
    """Soft limits for the first chunk; the kernel ends the process with SIGXCPU when its CPU time is over."""
    memory, cpu = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + spec.cpu_limit_s(num_bytes)
    _lower(resource.RLIMIT_CPU, seconds, cpu)
    if (mapped := _mapped_bytes()) is not None:
        _lower(resource.RLIMIT_AS, mapped + spec.memory_limit_bytes(num_bytes), memory)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        resource.setrlimit(resource.RLIMIT_CPU, cpu)


def _lower(kind: int, soft: int, current: tuple[int, int]) -> None:
    bounds = [limit for limit in (soft, *current) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(bounds), current[1]))


def _mapped_bytes() -> int | None:
    """Address space of this process; None where the kernel does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def _portable(error: XTunerError) -> tuple[type[XTunerError], str, str]:
    """An error as it can be sent: exceptions lose their keyword arguments on the way."""
    kind = type(error) if type(error) in XTunerError.__subclasses__() else DataError
    return kind, error.message, error.hint
