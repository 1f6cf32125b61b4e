"""Hub cache layouts: `models--org--name/{blobs,refs,snapshots/<revision>}`, and the snapshots meant by them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtuner.hub.findings import Finding, HubError, fail, shown, shown_path
from xtuner.hub.regular_file import open_regular
from xtuner.hub.weights import weight_files

_PREFIX = "models--"
_MAX_CHOICES = 10


@dataclass(frozen=True)
class Snapshot:
    """One revision of a model in a Hub cache; complete means that config.json and all weight files are there."""

    path: Path
    repo_id: str
    is_main: bool
    is_complete: bool
    modified_s: float

    @property
    def date(self) -> str:
        """The day it was last written to, as 2025-03-01."""
        return time.strftime("%Y-%m-%d", time.localtime(self.modified_s))

    def to_json(self) -> dict[str, Any]:
        """The snapshot as JSON values; the keys are stable."""
        return {
            "path": shown_path(self.path),
            "repo_id": self.repo_id,
            "revision": shown(self.path.name),
            "is_main": self.is_main,
            "date": self.date,
            "is_complete": self.is_complete,
        }

    def describe(self) -> str:
        """The same on one line."""
        state = "complete" if self.is_complete else "incomplete"
        return f"{shown_path(self.path)} ({self.repo_id}{', main' * self.is_main}, {self.date}, {state})"


@dataclass(frozen=True)
class CacheLayout:
    """A part of a Hub cache: its reason code, what it is in words, and the snapshots below it.

    `chosen` is the one that must be meant: the only one, or the one that `refs/main` names.
    """

    code: str
    what: str
    repo_ids: tuple[str, ...]
    snapshots: tuple[Snapshot, ...]
    chosen: Snapshot | None


def hub_cache() -> Path:
    """Where `huggingface_hub` keeps what it downloads: its environment variables, in its order, without its import."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(given)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (_expanded(cache) if cache else Path.home() / ".cache") / "huggingface" / "hub"


def _expanded(text: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(text)))


def recognise_cache(path: Path) -> CacheLayout | None:
    """The Hub cache part that `path` is, or None."""
    if path.name == "snapshots" and (_is_repo(path.parent) or path.parent.name.startswith(_PREFIX)):
        return _of_repo(path.parent, "HUB_CACHE_SNAPSHOTS", "the `snapshots` folder of {} in a Hub cache")
    if path.name in ("blobs", "refs") and _is_repo(path.parent):
        return _of_repo(path.parent, "HUB_CACHE_REPO", f"the `{path.name}` folder of {{}} in a Hub cache")
    if _is_repo(path) or path.name.startswith(_PREFIX):
        return _of_repo(path, "HUB_CACHE_REPO", "the folder of {} in a Hub cache (blobs/ refs/ snapshots/)")
    if _repos(path):
        return _of_root(_repos(path), "the root of a Hub cache")
    around = _repos(path / "hub")  # as in ~/.cache/huggingface
    if around and not any(os.path.isfile(path / name / "config.json") for name in _folders(path)):
        return _of_root(around, "the folder around a Hub cache")
    return None


def explain_cache(path: Path, cache: CacheLayout) -> Finding:
    """What the directory is, in one sentence, and the snapshot to use instead."""
    message = f"{shown_path(path)} is {cache.what}, not a model directory"
    others = [snapshot for snapshot in cache.snapshots if snapshot is not cache.chosen]
    if cache.chosen:
        note = "" if cache.chosen.is_complete else " (incomplete: its download did not end)"
        lines = [f"use its snapshot {shown_path(cache.chosen.path)}{note}"]
        lines += [f"it is the main one of {len(cache.snapshots)}; the others:"] if others else []
        return fail(cache.code, message, "\n".join([*lines, *_list(others)]))
    if others:
        lines = [f"use one of the {len(others)} snapshots in it:", *_list(others)]
        return fail(cache.code, message, "\n".join(lines))
    again = f"xtuner download {cache.repo_ids[0]}" if len(cache.repo_ids) == 1 else "download the model again"
    return fail(cache.code, message, f"it holds no snapshot: {again}")


def _list(snapshots: list[Snapshot]) -> list[str]:
    more = len(snapshots) - _MAX_CHOICES
    return [*(snapshot.describe() for snapshot in snapshots[:_MAX_CHOICES]), *([f"… {more} more"] if more > 0 else [])]


def _is_repo(path: Path) -> bool:
    if path.name.startswith(("datasets--", "spaces--")):
        return False
    is_there = [os.path.isdir(path / part) for part in ("snapshots", "blobs", "refs")]
    return is_there[0] and any(is_there[1:])


def _repos(root: Path) -> list[Path]:
    return [root / name for name in _folders(root) if name.startswith(_PREFIX)]


def _of_root(repos: list[Path], what: str) -> CacheLayout:
    layouts = [_of_repo(repo, "HUB_CACHE_ROOT", "") for repo in repos]
    choices = [(layout.chosen,) if layout.chosen else layout.snapshots for layout in layouts]
    snapshots = tuple(snapshot for choice in choices for snapshot in choice)
    count = "one model" if len(repos) == 1 else f"{len(repos)} models"
    return CacheLayout(
        "HUB_CACHE_ROOT",
        f"{what} with {count}",
        tuple(repo_id for layout in layouts for repo_id in layout.repo_ids),
        snapshots,
        snapshots[0] if len(snapshots) == 1 else None,
    )


def _of_repo(repo: Path, code: str, what: str) -> CacheLayout:
    repo_id = _repo_id(repo)
    main = _main_revision(repo)
    folder = repo / "snapshots"
    found = [_snapshot(folder / name, repo_id, name == main) for name in _folders(folder)]
    found.sort(key=lambda snapshot: (not snapshot.is_main, not snapshot.is_complete, -snapshot.modified_s))
    is_certain = len(found) == 1 or bool(found and found[0].is_main)
    return CacheLayout(code, what.format(repo_id), (repo_id,), tuple(found), found[0] if is_certain else None)


def _repo_id(repo: Path) -> str:
    """`models--Qwen--Qwen3-8B` is Qwen/Qwen3-8B; a link may have another name than the folder."""
    name = next((name for name in (repo.name, repo.resolve().name) if name.startswith(_PREFIX)), "")
    return shown_path(name.removeprefix(_PREFIX).replace("--", "/")) or "a model"


def _snapshot(path: Path, repo_id: str, is_main: bool) -> Snapshot:
    try:
        modified_s = os.stat(path).st_mtime
    except OSError:
        modified_s = 0.0
    return Snapshot(path, repo_id, is_main, _is_complete(path), modified_s)


def _is_complete(path: Path) -> bool:
    try:
        files = weight_files(path)
    except HubError:
        return False
    return bool(files) and all(map(os.path.isfile, [path / "config.json", *files]))


def _folders(path: Path) -> list[str]:
    """The names of the folders in `path`, sorted; none when it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def _main_revision(repo: Path) -> str:
    try:
        with open_regular(repo / "refs" / "main") as file:
            return file.read(200).decode("utf-8", "replace").strip()
    except (HubError, OSError):
        return ""
