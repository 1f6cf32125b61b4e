"""The bytes of one file so far, on disk: what is left of a download that was cut, and where it goes on."""

import fcntl
import hashlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol

from xtuner.errors import EnvironmentFault, ModelError
from xtuner.hub.findings import shown_path

_BLOCK_BYTES = 4 * 2**20


class CountBytes(Protocol):
    """A function that hears of bytes."""

    def __call__(self, num_bytes: int, *, is_old: bool = False) -> None:
        """Told of bytes that came; a negative number takes back what was told before."""


class Stopped(Exception):
    """The user stopped the download; raised where bytes are written."""


class PartialFile:
    """A file that grows to `expected_size` bytes and knows the sha256 of what it holds.

    It takes the part of a file in `http_get` of huggingface_hub, which writes, and goes back to the beginning where a
    server ignores `Range`. `on_bytes` hears of all bytes, with `is_old` of those that were there before.

    Raises:
        EnvironmentFault: another process writes the same file.
        ModelError: more bytes come than the Hub said.
        Stopped: `stop` was set.
    """

    def __init__(self, path: Path, expected_size: int, on_bytes: CountBytes, stop: threading.Event) -> None:
        self.path = path
        self.expected_size = expected_size
        self.size = 0
        self._on_bytes = on_bytes
        self._stop = stop
        self._sha256 = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW: in a directory that others can write to, a link could lead to a file of the user's.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_what_is_there()
        except BlockingIOError:
            self._file.close()
            message = f"another process is downloading {shown_path(path)}"
            raise EnvironmentFault(message, hint="wait for it, then run the same command again") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Of the bytes so far."""
        return self._sha256.hexdigest()

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are there, right or wrong."""
        return self.size == self.expected_size

    def write(self, chunk: bytes) -> int:
        """Append, and leave nothing in a buffer that a kill would lose."""
        if self._stop.is_set():
            raise Stopped
        if self.size + len(chunk) > self.expected_size:
            message = f"more bytes came for {shown_path(self.path)} than the {self.expected_size:,} that the Hub lists"
            raise ModelError(message, hint="try another endpoint: this one serves another file")
        self._file.write(chunk)
        self._file.flush()
        self._count(chunk)
        return len(chunk)

    def tell(self) -> int:
        """The number of bytes so far."""
        return self.size

    def seek(self, position: int) -> int:
        """Go back to the beginning, the one place there is a reason to go to."""
        assert position == 0, position
        self.start_over()
        return 0

    def truncate(self) -> int:
        """Drop what is behind the position: nothing, as `seek` has done it."""
        return self.size

    def start_over(self) -> None:
        """Drop all bytes."""
        self._file.seek(0)
        self._file.truncate()
        self._on_bytes(-self.size)
        self.size = 0
        self._sha256 = hashlib.sha256()

    def _read_what_is_there(self) -> None:
        if os.fstat(self._file.fileno()).st_size > self.expected_size:
            self._file.truncate(0)
        while block := self._file.read(_BLOCK_BYTES):
            if self._stop.is_set():
                raise Stopped
            self._count(block, is_old=True)

    def _count(self, chunk: bytes, *, is_old: bool = False) -> None:
        self._sha256.update(chunk)
        self.size += len(chunk)
        self._on_bytes(len(chunk), is_old=is_old)
