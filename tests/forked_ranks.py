"""Runs whose ranks start at once: forked from a server that has imported torch and the trainer already.

A rank begins at the training entry, as under torchrun, with a command line of its own. What torchrun does beside is
here too: when a rank fails, the others are asked to leave, and later made to.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_ENTRY = ROOT / "xtuner" / "v1" / "train" / "cli" / "sft.py"
_GRACE_S = 30.0
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
        return Ended(tuple(self._server.read()), self.said())


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
        self._num_runs += 1
        output = self._directory / f"run-{self._num_runs}.txt"
        output.touch()
        launch = {"argv": [*map(str, arguments)], "ranks": ranks, "fault": fault, "output": str(output), **limits}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(launch) + "\n")
        self._process.stdin.flush()
        return Started(self, self.read(), output)

    def run(self, *arguments: object, **options: Any) -> Ended:
        """Start the training entry and wait for its end."""
        return self.start(*arguments, **options).wait()

    def read(self) -> list[int]:
        """The next answer of the server: process ids, or exit codes."""
        assert self._process.stdout
        answer = self._process.stdout.readline()
        assert answer, "the server ended"
        return [int(number) for number in json.loads(answer)]

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


# --- The server ---


def _serve() -> None:
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    import xtuner.v1.train.trainer  # noqa: F401

    for line in sys.stdin:
        launch = json.loads(line)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids = [_fork(launch, rank, port) for rank in range(launch["ranks"])]
        print(json.dumps(pids), flush=True)
        print(json.dumps(_wait_for(pids)), flush=True)


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


def _wait_for(pids: list[int]) -> list[int]:
    codes: dict[int, int] = {}
    killed_at = float("inf")
    while len(codes) < len(pids):
        for pid in [pid for pid in pids if pid not in codes]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        left = [pid for pid in pids if pid not in codes]
        if left and killed_at == float("inf") and any(codes.values()):
            killed_at = time.monotonic() + _GRACE_S
            for pid in left:
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() > killed_at:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    _serve()
