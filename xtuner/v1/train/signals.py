"""SIGTERM and SIGINT to an exception, and a rank that does not outlive its launcher."""

import ctypes
import os
import signal
import sys
from types import FrameType

from xtuner.errors import StoppedNotSaved

_PR_SET_PDEATHSIG = 1  # prctl(2)


def raise_on_stop_signals() -> None:
    """Turn the first SIGTERM or SIGINT into `StoppedNotSaved`; a second one kills as it always does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _raise_stopped)


def ignore_stop_signals() -> None:
    """From here on the process ends by itself; a signal must not break what it still writes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """Ask the kernel to end this process when torchrun dies, which otherwise leaves its ranks behind (Linux)."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _raise_stopped(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise StoppedNotSaved(
        f"stopped by {signal.Signals(number).name}; the weights of this run were not saved",
        hint="start again; a run that ends by itself leaves its weights in hf-latest",
    )
