"""Puts the demo's model and data on disk, once: `build_demo(directory)`.

What is there is described by `demo.json`, written last: format version and the hash of every file. Parts are made
in a hidden directory and renamed into place, so concurrent calls leave one good demo, a killed one is taken up
by the next call, and nothing that was there before is overwritten.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from xtuner.errors import EnvironmentFault, UsageError
from xtuner.user_cache import user_cache_dir

# Raise it with every change of the data set, the tokenizer or the model: the cache keeps one demo a version.
FORMAT_VERSION = 1
_MANIFEST = "demo.json"


@dataclass(frozen=True)
class DemoFiles:
    """Where the demo is: `model_dir` is a Hugging Face model directory, `dataset` a JSONL file of chats."""

    directory: Path
    model_dir: Path
    dataset: Path


def demo_cache_dir() -> Path:
    """Where the demo is kept between calls: one directory for each format version."""
    return user_cache_dir() / "demo" / f"v{FORMAT_VERSION}"


def build_demo(directory: Path) -> DemoFiles:
    """Write `model/` and `chats.jsonl` into `directory`, or find them there; the same bytes every time.

    Other files in `directory` stay as they are.

    Raises:
        UsageError: `directory` is a file, or holds a model or chats that are not this demo's.
        EnvironmentFault: `directory` cannot be written.
    """
    files = DemoFiles(directory, directory / "model", directory / "chats.jsonl")
    if _is_complete(directory):
        return files
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory", hint="name a directory, new or empty")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".building-", dir=directory))
        try:
            _write_parts(staging)
            for name in ("model", "chats.jsonl", _MANIFEST):
                _publish(staging / name, directory / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise EnvironmentFault(
            f"the demo cannot be written to {directory}: {error.strerror or error}",
            hint="free some space, or name another directory",
        ) from None
    return files


def _write_parts(directory: Path) -> None:
    # Here and not above: a demo that is already there needs neither numpy nor tokenizers.
    from xtuner.demo.chats import demo_chats
    from xtuner.demo.model import MAX_LENGTH, write_model
    from xtuner.demo.tokenizer import write_tokenizer

    chats = demo_chats()
    (directory / "model").mkdir()
    write_model(directory / "model")
    write_tokenizer(directory / "model", chats, max_length=MAX_LENGTH)
    rows = [json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats]
    (directory / "chats.jsonl").write_text("".join(rows), encoding="utf-8")
    manifest = {"format_version": FORMAT_VERSION, "sha256": _hashes(directory)}
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _publish(part: Path, target: Path) -> None:
    """Rename `part` to `target`, unless the same is already there, from an earlier call or a concurrent one."""
    if not target.exists():
        try:
            part.rename(target)
            return
        except OSError:
            if not target.exists():
                raise
    if _hashes(part) != _hashes(target):
        raise UsageError(
            f"{target} is in the way: it is not what this version of the demo would write there",
            hint="name another directory, or move it away",
        )


def _is_complete(directory: Path) -> bool:
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        return bool(
            manifest["format_version"] == FORMAT_VERSION
            and all(
                sha256((directory / name).read_bytes()).hexdigest() == hash_
                for name, hash_ in manifest["sha256"].items()
            )
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _hashes(path: Path) -> dict[str, str]:
    """sha256 of a file, or of all files below a directory, by relative path in order."""
    return {file.relative_to(path).as_posix(): sha256(file.read_bytes()).hexdigest() for file in sorted(_files(path))}


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])
