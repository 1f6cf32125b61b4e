"""Parts of weight files that were never written: they read as zeros, and no header tells.

A download that sets its space aside first, or a crash after the file had its size, leaves a file of the right length
whose end is zeros. Here a file's holes and its last bytes are looked at; `--deep` reads all of it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from xtuner.hub.findings import Finding, shown_names, shown_path, warn
from xtuner.hub.regular_file import open_regular
from xtuner.hub.safetensors_header import FLOAT_DTYPES, SafetensorsHeader, TensorInfo

_SAMPLE_BYTES = 4096
_MAX_SAMPLED = 100  # tensors, from the end of one file
_ZEROS = bytes(_SAMPLE_BYTES)
# Matrices of zeros by intention: biases and norms that are stored as matrices, positions and masks.
_MAY_BE_ZERO = re.compile(r"bias|norm|mask|position|scale|gate_score|lora_B|inv_freq", re.IGNORECASE)
_HINT = "download the file again; `xtuner check-model --deep` reads all of the weights"


def judge_unwritten(headers: Mapping[Path, SafetensorsHeader]) -> Iterator[Finding]:
    """A warning for each file that seems to have a part which was never written; a few KiB of each are read.

    Raises:
        HubError, OSError: a file cannot be read any more.
    """
    for path, header in headers.items():
        finding = judge_holes(path, header) or _judge_tail(path, header)
        if finding:
            yield finding


def judge_holes(path: Path, header: SafetensorsHeader) -> Finding | None:
    """A warning if the file has a hole where a matrix should be.

    Raises:
        HubError, OSError: the file cannot be read any more.
    """
    with open_regular(path) as file:
        hole = _first_hole(file, header.data_start)
    if hole is None:
        return None
    begin, end = (position - header.data_start for position in hole)
    inside = [
        name
        for name, tensor in header.tensors.items()
        if tensor.begin < end and tensor.end > begin and not may_be_zero(name, tensor)
    ]
    if not inside:
        return None
    message = f"{shown_path(path)} has a hole of {end - begin:,} bytes, where nothing was ever written"
    return warn("ZERO_FILLED", f"{message}: {shown_names(inside)}", _HINT)


def may_be_zero(name: str, tensor: TensorInfo) -> bool:
    """Whether zeros alone say nothing: in vectors, whole numbers, and by its name a bias, a norm or a mask."""
    is_matrix = len(tensor.shape) > 1 and tensor.begin < tensor.end and tensor.dtype in FLOAT_DTYPES
    return not is_matrix or bool(_MAY_BE_ZERO.search(name))


def _judge_tail(path: Path, header: SafetensorsHeader) -> Finding | None:
    with open_regular(path) as file:
        zeros = _zero_tail(file, header)
    if not zeros:
        return None
    message = f"{shown_path(path)} seems to end in zeros, as if it was never written to its end"
    return warn("ZERO_FILLED", f"{message}: {shown_names(zeros)}", _HINT)


def _first_hole(file: BinaryIO, data_start: int) -> tuple[int, int] | None:
    """Begin and end of the first hole behind the header; None where the file system knows of none.

    Compressing file systems store zeros of any origin as holes; those in biases and norms are left out by the caller.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        begin = os.lseek(file.fileno(), data_start, os.SEEK_HOLE)
        if begin >= size or _read(file, begin, min(_SAMPLE_BYTES, size - begin)).strip(b"\0"):
            return None
        try:
            end = os.lseek(file.fileno(), begin, os.SEEK_DATA)
        except OSError:  # ENXIO: no data up to the end
            end = size
    except (OSError, AttributeError):  # a system without holes
        return None
    return begin, end


def _zero_tail(file: BinaryIO, header: SafetensorsHeader) -> list[str]:
    """The matrices at the end of a file whose first and last bytes are all zeros, as all behind them are."""
    last = max(header.tensors.values(), key=lambda tensor: tensor.end, default=None)
    if last is None or not _seems_zero(file, header.data_start, last):
        return []
    names: list[str] = []
    in_order = sorted(header.tensors.items(), key=lambda item: item[1].end)
    for name, tensor in reversed(in_order[-_MAX_SAMPLED:]):
        if not _seems_zero(file, header.data_start, tensor):
            break
        if not may_be_zero(name, tensor):
            names.append(name)
    return names[::-1]


def _seems_zero(file: BinaryIO, data_start: int, tensor: TensorInfo) -> bool:
    num_bytes = min(_SAMPLE_BYTES, tensor.end - tensor.begin)
    return all(
        _read(file, data_start + begin, num_bytes) == _ZEROS[:num_bytes]
        for begin in (tensor.end - num_bytes, tensor.begin)
    )


def _read(file: BinaryIO, begin: int, num_bytes: int) -> bytes:
    return os.pread(file.fileno(), num_bytes, begin)
