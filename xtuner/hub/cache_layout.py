"""Hub cache layouts: `models--org--name/{blobs,refs,snapshots/<revision>}`."""

from dataclasses import dataclass
from pathlib import Path

_PREFIX = "models--"


@dataclass(frozen=True)
class CacheLayout:
    """A part of a Hub cache: what it is in words, and the snapshots in it, the likeliest first.

    `is_certain` says that the first snapshot is the one that `refs/main` names, or the only one.
    """

    what: str
    snapshots: tuple[Path, ...]
    is_certain: bool


def recognise_cache(path: Path) -> CacheLayout | None:
    """The Hub cache part that `path` is, or None."""
    if path.name == "snapshots" and (path.parent / "refs").is_dir():
        return _of_repo(path.parent, "the `snapshots` folder of a Hub cache")
    if (path / "snapshots").is_dir() and ((path / "blobs").is_dir() or (path / "refs").is_dir()):
        return _of_repo(path, "a model's folder in a Hub cache (blobs/ refs/ snapshots/)")
    repos = sorted(child for child in path.glob(f"{_PREFIX}*") if child.is_dir())
    if not repos:
        return None
    inside = [_of_repo(repo, "") for repo in repos]
    snapshots = tuple(layout.snapshots[0] for layout in inside if layout.snapshots)
    return CacheLayout(f"the root of a Hub cache with {len(repos)} models", snapshots, len(snapshots) == 1)


def _of_repo(repo: Path, what: str) -> CacheLayout:
    folder = repo / "snapshots"
    snapshots = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    main = _main_revision(repo)
    snapshots.sort(key=lambda snapshot: snapshot.name != main)
    is_certain = len(snapshots) == 1 or bool(snapshots and snapshots[0].name == main)
    return CacheLayout(what, tuple(snapshots), is_certain)


def _main_revision(repo: Path) -> str:
    try:
        return (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
