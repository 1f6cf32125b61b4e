"""A path that is no model directory: what it is instead, and what was probably meant."""

import difflib
import errno
import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from xtuner.hub.cache_layout import Snapshot, explain_cache, recognise_cache
from xtuner.hub.findings import Finding, fail, shown_path
from xtuner.hub.regular_file import unreadable

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_SCHEME = re.compile(r"^(https?):/+")
_HUB_URL = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf-mirror\.com)/([\w][\w.-]*/[\w][\w.-]*)(?:/.*)?")
_WINDOWS_PATH = re.compile(r"([A-Za-z]):[\\/](.*)", re.DOTALL)
_MAX_LISTED = 10


@dataclass(frozen=True)
class Diversion:
    """Why a path is not the one, the directories that may be meant, and the one that must be.

    `snapshots` are the candidates again, where they are in a Hub cache.
    """

    finding: Finding
    candidates: tuple[Path, ...] = ()
    suggestion: Path | None = None
    snapshots: tuple[Snapshot, ...] = ()


def judge_path(text: str) -> Diversion | None:
    """What is wrong with the path itself, or None for a directory that could be a model's."""
    path = Path(text)
    try:
        mode = os.stat(text).st_mode
        names = os.listdir(path) if stat.S_ISDIR(mode) else []
        os.stat(os.path.join(text, ".") if stat.S_ISDIR(mode) else text)  # names may be readable, and files not
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
        is_link = "\0" not in text and os.path.islink(text)
        return Diversion(unreadable(path, FileNotFoundError(errno.ENOENT, "")).finding()) if is_link else _missing(text)
    except OSError as error:
        return _missing(text) if error.errno == errno.ENAMETOOLONG else Diversion(unreadable(path, error).finding())
    if not stat.S_ISDIR(mode):
        return _explain_file(path)
    if "config.json" in names:
        return None
    cache = recognise_cache(path if path.name not in ("", "..") else Path(os.path.abspath(path)))
    if cache is None:
        return None
    candidates = tuple(snapshot.path for snapshot in cache.snapshots)
    suggestion = cache.chosen.path if cache.chosen else None
    return Diversion(explain_cache(path, cache), candidates, suggestion, cache.snapshots)


def explain_parent(path: Path) -> Diversion | None:
    """For a directory without config.json: the model directories right below it, if any."""
    found: dict[Path, Path] = {}
    for name in sorted(os.listdir(path)):
        if os.path.isfile(path / name / "config.json"):
            found.setdefault((path / name).resolve(), path / name)
    inside = list(found.values())
    if not inside:
        return None
    if len(inside) == 1:
        message = f"{shown_path(path)} is no model directory, but it holds one"
        return Diversion(fail("PARENT_OF_MODELS", message, f"use {shown_path(inside[0])}"), (inside[0],), inside[0])
    more = f"\n… {len(inside) - _MAX_LISTED} more" if len(inside) > _MAX_LISTED else ""
    lines = "".join(f"\n{shown_path(child)}" for child in inside[:_MAX_LISTED])
    message = f"{shown_path(path)} is no model directory, but it holds {len(inside)} of them"
    return Diversion(fail("PARENT_OF_MODELS", message, f"use one of them:{lines}{more}"), tuple(inside))


def _explain_file(path: Path) -> Diversion:
    kind = "a file" if path.is_file() else "not a directory"
    message = f"{shown_path(path)} is {kind}, and a model is a directory"
    parent = path.parent
    if os.path.isfile(parent / "config.json"):
        return Diversion(fail("NOT_A_DIRECTORY", message, f"use {shown_path(parent)}"), (parent,), parent)
    hint = "pass the directory with config.json and the safetensors files"
    if path.suffix == ".gguf":
        hint = "GGUF files cannot be trained; get the original model with config.json and safetensors files"
    return Diversion(fail("NOT_A_DIRECTORY", message, hint))


def _missing(text: str) -> Diversion:
    if not text.strip():
        return Diversion(fail("PATH_MISSING", "the path of the model is empty", "pass a model directory"))
    text = _SCHEME.sub(r"\1://", text)  # a Path has made one slash of two
    message = f"there is no model directory {shown_path(text)!r}"
    meant = _meant_path(text)
    if meant:
        return Diversion(fail("PATH_MISSING", message, f"use {shown_path(meant)}"), (meant,), meant)
    repo_id = _hub_id(text)
    similar = _similar_paths(Path(text))
    if similar and not (repo_id and not os.path.isdir(Path(text.strip()).parent)):
        return Diversion(fail("PATH_MISSING", message, f"did you mean {' or '.join(similar)}?"))
    if repo_id:
        folder = repo_id.partition("/")[2]
        message = f"{shown_path(text)!r} is not a directory here; it looks like a model on the Hub"
        download = shlex.join(["xtuner", "download", repo_id, "--local-dir", folder])
        return Diversion(fail("HUB_ID", message, f"download it first, then pass the directory {folder}: {download}"))
    hint = "check the path; it must be a local directory with config.json and safetensors files"
    return Diversion(fail("PATH_MISSING", message, hint))


def _meant_path(text: str) -> Path | None:
    """A directory that differs from `text` in what a shell, a copy or another system does to paths."""
    stripped = text.strip().strip("'\"").strip()
    windows = _WINDOWS_PATH.fullmatch(stripped)
    guesses = [
        stripped,
        os.path.expanduser(stripped),
        os.path.expandvars(stripped),
        stripped.removeprefix("file://"),
        stripped.replace("\\ ", " "),
        f"/mnt/{windows[1].lower()}/{windows[2]}".replace("\\", "/") if windows else stripped.replace("\\", "/"),
    ]
    return next((Path(guess) for guess in guesses if guess and guess != text and os.path.isdir(guess)), None)


def _hub_id(text: str) -> str:
    """`org/name` when `text` is that, or the address of that model's page; else nothing."""
    url = _HUB_URL.fullmatch(text.strip())
    if url:
        return url[1]
    return text.strip() if _HUB_ID.fullmatch(text.strip()) else ""


def _similar_paths(path: Path) -> list[str]:
    """Directories whose names are like the first part of `path` that does not exist."""
    parent = path.parent
    while not os.path.isdir(parent) and parent != parent.parent:
        parent = parent.parent
    try:
        names = [name for name in os.listdir(parent) if os.path.isdir(parent / name)]
    except OSError:
        return []
    wanted = path.relative_to(parent).parts[0]
    return [shown_path(parent / name) for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)]
