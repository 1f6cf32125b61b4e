"""Points at which a test can let something go wrong: `XTUNER_FAULT="save.rename.pre:rank=1:nth=2:SIGKILL"`.

Several are separated by semicolons. The names of the points stand in the code that calls `point`. Without the variable
a call is one look at a constant.
"""

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = "XTUNER_FAULT"
_LOOK_EVERY_S = 0.02


@dataclass
class _Fault:
    name: str
    rank: int | None
    nth: int
    action: str
    num_seen: int = 0


def _read(text: str) -> list[_Fault]:
    return [_read_one(part) for part in text.split(";") if part]


def _read_one(text: str) -> _Fault:
    name, *options, action = text.split(":")
    values = dict(option.split("=", 1) for option in options)
    rank = int(values["rank"]) if "rank" in values else None
    return _Fault(name, rank, int(values.get("nth", "1")), action)


_FAULTS = _read(os.environ.get(_VARIABLE, ""))


def arm(text: str) -> None:
    """Let `text` hold from here on, as if the variable had said so; an empty one lets nothing go wrong."""
    global _FAULTS
    _FAULTS = _read(text)


def point(name: str) -> None:
    """Do what `XTUNER_FAULT` says for the point `name`, when it is reached for the nth time on its rank.

    Actions: the name of a signal, sent to this process; `enospc` and `eio`, raised; `sleep=SECONDS`; `hold=FILE`, which
    makes the file and waits until somebody has removed it.

    Raises:
        OSError: the variable asks for it.
    """
    for action in _due(name):
        _act(action)


def is_poisoned(name: str) -> bool:
    """Whether what is computed at the point `name` is to be no number: the action `nan`."""
    return "nan" in _due(name)


def _due(name: str) -> list[str]:
    """The actions of a point that is reached now."""
    actions = []
    for fault in _FAULTS:
        is_here = fault.rank is None or str(fault.rank) == os.environ.get("RANK", "0")
        if fault.name == name and is_here:
            fault.num_seen += 1
            if fault.num_seen == fault.nth:
                actions.append(fault.action)
    return actions


def _act(action: str) -> None:
    if action in ("enospc", "eio"):
        number = getattr(errno, action.upper())
        raise OSError(number, os.strerror(number))
    if action.startswith("sleep="):
        time.sleep(float(action.removeprefix("sleep=")))
    elif action.startswith("hold="):
        gate = Path(action.removeprefix("hold="))
        gate.touch()
        while gate.exists():
            time.sleep(_LOOK_EVERY_S)
    else:
        os.kill(os.getpid(), signal.Signals[action])
