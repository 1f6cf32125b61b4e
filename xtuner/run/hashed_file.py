"""A file that is hashed, and on its way to the disk, while it is written: reading it again for that takes as long."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xtuner.run.faults import point

# Large writes are cut, so that hashing one block runs beside writing the next; a small one is not worth a thread.
_BLOCK_BYTES = 2**20
_SMALL_BYTES = 2**16
# How much may wait for the disk before it is told to begin.
_BEGIN_AFTER_BYTES = 2**24


class HashedFile:
    """A new file to be written from its beginning to its end; durable when `close` has returned.

    Raises:
        OSError: it exists, or the disk failed; what it holds is not known then.

    Attributes:
        size: bytes written so far.
        error: why the disk did not take them; None if it did.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.error: OSError | None = None
        self._begun_bytes = 0
        self._digest = hashlib.sha256()
        self._file = path.open("xb")
        self._hasher = ThreadPoolExecutor(1, "hash")

    @property
    def sha256(self) -> str:
        """Of what was written so far, as hexadecimal digits."""
        return self._digest.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append `data`, which may change when this returns."""
        view = memoryview(data).cast("B")
        try:
            if view.nbytes < _SMALL_BYTES:
                self._digest.update(view)
                self._file.write(view)
            else:
                self._write_beside_hashing(view)
            self.size += view.nbytes
            self._let_disk_begin()
        except OSError as error:
            self.error = error
            raise
        return view.nbytes

    def _write_beside_hashing(self, view: memoryview) -> None:
        blocks = [view[start : start + _BLOCK_BYTES] for start in range(0, view.nbytes, _BLOCK_BYTES)]
        hashing = [self._hasher.submit(self._digest.update, block) for block in blocks]
        try:
            for block in blocks:
                self._file.write(block)
        finally:
            for one in hashing:
                one.result()

    def _let_disk_begin(self) -> None:
        """Linux then writes beside us; else all that fits into memory would wait for the fsync at the end."""
        if self.size - self._begun_bytes >= _BEGIN_AFTER_BYTES and hasattr(os, "posix_fadvise"):
            self._file.flush()
            length = self.size - self._begun_bytes
            os.posix_fadvise(self._file.fileno(), self._begun_bytes, length, os.POSIX_FADV_DONTNEED)
            self._begun_bytes = self.size

    def tell(self) -> int:
        """Where the next write goes."""
        return self.size

    def flush(self) -> None:
        """Give the system what was written."""
        self._file.flush()

    def close(self) -> None:
        """Make the file durable and close it; nothing the second time."""
        if self._file.closed:
            return
        try:
            self._file.flush()
            point("save.fsync")
            os.fsync(self._file.fileno())
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Close the file, whatever has become of it."""
        self._hasher.shutdown()
        self._file.close()
