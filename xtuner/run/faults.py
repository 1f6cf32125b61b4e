"""Points at which a test can let something go wrong: `XTUNER_FAULT="save.rename.pre:rank=1:nth=2:SIGKILL"`.

The names of the points stand in the code that calls `point`. Without the variable a call is one look at a constant.
"""

import errno
import os
import signal
import time
from dataclasses import dataclass

_VARIABLE = "XTUNER_FAULT"


@dataclass
class _Fault:
    name: str
    rank: int | None
    nth: int
    action: str
    num_seen: int = 0


def _read(text: str) -> _Fault:
    name, *options, action = text.split(":")
    values = dict(option.split("=") for option in options)
    rank = int(values["rank"]) if "rank" in values else None
    return _Fault(name, rank, int(values.get("nth", "1")), action)


_FAULT = _read(os.environ[_VARIABLE]) if _VARIABLE in os.environ else None


def arm(text: str) -> None:
    """Let `text` hold from here on, as if the variable had said so; an empty one lets nothing go wrong."""
    global _FAULT
    _FAULT = _read(text) if text else None


def point(name: str) -> None:
    """Do what `XTUNER_FAULT` says for the point `name`, when it is reached for the nth time on its rank.

    Actions: the name of a signal, sent to this process; `enospc` and `eio`, raised; `sleep=SECONDS`.

    Raises:
        OSError: the variable asks for it.
    """
    if _FAULT is None or _FAULT.name != name:
        return
    if _FAULT.rank is not None and str(_FAULT.rank) != os.environ.get("RANK", "0"):
        return
    _FAULT.num_seen += 1
    if _FAULT.num_seen == _FAULT.nth:
        _act(_FAULT.action)


def _act(action: str) -> None:
    if action in ("enospc", "eio"):
        number = getattr(errno, action.upper())
        raise OSError(number, os.strerror(number))
    if action.startswith("sleep="):
        time.sleep(float(action.removeprefix("sleep=")))
    else:
        os.kill(os.getpid(), signal.Signals[action])
