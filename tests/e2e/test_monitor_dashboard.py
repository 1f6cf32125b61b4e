"""The dashboard in a real terminal, beside a real run."""

import os
import re
import signal
import subprocess
import time

import pyte
import pytest
from commands import BIN, ROOT
from monitor_runs import healthy_run
from processes import children_of, kill
from terminals import Terminal

_PATIENCE_S = 600.0
_ENTER_SCREEN, _LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class Watched:
    """The dashboard in its terminal, and what stands on it."""

    def __init__(self, terminal):
        self.terminal = terminal
        self.written = ""
        self.resize(200, 40)

    def resize(self, width, height):
        """An empty screen of this size."""
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.Stream(self.screen)

    def feed(self, text):
        self.written += text
        self._stream.feed(text)

    @property
    def text(self):
        return "\n".join(self.screen.display)

    def until(self, condition):
        deadline = time.monotonic() + _PATIENCE_S
        while not condition(self.text):
            assert time.monotonic() < deadline, self.text
            self.feed(self.terminal.read(1.0))
        return self.text

    def until_shown(self, *texts):
        return self.until(lambda shown: all(text in shown for text in texts))

    @property
    def step(self):
        found = re.search(r"step ([\d,]+)/", self.screen.display[0])
        return int(found[1].replace(",", "")) if found else 0


@pytest.fixture
def demo(tmp_path):
    """`xtuner demo`, which would go on for long."""
    process = subprocess.Popen(
        [str(BIN / "xtuner"), "demo", "--keep", str(tmp_path / "play"), "--steps", "100000"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process, tmp_path / "play" / "work_dirs"
    finally:
        kill(children_of(process.pid, "") if process.poll() is None else [])
        process.kill()
        process.wait()


def _wait(condition, process):
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


def _rank(process, number):
    ranks = children_of(process.pid, "sft.py")
    return next(child for child in ranks if child.environ().get("RANK") == str(number))


def test_a_live_run_that_hangs_and_dies(demo):
    process, work_dir = demo
    _wait(work_dir.is_dir, process)
    with Terminal("monitor", work_dir) as terminal:
        before = terminal.attributes
        watched = Watched(terminal)
        watched.until_shown("RUNNING", "loss", "memory", "2/2")
        first = watched.step
        watched.until(lambda shown: watched.step >= first + 5)

        rank = _rank(process, 1)
        rank.send_signal(signal.SIGSTOP)
        watched.until_shown("STALLED", "stalled: no step from any rank for")
        assert process.poll() is None, "nobody but the monitor has noticed"
        rank.send_signal(signal.SIGKILL)
        watched.until_shown("FAILED", "✗ rank 1")
        terminal.type("4")
        watched.until_shown("SIGKILL", "-> ")
        terminal.resize(24, 80)
        terminal.type("1")
        watched.resize(80, 24)
        watched.until_shown("FAILED", "[1 Overview]")

        terminal.type("q")
        code, rest = terminal.read_to_end()
        watched.feed(rest)
        assert code == 0 and "Traceback" not in rest
        assert watched.written.rindex(_LEAVE_SCREEN) > watched.written.rindex(_ENTER_SCREEN), (
            "the shell's screen is back"
        )
        assert terminal.attributes == before, "the terminal is as it was"
    process.wait()


@pytest.mark.parametrize("arguments", [["--plain"], []])
def test_without_a_terminal_or_with_plain_there_are_lines(tmp_path, arguments):
    healthy_run(tmp_path, num_steps=5).set_state("finished")
    command = [str(BIN / "xtuner"), "monitor", str(tmp_path), *arguments]
    if arguments:
        with Terminal(*command[1:]) as terminal:
            code, shown = terminal.read_to_end()
    else:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        code, shown = done.returncode, done.stdout + done.stderr
    assert code == 0 and "Step 5/1000" in shown and "\x1b" not in shown and "the run is finished" in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_the_dashboard_and_no_thread_holds_it(tmp_path, number):
    healthy_run(tmp_path)
    with Terminal("monitor", tmp_path) as terminal:
        watched = Watched(terminal)
        watched.until_shown("RUNNING", "step 300/1,000")
        os.kill(terminal.pid, number)
        terminal.read_to_end()


def test_a_terminal_without_colours(tmp_path):
    healthy_run(tmp_path)
    with Terminal("monitor", tmp_path, NO_COLOR="1", LC_ALL="C") as terminal:
        watched = Watched(terminal)
        shown = watched.until_shown("RUNNING", "step 300/1,000", "best")
        assert "> RUNNING" in shown and "⠤" not in shown
        terminal.type("\x03")
        assert terminal.read_to_end()[0] == 0
