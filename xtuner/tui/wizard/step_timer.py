"""Steps timed by a process of their own, `xtuner plan --time-steps`, while the screen goes on."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from xtuner.language import _
from xtuner.launch.plan import LaunchPlan
from xtuner.launch.timing import Timing
from xtuner.run.figures import duration
from xtuner.v1.config.flags import flags_of

NUM_STEPS = 5
_STEP = re.compile(r"step (\d+) of (\d+)")
_LAST_WORDS = 400  # characters of an error that are shown
_GOES_S = 10.0  # the ranks are killed at once, and their directory is removed


class Timed(Message):
    """There is something new to say about the duration."""


@dataclass
class _Process:
    """One timing: what it is of, and what it has said.

    Attributes:
        words: what Review says of it.
        is_cancelled: nobody wants to know any more.
    """

    plan: LaunchPlan
    popen: "subprocess.Popen[str]"
    words: str
    is_cancelled: bool = False


class StepTimer:
    """Times one plan at a time; `post` takes its messages."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._process: _Process | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether steps are being timed."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, plan: LaunchPlan) -> None:
        """Time `plan`; to be called when nothing is timed."""
        assert not self.is_running, "one plan at a time: the others would slow it down"
        arguments = [f"--nproc-per-node={plan.nproc_per_node}", f"--time-steps={NUM_STEPS}", "--json"]
        popen = subprocess.Popen(
            [sys.executable, "-m", "xtuner", "plan", *flags_of(plan.config), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._process = _Process(plan, popen, _("starting …; Ctrl+T ends it"))
        self._thread = threading.Thread(target=self._follow, args=(self._process,), name="wizard-time", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """End what is timed, if anything is."""
        process = self._process
        if process is not None and process.popen.poll() is None:
            process.is_cancelled = True
            process.popen.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End what is timed and wait for it: what is launched next has the machine to itself."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(_GOES_S)

    def words(self, plan: LaunchPlan) -> str:
        """What Review says of the duration of `plan`."""
        process = self._process
        if process is None or process.plan != plan or process.is_cancelled:
            return _("Ctrl+T runs {steps} steps to estimate it").format(steps=NUM_STEPS)
        return process.words

    def _follow(self, process: _Process) -> None:
        said = []
        with process.popen as popen:
            assert popen.stdout is not None and popen.stderr is not None
            for line in popen.stderr:
                said.append(line)
                if match := _STEP.match(line):
                    words = _("step {step} of {steps} …; Ctrl+T ends it")
                    self._say(process, words.format(step=int(match[1]), steps=int(match[2])))
            document = popen.stdout.read()
        self._say(process, _result(popen.returncode, document, "".join(said)))

    def _say(self, process: _Process, words: str) -> None:
        process.words = words
        if not process.is_cancelled:
            self._post(Timed())


def words_of_timing(timing: Timing) -> str:
    """How long the run will take, and by which figures."""
    words = _("about {duration} (h:mm:ss): {steps:,} steps of {step_time:.3g} s, {speed:,.0f} tokens/s")
    return words.format(
        duration=duration(timing.duration_s),
        steps=timing.total_steps,
        step_time=timing.step_time_s,
        speed=timing.tokens_per_s,
    )


def _result(exit_code: int, document: str, said: str) -> str:
    """The end of a timing in words."""
    if exit_code == 0 and (timing := json.loads(document)["timing"]):
        del timing["duration_s"]
        return words_of_timing(Timing(**timing))
    reason = said.rpartition("error: ")[2].strip() or _("it does not fit into memory")
    return _("could not be timed: {reason}").format(reason=" ".join(reason.split())[:_LAST_WORDS])
