"""Where tokens are kept between runs: one directory for each data file and way of tokenising it.

CACHE_DIR/
  stores/v1-<key>/        a `TokenStore`; the key is a hash of content, tokenizer, template, options, version
  stores/v1-<key>.lock    held while it is made; the next one that wants the same waits and finds it
  plans/v1-<key>/         pack plans
  files/<key>.json        the content hash of a data file, with the size and times it was taken at

A store is made under a temporary name and renamed when it is whole: that rename is the commit. Readers never lock.
"""

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from xtuner.data.sources import DataFile, FileState
from xtuner.errors import DataError, EnvironmentFault
from xtuner.user_cache import user_cache_dir

# Raise it when the same input gives other tokens, or the files of a store change.
CACHE_VERSION = 1
_HASH_BLOCK = 2**22
# A file that was written this recently may change again without a new time stamp.
_RACY_NS = 2 * 10**9


def default_cache_dir() -> Path:
    """Where tokens are kept when no other place is named."""
    return user_cache_dir() / "data"


@dataclass(frozen=True)
class CacheEntry:
    """One store, as `xtuner cache ls` lists it."""

    name: str
    path: Path
    num_bytes: int
    used_at: float
    source: str
    num_rows: int
    num_tokens: int


class TokenCache:
    """The cache below one directory."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_cache_dir()
        self._stores = self.directory / "stores"
        self._files = self.directory / "files"
        self._plans = self.directory / "plans"

    def prepare(self) -> None:
        """Make the directories.

        Raises:
            EnvironmentFault: they cannot be made.
        """
        try:
            for directory in (self._stores, self._files, self._plans):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"the cache directory {self.directory} cannot be written: {error.strerror}",
                hint="pass --cache-dir DIR, a directory that can",
            ) from None

    def store_path(self, key: str) -> Path:
        """Where the store of `key` is, once it is there."""
        return self._stores / f"v{CACHE_VERSION}-{key[:32]}"

    def plan_path(self, key: str) -> Path:
        """Where the pack plan of `key` is, once it is there."""
        return self._plans / f"v{CACHE_VERSION}-{key[:32]}"

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Only one process at a time makes `path`; the kernel frees the lock of one that dies.

        A file system without locks lets several make the same: the first rename wins, and all are equal.

        Raises:
            EnvironmentFault: the cache cannot be written.
        """
        try:
            descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._fault(error) from None
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def making(self, path: Path) -> Iterator[Path]:
        """A temporary directory that becomes `path` when the block ends without error.

        Raises:
            EnvironmentFault: the disk is full or the cache cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.iterdir():
                _sync(file)
            _rename_unless_there(temporary, path)
        except OSError as error:
            raise self._fault(error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def discard(self, path: Path) -> None:
        """Delete a damaged store or plan; its lock must be held."""
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()

    def _fault(self, error: OSError) -> EnvironmentFault:
        return EnvironmentFault(
            f"the cache {self.directory} cannot be written: {error.strerror or error}",
            hint="free some space (xtuner cache ls; xtuner cache rm), or pass another --cache-dir",
        )

    def content_hash(self, file: DataFile) -> str:
        """SHA-256 of the file's bytes, in hex; taken from memory where size, times and inode are what they were.

        Raises:
            DataError: it cannot be read any more.
        """
        note = self._files / f"{sha256(os.fsencode(file.path.absolute())).hexdigest()[:32]}.json"
        state = asdict(file.state)
        with suppress(OSError, ValueError, LookupError, TypeError):
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["state"] == state:
                return str(known["sha256"])
        try:
            digest, after = _hash_file(file.path), FileState.of(file.path)
        except OSError as error:
            raise DataError(
                f"{file.path} cannot be read: {error.strerror}", hint="start again with a file that stays"
            ) from None
        if after == file.state and time.time_ns() - file.state.ctime_ns > _RACY_NS:
            self._remember(note, {"path": str(file.path.absolute()), "state": state, "sha256": digest})
        return digest

    def _remember(self, note: Path, value: object) -> None:
        temporary = note.with_name(f".{note.name}.{os.getpid()}.tmp")
        with suppress(OSError):  # only the next start is slower without it
            temporary.write_text(json.dumps(value), encoding="utf-8")
            os.replace(temporary, note)

    def touch(self, path: Path) -> None:
        """Remember that `path` was used."""
        with suppress(OSError):
            os.utime(path)

    def entries(self) -> list[CacheEntry]:
        """What is in the cache, the longest unused first."""
        found = [_entry(path) for path in sorted(self._stores.glob(f"v{CACHE_VERSION}-*")) if path.is_dir()]
        return sorted(found, key=lambda entry: entry.used_at)

    def sweep(self) -> int:
        """Delete what nobody will use: parts of processes that died, stores of other versions, plans (made again in
        seconds). Returns how many there were."""
        doomed = [path for path in (*self._stores.glob("*"), *self._plans.glob("*")) if not self._is_in_use(path)]
        for path in doomed:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return sum(path.suffix == ".tmp" for path in doomed)

    def _is_in_use(self, path: Path) -> bool:
        if path.suffix == ".tmp":  # .<name>.<pid>.<hex>.tmp
            pid = path.name.split(".")[-3:][0]
            return pid.isdecimal() and _is_alive(int(pid))
        if path.parent == self._plans:
            return False
        is_current = path.name.startswith(f"v{CACHE_VERSION}-")
        return is_current and (path.is_dir() or path.with_suffix("").is_dir() or _is_locked(path))

    def remove(self, entry: CacheEntry) -> None:
        """Delete one store; a run that has it mapped keeps its pages."""
        shutil.rmtree(entry.path, ignore_errors=True)
        entry.path.with_name(f"{entry.path.name}.lock").unlink(missing_ok=True)

    def remove_all(self) -> None:
        """Delete the whole cache."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _entry(path: Path) -> CacheEntry:
    source, rows, tokens = "?", 0, 0
    with suppress(OSError, ValueError, KeyError):
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        source, rows, tokens = meta["notes"]["path"], meta["counts"]["rows"], meta["counts"]["tokens"]
    num_bytes = sum(file.stat().st_size for file in path.iterdir())
    return CacheEntry(path.name, path, num_bytes, path.stat().st_mtime, source, rows, tokens)


def _hash_file(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_unless_there(temporary: Path, path: Path) -> None:
    """Another process may have made the same in the meantime."""
    try:
        os.rename(temporary, path)
    except OSError:
        if not path.is_dir():
            raise
