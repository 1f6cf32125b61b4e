"""A process that does not outlive the one that started it, however that one ends."""

import ctypes
import os
import signal
import sys
import threading
import time

# Set by the process that becomes torchrun, for the ranks that it starts.
AGENT_PID_VARIABLE = "XTUNER_AGENT_PID"
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LOOK_EVERY_S = 0.5


def end_with_parent(parent_pid: int) -> bool:
    """End this process with SIGKILL as soon as its parent, `parent_pid`, is gone; at once if it is gone already.

    Linux does it by itself (`prctl(PR_SET_PDEATHSIG)`, which survives `exec`). It watches from the call on only, so
    the parent is looked at once more behind it. Elsewhere a thread watches: it looks whose child this process is,
    as torchrun leaves its ranks no open pipe that could tell them.

    Returns:
        Whether what this process executes in its own place ends with the parent too.
    """
    is_kernels_work = sys.platform == "linux"
    if is_kernels_work:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent_pid,), name="watch-parent", daemon=True).start()
    if os.getppid() != parent_pid:
        _end()
    return is_kernels_work


def end_with_agent() -> None:
    """`end_with_parent` for a rank whose torchrun was started by `xtuner sft`; nothing for others."""
    parent_pid = os.environ.get(AGENT_PID_VARIABLE, "")
    if parent_pid.isdigit():
        end_with_parent(int(parent_pid))


def _watch(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_LOOK_EVERY_S)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
