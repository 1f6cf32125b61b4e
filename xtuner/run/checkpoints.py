"""The checkpoints of a run as files: which there are, which are whole, how one comes to be and how it goes.

checkpoints/step-00000100/          one checkpoint; this name is given when everything in it is durable
    dcp/ state/rank-00000.json      what the trainer writes
    MANIFEST.json                   every file with its size and SHA-256, and what the checkpoint fits to
checkpoints/.tmp-step-00000200-3f9a one that is being written, or whose writer died; never read
checkpoints/.trash-...              one that is being removed
checkpoints/broken-step-...         one that was found broken when its step was saved again
checkpoints/latest -> step-00000100 a hint for people; nothing here reads it
"""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xtuner.run.atomic import read_json, sync_directory, write_json
from xtuner.run.faults import point
from xtuner.run.layout import RunDir, point_link
from xtuner.run.trash import empty_trash, list_named, throw_away

MANIFEST = "MANIFEST.json"
SCHEMA = 1
_NAME = re.compile(r"step-([0-9]{8})")
_TEMPORARY = ".tmp-"
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class FileEntry:
    """A file of a checkpoint: its path inside, bytes and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A directory with the name of a checkpoint; whether it is whole, `fault_of` tells.

    Attributes:
        path: of the directory.
        step: the optimizer step after which it was saved.
        seal: as it was when every byte was compared with the manifest, see `seal_of`; empty where that was not done.
    """

    path: Path
    step: int
    seal: str = field(default="", compare=False)

    @property
    def tensors(self) -> Path:
        """The parameters and the optimizer's state."""
        return self.path / "dcp"

    def rank_state(self, rank: int) -> Path:
        """What one rank alone knows: its random numbers."""
        return self.path / "state" / f"rank-{rank:05d}.json"

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        manifest = read_json(self.path / MANIFEST)
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} is no JSON object")
        return manifest


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that cannot be used, and why."""

    checkpoint: Checkpoint
    reason: str


# --- Which there are ---


def list_checkpoints(run_dir: RunDir) -> list[Checkpoint]:
    """The checkpoints of a run by their names, oldest step first."""
    try:
        names = os.listdir(run_dir.checkpoints)
    except OSError:
        return []
    found = [(int(match[1]), name) for name in names if (match := _NAME.fullmatch(name))]
    return [Checkpoint(run_dir.checkpoints / name, step) for step, name in sorted(found)]


def checkpoint_at(path: Path) -> Checkpoint | None:
    """The checkpoint whose directory `path` is, by its name."""
    match = _NAME.fullmatch(path.name)
    return Checkpoint(path, int(match[1])) if match and path.is_dir() else None


def fault_of(checkpoint: Checkpoint, *, reads_files: bool = True) -> str | None:
    """Why `checkpoint` cannot be used; None if it is whole.

    Args:
        checkpoint: the directory.
        reads_files: compare every file's SHA-256; without, sizes alone.
    """
    try:
        manifest = checkpoint.manifest()
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError) as error:
        return f"its {MANIFEST} cannot be read: {error}"
    if manifest.get("schema") != SCHEMA:
        return f"its {MANIFEST} has schema {manifest.get('schema')!r}, this version reads {SCHEMA}"
    if manifest.get("step") != checkpoint.step:
        return f"its {MANIFEST} is of step {manifest.get('step')!r}"
    try:
        entries = [FileEntry(**entry) for entry in manifest["files"]]
        faults = (_fault_of_file(checkpoint.path, entry, reads=reads_files) for entry in entries)
        return next((fault for fault in faults if fault), None)
    except (KeyError, TypeError, ValueError):
        return f"its {MANIFEST} lists no files"


def seal_of(checkpoint: Checkpoint) -> str:
    """A hash over the manifest and over what the system says of each file; empty where a file cannot be seen.

    While it is the same, no file has been written to or replaced: its `ctime` cannot be put back. Reading a hundred
    gigabytes takes minutes, asking for this an instant.
    """
    digest = hashlib.sha256()
    try:
        digest.update((checkpoint.path / MANIFEST).read_bytes())
        for entry in checkpoint.manifest()["files"]:
            status = (checkpoint.path / entry["name"]).stat()
            digest.update(f"{status.st_ino} {status.st_size} {status.st_ctime_ns}\n".encode())
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return digest.hexdigest()


def verify(checkpoint: Checkpoint, known_seal: str = "") -> tuple[Checkpoint, str | None]:
    """The checkpoint with its seal, and why it cannot be used; None if it is whole.

    Args:
        checkpoint: the directory.
        known_seal: that of the last time; the files are read again if it is another one now.
    """
    seal = seal_of(checkpoint)  # before the files are read: what is written meanwhile breaks it
    reason = fault_of(checkpoint, reads_files=not seal or seal != known_seal)
    return replace(checkpoint, seal=seal), reason


def newest_whole(run_dir: RunDir, known_seal: str = "") -> tuple[Checkpoint | None, list[Skipped]]:
    """The newest checkpoint of a run that is whole, and the newer ones that are not; `known_seal` as of `verify`."""
    skipped: list[Skipped] = []
    for named in reversed(list_checkpoints(run_dir)):
        checkpoint, reason = verify(named, known_seal)
        if reason is None:
            return checkpoint, skipped
        skipped.append(Skipped(checkpoint, reason))
    return None, skipped


def _fault_of_file(directory: Path, entry: FileEntry, *, reads: bool) -> str | None:
    if not entry.name or entry.name.startswith("/") or ".." in Path(entry.name).parts:
        return f"its {MANIFEST} names {entry.name!r}, which is not inside"
    path = directory / entry.name
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"{entry.name} has {size:,} bytes instead of {entry.size:,}"
        if reads and sha256_of(path) != entry.sha256:
            return f"{entry.name} is not what was written (its SHA-256 differs)"
    except OSError as error:
        return f"{entry.name} cannot be read: {error.strerror}"
    return None


# --- How one comes to be ---


def new_save_id() -> str:
    """What tells the temporary directories of two saves of a step apart."""
    return secrets.token_hex(4)


def temporary_directory(run_dir: RunDir, step: int, save_id: str) -> Path:
    """Where the checkpoint of `step` is written before it is whole."""
    return run_dir.checkpoints / f"{_TEMPORARY}step-{step:08d}-{save_id}"


def durable_entry(directory: Path, path: Path) -> FileEntry:
    """Make a small file that was written durable, and describe it; large ones are a `HashedFile`.

    Raises:
        OSError: the disk failed; what the file holds is not known then.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        point("save.fsync")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileEntry(path.relative_to(directory).as_posix(), path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def commit(
    run_dir: RunDir, temporary: Path, step: int, entries: Iterable[FileEntry], facts: Mapping[str, Any]
) -> Checkpoint:
    """Write the manifest, make every name durable, and give the checkpoint its name: from then on it exists.

    Args:
        run_dir: whose checkpoint it is.
        temporary: holds all files, each durable.
        step: the optimizer step after which it was saved.
        entries: the files.
        facts: what else the manifest says.

    Raises:
        OSError: it does not exist, or exists already.
    """
    files = [vars(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    point("save.manifest")
    write_json(temporary / MANIFEST, {"schema": SCHEMA, "step": step, **facts, "files": files})
    for directory, _, _ in os.walk(temporary, topdown=False):
        sync_directory(Path(directory))
    final = run_dir.checkpoints / f"step-{step:08d}"
    if final.exists() and fault_of(Checkpoint(final, step)):
        os.rename(final, final.with_name(f"broken-{final.name}-{secrets.token_hex(4)}"))
    point("save.rename.pre")
    os.rename(temporary, final)  # onto a whole checkpoint it fails: a directory that is not empty
    sync_directory(run_dir.checkpoints)
    point("save.rename.post")
    with suppress(OSError):  # a hint for people: without it the checkpoint is there all the same
        point_link(run_dir.checkpoints / "latest", final)
    return Checkpoint(final, step)


# --- How it goes ---


def prune(run_dir: RunDir, keep: int) -> list[Checkpoint]:
    """Remove the oldest whole checkpoints until `keep` are left, and what dead writers left; what was removed.

    Broken checkpoints neither count nor go: whoever wants to look into them can. The newest whole one never goes.

    Raises:
        OSError: a name could not be changed.
    """
    whole = [checkpoint for checkpoint in list_checkpoints(run_dir) if not fault_of(checkpoint, reads_files=False)]
    surplus = whole[: -max(1, keep)]
    for checkpoint in surplus:
        throw_away(checkpoint.path)
    if surplus:
        sync_directory(run_dir.checkpoints)
    remove_leftovers(run_dir)
    return surplus


def remove_leftovers(run_dir: RunDir) -> None:
    """Remove what saves and removals that never ended have left; only the run's one writer may call it."""
    empty_trash(run_dir.checkpoints)
    for temporary in list_named(run_dir.checkpoints, _TEMPORARY):
        shutil.rmtree(temporary, ignore_errors=True)
