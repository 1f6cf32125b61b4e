"""`pulses/rank0.json`: how far each rank has come, so that others can see which one does not go on.

A pulse is worth something only while its process lives, so its file is written over in place and not made durable;
a reader that comes in the middle reads it again at the next beat.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xtuner.run.atomic import read_object
from xtuner.run.layout import RunDir
from xtuner.run.process import ProcessIdentity, this_process

# What each field may hold in a file that anyone could have written.
_KINDS: dict[str, tuple[type, ...]] = {
    "rank": (int,),
    "host": (str,),
    "pid": (int,),
    "born": (str,),
    "error_file": (str,),
    "interval_s": (int, float),
    "num_beats": (int,),
    "progress": (int,),
    "step": (int,),
    "phase": (str,),
    "patience_s": (int, float),
}


@dataclass(frozen=True)
class Pulse:
    """Where a rank is.

    Attributes:
        rank: of the process.
        host, pid, born: the process, see `ProcessIdentity`.
        error_file: where torchrun looks for the note that the rank leaves when it fails; empty without torchrun.
        interval_s: seconds between two beats.
        num_beats: grows as long as a thread of the process can run.
        progress: points that the training has passed; all ranks of a run pass the same ones in the same order.
        step: the step at hand.
        phase: what is done in it, in words.
        patience_s: how long the rank may stay at this point; 0 for ever.
    """

    rank: int
    host: str
    pid: int
    born: str
    error_file: str = ""
    interval_s: float = 5.0
    num_beats: int = 0
    progress: int = 0
    step: int = 0
    phase: str = ""
    patience_s: float = 0.0

    @property
    def process(self) -> ProcessIdentity:
        """The process of the rank."""
        return ProcessIdentity(self.host, self.pid, self.born)

    @property
    def where(self) -> str:
        """Step and phase, in words."""
        return f"step {self.step} ({self.phase})" if self.step else self.phase


def own_pulse(rank: int, interval_s: float) -> Pulse:
    """The pulse of this process before its first beat."""
    process = this_process()
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    return Pulse(rank, process.host, process.pid, process.born, error_file, interval_s)


def write_pulse(run_dir: RunDir, pulse: Pulse) -> None:
    """Write the pulse of a rank; to be called by one thread alone.

    Raises:
        OSError: it cannot be written.
    """
    path = run_dir.pulse(pulse.rank)
    data = json.dumps(asdict(pulse)).encode()
    try:
        # Closed each time: that is when another machine gets to see it on a network file system.
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def read_pulses(run_dir: RunDir) -> dict[int, Pulse]:
    """The newest pulse of each rank; one that cannot be read is left out."""
    try:
        names = os.listdir(run_dir.pulses)
    except OSError:
        return {}
    pulses = filter(None, (_read(run_dir.pulses / name) for name in names))
    return {pulse.rank: pulse for pulse in sorted(pulses, key=lambda pulse: pulse.rank)}


def _read(path: Path) -> Pulse | None:
    values = read_object(path)
    known: dict[str, Any] = {name: values[name] for name in _KINDS if name in values}
    try:
        return Pulse(**known) if all(isinstance(value, _KINDS[name]) for name, value in known.items()) else None
    except TypeError:  # a field is missing
        return None
