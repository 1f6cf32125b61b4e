"""Runs whose ranks start at once: forked from a server that has imported torch and the trainer already.

A rank begins at the training entry, as under torchrun, with a command line of its own. What torchrun does beside is
here too: when a rank fails, the others are asked to leave, and later made to.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import free_port

ROOT = Path(__file__).parents[1]
_ENTRY = ROOT / "xtuner" / "v1" / "train" / "cli" / "sft.py"
# torchrun looks every tenth of a second. Ranks that fail together are to end by themselves on a busy machine too.
_ASKED_AFTER_S, _GRACE_S = 0.3, 30.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Ended:
    """How a run ended: each rank's exit code, or the negative number of the signal that killed it."""

    codes: tuple[int, ...]
    output: str


class Started:
    """A run that was started; its ranks are there."""

    def __init__(self, server: "ForkServer", pids: Sequence[int], output: Path) -> None:
        self._server = server
        self._output = output
        self.pids = tuple(pids)

    def send(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to some ranks, or to all; those that have ended are left out."""
        for pid in self.pids if ranks is None else (self.pids[rank] for rank in ranks):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def said(self) -> str:
        """What the ranks have said so far."""
        return self._output.read_text(errors="backslashreplace")

    def wait_until_it_says(self, words: str) -> None:
        """Return when the ranks have said `words`; fails when they end without."""
        while words not in self.said():
            alive = [pid for pid in self.pids if Path(f"/proc/{pid}/stat").exists()]
            assert alive or words in self.said(), self.said()
            time.sleep(_POLL_S)

    def wait(self) -> Ended:
        """Wait for the end of all ranks."""
        [codes] = self._server.read()
        return Ended(tuple(codes), self.said())


class ForkServer:
    """Starts runs, one at a time; close it to end its process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._num_runs = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: object, ranks: int = 2, fault: str = "", **limits: int) -> Started:
        """Start the training entry with `arguments`; `file_size` limits the bytes of a file (RLIMIT_FSIZE)."""
        launch = self._launch(arguments, ranks=ranks, fault=fault, **limits)
        [pids] = self._start([launch])
        return Started(self, pids, Path(launch["output"]))

    def run(self, *arguments: object, **options: Any) -> Ended:
        """Start the training entry and wait for its end."""
        return self.start(*arguments, **options).wait()

    def race(self, *arguments: object, num_runs: int = 2, **options: Any) -> list[Ended]:
        """Start the training entry several times at once, and wait for all ends."""
        launches = [self._launch(arguments, **options) for _ in range(num_runs)]
        self._start(launches)
        outputs = [Path(launch["output"]) for launch in launches]
        codes = self.read()
        return [Ended(tuple(of_run), output.read_text()) for of_run, output in zip(codes, outputs, strict=True)]

    def _launch(self, arguments: Sequence[object], *, ranks: int = 2, fault: str = "", **limits: int) -> dict[str, Any]:
        self._num_runs += 1
        output = self._directory / f"run-{self._num_runs}.txt"
        output.touch()
        return {"argv": [*map(str, arguments)], "ranks": ranks, "fault": fault, "output": str(output), **limits}

    def _start(self, launches: list[dict[str, Any]]) -> list[list[int]]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(launches) + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> list[list[int]]:
        """The next answer of the server: for each run the process ids, or the exit codes, of its ranks."""
        assert self._process.stdout
        answer = self._process.stdout.readline()
        assert answer, "the server ended"
        return [[int(number) for number in numbers] for numbers in json.loads(answer)]

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


# --- The server ---


def _serve() -> None:
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    import xtuner.v1.train.trainer  # noqa: F401

    for line in sys.stdin:
        pids = [_fork_all(launch) for launch in json.loads(line)]
        print(json.dumps(pids), flush=True)
        print(json.dumps(_wait_for(pids)), flush=True)


def _fork_all(launch: dict[str, Any]) -> list[int]:
    port = free_port()
    return [_fork(launch, rank, port) for rank in range(launch["ranks"])]


def _fork(launch: dict[str, Any], rank: int, port: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            _become_rank(launch, rank, port)
        finally:
            os._exit(1)
    return pid


def _become_rank(launch: dict[str, Any], rank: int, port: int) -> None:
    import resource

    from xtuner.run import faults

    output = os.open(launch["output"], os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((null, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, number)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(launch["ranks"]))
    faults.arm(launch["fault"])
    if "file_size" in launch:
        resource.setrlimit(resource.RLIMIT_FSIZE, (launch["file_size"], launch["file_size"]))
    sys.argv = [str(_ENTRY), *launch["argv"]]
    runpy.run_path(str(_ENTRY), run_name="__main__")


def _wait_for(runs: list[list[int]]) -> list[list[int]]:
    ends = [_End(pids) for pids in runs]
    while [end for end in ends if not end.look()]:
        time.sleep(_POLL_S)
    return [[end.codes[pid] for pid in end.pids] for end in ends]


class _End:
    """How the ranks of a run end: the others are asked to leave when one fails, and later made to."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self.codes: dict[int, int] = {}
        self._asked_at = self._killed_at = float("inf")

    def look(self) -> bool:
        """Whether all have ended."""
        for pid in self._left():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.codes[pid] = os.waitstatus_to_exitcode(status)
        left, now = self._left(), time.monotonic()
        if any(self.codes.values()) and self._asked_at == self._killed_at == float("inf"):
            self._asked_at = now + _ASKED_AFTER_S
        if now > self._asked_at:
            self._asked_at, self._killed_at = float("inf"), now + _GRACE_S
            for pid in left:
                os.kill(pid, signal.SIGTERM)
        if now > self._killed_at:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        return not left

    def _left(self) -> list[int]:
        return [pid for pid in self.pids if pid not in self.codes]


if __name__ == "__main__":
    _serve()
