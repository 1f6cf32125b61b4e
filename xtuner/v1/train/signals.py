"""What SIGTERM, SIGINT and SIGUSR1 mean to a rank, and a rank that does not outlive its launcher."""

import ctypes
import os
import signal
import sys
from types import FrameType

from xtuner.errors import StoppedNotSaved

_PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def raise_on_stop_signals() -> None:
    """Turn the first stop signal into `StoppedNotSaved`; a second one kills as it always does."""
    for number in STOP_SIGNALS:
        signal.signal(number, _raise_stopped)


def ignore_stop_signals() -> None:
    """From here on the process ends by itself; a signal must not break what it still writes."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Notes the first stop signal instead of ending the step it comes in; a second one means now.

    Attributes:
        signal_name: of the signal, empty until there is one.
    """

    def __init__(self) -> None:
        self.signal_name = ""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        raise_on_stop_signals()


def die_with_parent() -> None:
    """Ask the kernel to end this process when torchrun dies, which otherwise leaves its ranks behind (Linux)."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _raise_stopped(number: int, _frame: FrameType | None) -> None:
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_DFL)
    raise StoppedNotSaved(
        f"stopped by {signal.Signals(number).name}; what was trained since the last checkpoint was not saved",
        hint="start again with --resume auto, which goes on from the last checkpoint if there is one",
    )
