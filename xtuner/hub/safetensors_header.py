"""The header of a safetensors file, checked against the file's size; the data is not read.

Format: 8 bytes little-endian length N, N bytes of JSON, then the tensors without gaps
(https://huggingface.co/docs/safetensors).
"""

import json
import re
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from xtuner.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_AGAIN = "download this file again"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: `begin` and `end` are byte offsets in the file's data area."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file says it holds."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of `path`.

    Raises:
        ModelError: unreadable, not safetensors (a Git LFS pointer, an error page), truncated or grown.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path.name} is not a regular file", hint=_AGAIN)
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, status.st_size - 8):
                raise _not_safetensors(path.name, start + file.read(1024), status.st_size)
            raw = file.read(length)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}", hint="check its permissions") from None
    tensors, metadata = _parse(path.name, raw)
    data_size = _check_layout(path.name, tensors)
    expected = 8 + length + data_size
    if status.st_size != expected:
        difference = status.st_size - expected
        what = f"short by {-difference:,} bytes" if difference < 0 else f"{difference:,} bytes too long"
        raise ModelError(f"{path.name} is {what} ({status.st_size:,} of {expected:,})", hint=_AGAIN)
    return SafetensorsHeader(tensors, metadata, 8 + length)


def _not_safetensors(name: str, head: bytes, size: int) -> ModelError:
    pointer = re.match(rb"version https://git-lfs[^\n]*\n(?:.*\n)*?size (\d+)", head)
    if pointer:
        return ModelError(
            f"{name} is a Git LFS pointer of {size:,} bytes, the weights ({int(pointer[1]):,} bytes) were not fetched",
            hint="run `git lfs pull` in the directory",
        )
    if head.lstrip()[:1] in (b"<", b"{"):
        text = head[:80].decode("utf-8", "backslashreplace")
        return ModelError(f"{name} is not weights but text: {text!r}", hint=_AGAIN)
    return ModelError(f"{name} ({size:,} bytes) has no safetensors header", hint=_AGAIN)


def _parse(name: str, raw: bytes) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata that is not text")
        return {key: _tensor(entry) for key, entry in header.items()}, metadata
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{name} has a broken header: {error}", hint=_AGAIN) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a name stands twice")
    return unique


def _tensor(entry: Any) -> TensorInfo:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    numbers = (begin, end, *shape)
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("sizes that are not natural numbers")
    if entry["dtype"] not in _BITS:
        raise ValueError(f"the unknown dtype {str(entry['dtype'])[:20]!r}")
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("unknown fields")
    if prod(shape) * _BITS[entry["dtype"]] != (end - begin) * 8:
        raise ValueError("offsets that do not fit a tensor's shape")
    return TensorInfo(entry["dtype"], shape, begin, end)


def _check_layout(name: str, tensors: dict[str, TensorInfo]) -> int:
    """The size of the data area; tensors must fill it without gap or overlap."""
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            raise ModelError(f"{name} has a gap or an overlap at byte {end:,} of its data", hint=_AGAIN)
        end = tensor.end
    return end
