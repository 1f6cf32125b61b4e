"""The dashboard as its user sees it: in a terminal, timed by what is written to it. Part of `monitor.py`."""

import fcntl
import operator
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

import psutil

_NUM_STARTS = 9
_NUM_SWITCHES = 40
_EMPTY_APP = """
from textual.app import App
from textual.widgets import Static
class EmptyApp(App):
    def compose(self):
        yield Static("empty app")
EmptyApp().run()
"""


class Screen:
    """A command in a terminal of 120 x 36; killed at the end of the block."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        self.begin = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def until_shown(self, text: bytes) -> float:
        """Seconds since the start, when `text` is written."""
        shown = b""
        while text not in shown:
            shown = shown[-1000:] + os.read(self._ours, 65536)
        return time.perf_counter() - self.begin

    def press(self, key: bytes, text: bytes) -> float:
        """Seconds from the press of a key until `text` is written."""
        before = time.perf_counter()
        os.write(self._ours, key)
        return self.until_shown(text) + self.begin - before

    @property
    def memory_mib(self) -> float:
        """What the process takes now, its share of what is shared (PSS)."""
        return psutil.Process(self._process.pid).memory_full_info().pss / 2**20


def watch(work_dir: Path) -> Screen:
    """The dashboard of the newest run of `work_dir`."""
    return Screen([sys.executable, "-m", "xtuner", "monitor", str(work_dir)])


def first_frame(work_dir: Path) -> dict[str, float]:
    """Beside an empty app, in turn; from the start of the process to what was written first to be seen."""
    times: dict[str, list[float]] = {"empty": [], "ours": [], "state": []}
    for _ in range(_NUM_STARTS):
        with Screen([sys.executable, "-c", _EMPTY_APP]) as screen:
            times["empty"].append(screen.until_shown(b"empty app"))
        with watch(work_dir) as screen:
            times["ours"].append(screen.until_shown(b"Overview"))
            times["state"].append(screen.until_shown(b"ETA"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "an empty Textual app, s": medians["empty"],
        "the dashboard, s": medians["ours"],
        "the same less the empty app, s": statistics.median(map(operator.sub, times["ours"], times["empty"])),
        "the run's state on it, s": medians["state"],
    }


def keys(work_dir: Path) -> dict[str, float]:
    """From a key to the tab it shows, while the history is read."""
    times = []
    with watch(work_dir) as screen:
        screen.until_shown(b"ETA")
        for _ in range(_NUM_SWITCHES):
            times.append(screen.press(b"2", b"heard s"))
            times.append(screen.press(b"1", b"throughput"))
    return {
        "another tab, median ms": 1e3 * statistics.median(times),
        "another tab, p95 ms": 1e3 * statistics.quantiles(times, n=20)[-1],
    }
