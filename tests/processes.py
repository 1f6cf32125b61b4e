"""The processes of a run, found by the work dir that their command lines name."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from xtuner.run.layout import RunDir, list_runs

_PATIENCE_S = 300


def processes_of(work_dir: Path) -> list[psutil.Process]:
    """All that run now and name `work_dir`: the launcher or supervisor, torchrun, the ranks."""
    return [
        process
        for process in psutil.process_iter()
        if any(str(work_dir) in argument for argument in _arguments(process)) and is_running(process)
    ]


def ranks_of(work_dir: Path) -> list[psutil.Process]:
    """The ranks among them."""
    return [process for process in processes_of(work_dir) if _runs(process, "cli/sft.py") and not _is_torchrun(process)]


def torchrun_of(work_dir: Path) -> psutil.Process | None:
    """The one that starts ranks."""
    return next(filter(_is_torchrun, processes_of(work_dir)), None)


def children_of(pid: int, words: str) -> list[psutil.Process]:
    """What a process has started, and those have, with `words` in the command line: a test has more."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if words in " ".join(_arguments(child))]


def is_running(process: psutil.Process) -> bool:
    """Whether it does; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_step(work_dir: Path, step: int) -> RunDir:
    """Wait until the newest run of `work_dir` has done `step`, and return it."""
    wait_for(lambda: any(f" Step {step}/" in _read(run_dir.rank_log(0)) for run_dir in list_runs(work_dir)[-1:]))
    return list_runs(work_dir)[-1]


def wait_until_gone(processes: list[psutil.Process]) -> float:
    """Wait until all of them are gone, zombies that nobody asks included; the seconds it took."""
    begun_at = time.monotonic()
    wait_for(lambda: not any(map(is_running, processes)))
    return time.monotonic() - begun_at


def end_all(work_dir: Path) -> None:
    """Kill what is left of a test."""
    kill(processes_of(work_dir))


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill those that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _is_torchrun(process: psutil.Process) -> bool:
    return any(argument.endswith("torchrun") for argument in _arguments(process)[:3])


def _runs(process: psutil.Process, script: str) -> bool:
    return any(argument.endswith(script) for argument in _arguments(process)[:4])


def _arguments(process: psutil.Process) -> list[str]:
    """Its command line; empty when it has ended, as it may between two looks."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
