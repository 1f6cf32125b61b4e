"""The header of a safetensors file, checked against the file's size; the data is not read.

Format: 8 bytes little-endian length N, N bytes of JSON, then the tensors without gaps
(https://huggingface.co/docs/safetensors). What the `safetensors` library refuses is refused here.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from xtuner.hub.findings import HubError, shown, shown_path
from xtuner.hub.regular_file import AGAIN, explain_impostor, open_regular, unreadable

MAX_HEADER_BYTES = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
_FIELDS = {"dtype", "shape", "data_offsets"}
# Python's parser takes `-0` for an integer and lets half a surrogate pair pass; the library refuses both.
_NEGATIVE_ZERO = re.compile(rb"[\[,:]\s*-0")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# The form that the library writes, as far as names have no escapes and numbers are below 2**63. Possessive: no entry
# can be read in two ways, and a header has up to 100 MB.
_NAME, _NUMBER = r'[^"\\\x00-\x1f]*+', r"(?:0|[1-9][0-9]{0,17})"
_ENTRY = re.compile(
    rf'"({_NAME})":\{{"dtype":"({"|".join(BITS)})","shape":\[((?:{_NUMBER}(?:,{_NUMBER})*)?)\],'
    rf'"data_offsets":\[({_NUMBER}),({_NUMBER})\]\}}'
)
_PAIR = f'"{_NAME}":"{_NAME}"'
_USUAL = re.compile(
    rf'\{{(?:"__metadata__":(?P<metadata>\{{(?:{_PAIR}(?:,{_PAIR})*)?\}}),)?'
    rf"(?P<entries>(?:{_ENTRY.pattern},)*+{_ENTRY.pattern})\}} *"
)


class TensorInfo(NamedTuple):  # quicker to make than a dataclass: a mixture has 100,000
    """One tensor: `begin` and `end` are byte offsets in the file's data area."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file says it holds; its data area begins at byte `data_start`."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of `path`.

    Raises:
        HubError: a `ModelError`, in words with byte counts, with one of the codes of `open_regular`, LFS_POINTER,
            ERROR_PAGE, SHARD_TRUNCATED, SHARD_TOO_LONG or BAD_HEADER.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise _not_safetensors(path, start + file.read(1024), size, length)
            raw = file.read(length)
        except OSError as error:
            raise unreadable(path, error) from None
    try:
        tensors, metadata = _parse(raw)
        data_size = _check_layout(tensors)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else shown(error, 120)
        raise HubError("BAD_HEADER", f"{shown_path(path)} has a broken header: {reason}", hint=AGAIN) from None
    _check_size(path, size, 8 + length + data_size)
    return SafetensorsHeader(tensors, metadata, 8 + length)


def _not_safetensors(path: Path, head: bytes, size: int, length: int) -> HubError:
    impostor = explain_impostor(path, head, size)
    if impostor:
        return impostor
    if size < 8:
        return HubError("SHARD_TRUNCATED", f"{shown_path(path)} is cut off: it has {size} bytes", hint=AGAIN)
    if 2 <= length <= MAX_HEADER_BYTES:
        message = f"{shown_path(path)} is cut off in its header: short by at least {length + 8 - size:,} bytes"
        return HubError("SHARD_TRUNCATED", message, hint=AGAIN)
    message = f"{shown_path(path)} ({size:,} bytes) has no safetensors header: its length would be {length:,}"
    return HubError("BAD_HEADER", message, hint=AGAIN)


def _check_size(path: Path, size: int, expected: int) -> None:
    if size == expected:
        return
    detail = f"it has {size:,} of {expected:,} bytes"
    if size < expected:
        message = f"{shown_path(path)} is short by {expected - size:,} bytes: {detail}"
        raise HubError("SHARD_TRUNCATED", message, hint=AGAIN)
    message = f"{shown_path(path)} is {size - expected:,} bytes too long: {detail}"
    raise HubError("SHARD_TOO_LONG", message, hint=AGAIN)


def _parse(raw: bytes) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    text = raw.decode("utf-8")
    return _parse_usual(text) or _parse_any(raw, text)


def _parse_usual(text: str) -> tuple[dict[str, TensorInfo], dict[str, str]] | None:
    """The same as `_parse_any` for a sound header in the form that the library writes, else None.

    A mixture has 100,000 tensors, and this takes a quarter of the time.
    """
    usual = _USUAL.fullmatch(text)
    if usual is None:
        return None
    metadata = json.loads(usual["metadata"] or "{}", object_pairs_hook=_unique)
    names, dtypes, dims, begin_texts, end_texts = zip(*_ENTRY.findall(usual["entries"]), strict=True)
    shapes, num_bits = zip(*map(_measure_text, dtypes, dims), strict=True)
    begins, ends = tuple(map(int, begin_texts)), tuple(map(int, end_texts))
    if any((end - begin) * 8 != bits for begin, end, bits in zip(begins, ends, num_bits, strict=True)):
        return None
    tensors = dict(zip(names, map(TensorInfo._make, zip(dtypes, shapes, begins, ends, strict=True)), strict=True))
    return (tensors, metadata) if len(tensors) == len(names) and "__metadata__" not in tensors else None


@lru_cache(maxsize=1024)  # a model has few shapes
def _measure_text(dtype: str, dims: str) -> tuple[tuple[int, ...], int]:
    """The shape in `dims` (`2,3`), and the bits that a tensor of it takes: -1 where `_parse_any` would refuse it."""
    shape = tuple(map(int, dims.split(","))) if dims else ()
    try:
        return shape, _num_bits(dtype, shape)
    except ValueError:
        return shape, -1


def _parse_any(raw: bytes, text: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    parse_int = _no_negative_zero if _NEGATIVE_ZERO.search(raw) else None
    header = json.loads(text, object_pairs_hook=_unique, parse_int=parse_int)
    if _SURROGATE.search(raw):
        json.dumps(header, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError is a ValueError
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that is not text")
    return {name: _tensor(name, entry) for name, entry in header.items()}, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a name stands twice")
    return unique


def _no_negative_zero(digits: str) -> int:
    if digits == "-0":
        raise ValueError("a size of -0")
    return int(digits)


def _tensor(name: str, entry: Any) -> TensorInfo:
    if type(entry) is not dict or entry.keys() != _FIELDS:
        raise ValueError(f"tensor {shown(name)} has not the fields dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        raise ValueError(f"tensor {shown(name)} has a shape or offsets that are not lists of numbers")
    for number in (*shape, *offsets):
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError(f"tensor {shown(name)} has a size that is not a natural number")
    if type(dtype) is not str or dtype not in BITS:
        raise ValueError(f"tensor {shown(name)} has the unknown dtype {shown(dtype, 20)!r}")
    begin, end = offsets
    try:
        num_bits = _num_bits(dtype, shape)
    except ValueError:
        raise ValueError(f"tensor {shown(name)} has an impossible shape") from None
    if num_bits != (end - begin) * 8:
        raise ValueError(f"tensor {shown(name)} of {dtype} and shape {shown(shape)} cannot take {end - begin:,} bytes")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _num_bits(dtype: str, shape: Sequence[int]) -> int:
    num_elements = 1
    for dim in shape:
        num_elements *= dim
        if num_elements >= 2**63:  # before a later 0 can hide it
            raise ValueError("impossible shape")
    return num_elements * BITS[dtype]


def _check_layout(tensors: dict[str, TensorInfo]) -> int:
    """The size of the data area; tensors must fill it without gap or overlap."""
    end = 0
    for begin, next_end in sorted((tensor.begin, tensor.end) for tensor in tensors.values()):
        if begin != end:
            raise ValueError(f"a gap or an overlap of tensors at byte {end:,} of the data")
        end = next_end
    return end
