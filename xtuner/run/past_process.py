"""Reading the past of files in a process of its own: a gigabyte takes half a minute of computing.

The screen's interpreter runs one thread at a time, and has keys to answer. Programs of their own and no fork: the
parent has threads and a terminal. They end when the parent closes the connection or dies.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as connection_wait
from pathlib import Path
from typing import NamedTuple

from xtuner.run.events import Source
from xtuner.run.past import Past, PastSlice

# Not `-m`, which would look for modules in the working directory first.
_START = "import sys; sys.path[:] = sys.argv[2:]; from xtuner.run.past_process import serve; serve(int(sys.argv[1]))"
# The screen and the training come first: a tenth of a core that they want is left to it.
_NICE = 10


class _Wish(NamedTuple):
    number: int
    source: Source
    begin: int | None  # None: where the last slice of this file ended
    end: int
    max_bytes: int
    skips_steps: bool


class PastProcess:
    """Reads slices in the order of the wishes.

    Attributes:
        num_asked: slices that have not come yet.
        is_over: whether it died; what it was asked for does not come.
        connection: what `wait` waits for.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # the terminal belongs to the screen
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the whole terminal; the parent decides
            )
        self.num_asked = 0
        self.is_over = False

    def ask(
        self, number: int, source: Source, begin: int | None, end: int, max_bytes: int, *, skips_steps: bool
    ) -> None:
        """Wish for a slice of a file; few wishes may wait at a time, so that this never blocks.

        Args:
            number: of the file, which comes back with the slice.
            source: the file.
            begin: see `Past`; None for what follows the slice that this process was asked for last.
            end: see `Past`.
            max_bytes: see `Past.read`.
            skips_steps: see `Source.events_of`.
        """
        self.num_asked += 1
        try:
            self.connection.send(_Wish(number, source, begin, end, max_bytes, skips_steps))
        except OSError:
            self.is_over = True

    def take(self) -> tuple[int, PastSlice] | None:
        """A slice that has come, and the number of its file; None if there is none."""
        try:
            if self.is_over or not self.connection.poll(0):
                return None
            number, part = self.connection.recv()
        except (EOFError, OSError):
            self.is_over = True
            return None
        self.num_asked -= 1
        return number, part

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.is_over = True
        self.connection.close()
        self._process.kill()
        self._process.wait()


def wait(processes: Sequence[PastProcess], timeout_s: float) -> list[PastProcess]:
    """Those that have something to take, or have died; none if that takes longer than `timeout_s` seconds."""
    dead = [process for process in processes if process.is_over]
    if dead:
        return dead
    ready = connection_wait([process.connection for process in processes], max(0.0, timeout_s))
    return [process for process in processes if process.connection in ready]


def _step_back() -> None:
    """Leave the processor to others that want it."""
    os.nice(_NICE)
    try:
        # Linux shares it out among sessions first, and this process has one of its own.
        Path("/proc/self/autogroup").write_text(str(_NICE))
    except OSError:
        pass  # a system without such groups, where `nice` is enough


def serve(descriptor: int) -> None:
    """Answer wishes until the other side is gone."""
    _step_back()
    connection = Connection(descriptor)
    pasts: dict[int, Past] = {}
    try:
        while True:
            wish: _Wish = connection.recv()
            if wish.begin is not None:
                pasts[wish.number] = Past(wish.source, wish.begin, wish.end)
            past = pasts[wish.number]
            connection.send((wish.number, past.read(wish.max_bytes, skips_steps=wish.skips_steps)))
    except (EOFError, OSError):
        return
