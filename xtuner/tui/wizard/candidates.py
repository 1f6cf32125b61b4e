"""Models that are on this machine already: in the Hub cache, in the runs of the work dir, in the working directory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xtuner.hub.cache_layout import hub_cache, recognise_cache
from xtuner.language import _
from xtuner.run.atomic import read_json
from xtuner.run.layout import list_runs

_MAX_RUNS = 20
_MAX_CANDIDATES = 50


@dataclass(frozen=True)
class Candidate:
    """A directory that may be meant, and where it was found."""

    path: Path
    origin: str


def find_models(work_dir: Path, here: Path = Path()) -> list[Candidate]:
    """The models there are, those of the newest runs first; each directory once."""
    found: dict[str, Candidate] = {}
    for candidate in (*_of_runs(work_dir), *_of_cache(hub_cache()), *_of_directory(here)):
        found.setdefault(os.path.realpath(candidate.path), candidate)
    return list(found.values())[:_MAX_CANDIDATES]


def _of_cache(root: Path) -> Iterator[Candidate]:
    try:
        layout = recognise_cache(root)
    except OSError:
        return
    for snapshot in layout.snapshots if layout else ():
        if snapshot.is_complete:
            yield Candidate(snapshot.path, _("{repo_id} in the Hub cache").format(repo_id=snapshot.repo_id))


def _of_runs(work_dir: Path) -> Iterator[Candidate]:
    """What recent runs began from, and what came out of them."""
    for run in reversed(list_runs(work_dir)[-_MAX_RUNS:]):
        if run.latest_export.is_dir():
            yield Candidate(run.latest_export, _("export of the run {run}").format(run=run.name))
        try:
            config = read_json(run.config_json)
        except (OSError, ValueError):
            continue
        model = config.get("load_from") if isinstance(config, dict) else None
        if isinstance(model, str) and os.path.isfile(os.path.join(model, "config.json")):
            yield Candidate(Path(model), _("trained by the run {run}").format(run=run.name))


def _of_directory(directory: Path) -> Iterator[Candidate]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return
    for name in names:
        if os.path.isfile(directory / name / "config.json"):
            yield Candidate(directory / name, _("in this directory"))
