"""`rank.json`, beside what torchrun captures of a rank: which rank of which run it is.

For the launcher of its machine, which knows the processes of torchrun by their numbers here alone, and on a machine
without the first rank not even the run directory that the ranks have agreed on.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from xtuner.run.atomic import read_object
from xtuner.run.layout import RunDir

FILE = "rank.json"


@dataclass(frozen=True)
class RankPlace:
    """A rank, and the run that it trains."""

    rank: int
    run_dir: RunDir


_own: RankPlace | None = None


def take_place(place: RankPlace) -> None:
    """Note that this process is that rank; where torchrun has not started it, nobody else is told."""
    global _own
    _own = place
    note = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if note:
        text = json.dumps({"rank": place.rank, "run_dir": str(place.run_dir.path.absolute())})
        try:
            Path(note).with_name(FILE).write_text(text, encoding="utf-8")
        except OSError:  # costs a name in an error
            pass


def own_place() -> RankPlace | None:
    """What this process has noted of itself."""
    return _own


def read_places(log_dir: Path) -> dict[int, RankPlace]:
    """The ranks under `log_dir`, the directory of an attempt or one above it, by their numbers on this machine."""
    places = {int(path.parent.name): _read(path) for path in log_dir.rglob(FILE) if path.parent.name.isdigit()}
    return {local_rank: place for local_rank, place in sorted(places.items()) if place}


def _read(path: Path) -> RankPlace | None:
    values = read_object(path)
    rank, run_dir = values.get("rank"), values.get("run_dir")
    return RankPlace(rank, RunDir(Path(run_dir))) if isinstance(rank, int) and isinstance(run_dir, str) else None
