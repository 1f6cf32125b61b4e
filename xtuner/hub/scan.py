"""Every byte of a weight file read once: values that are not finite, matrices of zeros, and the file's checksum.

Standard library only, and faster than SHA-256: floating-point numbers with an exponent of all ones (NaN, infinity)
have one of very few highest bytes, which sound weights never have. So every second (16 bit), fourth or eighth byte is
cut out of a block by one slice, and `in` looks for those few; other bytes are looked at where one is found.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from xtuner.hub.checksums import Checksum
from xtuner.hub.findings import HubError, shown_path
from xtuner.hub.regular_file import open_regular
from xtuner.hub.safetensors_header import SafetensorsHeader, TensorInfo

if TYPE_CHECKING:
    from hashlib import _Hash

_BLOCK_BYTES = 2**20  # fits a core's cache
_ZEROS = bytes(_BLOCK_BYTES)


class _FloatFormat:
    """Where the all-ones exponent of a little-endian float is: in its highest byte and in bits of the one below."""

    def __init__(self, num_bytes: int, highest: bytes, mask_below: int) -> None:
        self.num_bytes = num_bytes
        self._highest = highest
        self._mask_below = mask_below
        self._pattern = re.compile(b"[" + re.escape(highest) + b"]")

    def find_non_finite(self, block: bytearray) -> int | None:
        """The position of the first NaN or infinity in whole numbers, or None."""
        top = block[self.num_bytes - 1 :: self.num_bytes]
        if not any(byte in top for byte in self._highest):
            return None
        for match in self._pattern.finditer(top):
            below = block[match.start() * self.num_bytes + self.num_bytes - 2]
            if below & self._mask_below == self._mask_below:
                return match.start()
        return None


_FORMATS = {
    "F16": _FloatFormat(2, b"\x7c\x7d\x7e\x7f\xfc\xfd\xfe\xff", 0),
    "BF16": _FloatFormat(2, b"\x7f\xff", 0x80),
    "F32": _FloatFormat(4, b"\x7f\xff", 0x80),
    "F64": _FloatFormat(8, b"\x7f\xff", 0xF0),
}


@dataclass(frozen=True)
class FileScan:
    """What reading all of a file tells.

    Attributes:
        non_finite: tensor to the position of its first NaN or infinity.
        zeros: tensors of nothing but zeros, in the order of the file.
        ends_in_zeros: the tensors at the end of the file that are zeros, one after the other.
        matches: whether the checksum is the one expected; None where none is known.
    """

    non_finite: dict[str, int]
    zeros: tuple[str, ...]
    ends_in_zeros: tuple[str, ...]
    matches: bool | None


def scan_weight_file(
    path: Path, header: SafetensorsHeader, checksum: Checksum | None, on_read: Callable[[int], None]
) -> FileScan:
    """Read all of `path`; `on_read` gets the number of bytes of each block.

    Raises:
        HubError: the file cannot be opened, or is shorter than its header says by now.
        OSError: the disk fails.
    """
    non_finite: dict[str, int] = {}
    zeros: list[str] = []
    in_order = sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    tail: list[str] = []
    with open_regular(path) as file:
        digest = checksum.start(os.fstat(file.fileno()).st_size) if checksum else None
        reader = _BlockReader(path, file, digest, on_read)
        reader.skip(header.data_start)
        for name, tensor in in_order:
            position, is_zero = _scan_tensor(tensor, reader)
            if position is not None:
                non_finite[name] = position
            if is_zero:
                zeros.append(name)
                tail.append(name)
            elif tensor.end > tensor.begin:
                tail.clear()
    matches = digest.hexdigest() == checksum.etag if digest and checksum else None
    return FileScan(non_finite, tuple(zeros), tuple(tail), matches)


def file_matches(path: Path, checksum: Checksum) -> bool:
    """Whether all bytes of `path` have that checksum.

    Raises:
        HubError, OSError: as `scan_weight_file`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest = checksum.start(size)
        _BlockReader(path, file, digest, lambda num_bytes: None).skip(size)
    return digest.hexdigest() == checksum.etag


class _BlockReader:
    """Reads a file block by block into one buffer, and hashes what it reads."""

    def __init__(self, path: Path, file: BinaryIO, digest: "_Hash | None", on_read: Callable[[int], None]) -> None:
        self._path = path
        self._file = file
        self._digest = digest
        self._on_read = on_read
        self._buffer = bytearray(_BLOCK_BYTES)

    def read(self, num_bytes: int) -> bytearray:
        """The next `num_bytes`, at most a block; good until the next call."""
        if len(self._buffer) != num_bytes:
            self._buffer = bytearray(num_bytes)
        if self._file.readinto(self._buffer) != num_bytes:  # type: ignore[attr-defined]
            raise HubError(
                "SHARD_TRUNCATED", f"{shown_path(self._path)} became shorter while it was read", hint="try again"
            )
        if self._digest:
            self._digest.update(self._buffer)
        self._on_read(num_bytes)
        return self._buffer

    def skip(self, num_bytes: int) -> None:
        """Read and hash only."""
        for begin in range(0, num_bytes, _BLOCK_BYTES):
            self.read(min(_BLOCK_BYTES, num_bytes - begin))


def _scan_tensor(tensor: TensorInfo, reader: _BlockReader) -> tuple[int | None, bool]:
    """The position of the first value that is not finite, and whether all bytes are zeros."""
    float_format = _FORMATS.get(tensor.dtype)
    position, is_zero = None, tensor.end > tensor.begin
    for begin in range(tensor.begin, tensor.end, _BLOCK_BYTES):
        block = reader.read(min(_BLOCK_BYTES, tensor.end - begin))
        is_zero = is_zero and block == _ZEROS[: len(block)]
        if float_format and position is None and not is_zero:
            found = float_format.find_non_finite(block)
            if found is not None:
                position = (begin - tensor.begin) // float_format.num_bytes + found
    return position, is_zero
