"""Headers against the `safetensors` library: what it rejects is rejected, what it writes is accepted."""

import json
import random

import pytest
from hub_dirs import header_bytes
from safetensors import SafetensorError, deserialize

from xtuner.errors import ModelError
from xtuner.hub.safetensors_header import BITS, TensorInfo, _parse_any, _parse_usual, read_header

NUM_MUTATIONS = 10_000
FRAGMENTS = [
    b"-0", b"-1", b"0", b"1", b"4", b"1.0", b"1e1", b"9223372036854775808", b"18446744073709551616",
    b"null", b"true", b"NaN", b"[]", b"{}", b"[0,4]", b"[4,8]", b"[4294967296,4294967296,0]",
    b'""', b'"\\ud800"', b"\\ud83d\\ude00", b"\xff", b"\x00", b",", b"}", b" ", b"\n", b"\t",
    b'"F4"', b'"F64"', b'"I8"', b'"BOOL"', b'"__metadata__":{}', b'"shape":[]', b'"dtype":"U8"',
]  # fmt: skip


def _ours(path, raw):
    path.unlink(missing_ok=True)  # ext4 flushes a file that is rewritten in place, at ms a time
    path.write_bytes(raw)
    try:
        return read_header(path)
    except ModelError as error:
        assert error.message and error.hint
        return None


def _theirs(raw):
    try:
        return dict(deserialize(raw))
    except SafetensorError:
        return None


def _valid(rng):
    header, end = {}, 0
    if rng.random() < 0.5:
        header["__metadata__"] = {"format": "pt", "é": "x-0"}
    for number in range(rng.randrange(5)):
        dtype = rng.choice(sorted(BITS))
        shape = [rng.choice([0, 1, 2, 8]) for _ in range(rng.randrange(4))] + [8]
        num_bits = BITS[dtype]
        for dim in shape:
            num_bits *= dim
        header[f"layer-{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + num_bits // 8]}
        end += num_bits // 8
    separators = rng.choice([(",", ":"), (", ", ": ")])  # as the library writes it, which is read in a quicker way
    return json.dumps(header, separators=separators, ensure_ascii=False).encode() + b" " * rng.randrange(9), end


def _mutate(rng, raw, size):
    kind = rng.randrange(6)
    at, until = sorted((rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)))
    if kind == 0:
        raw = raw[:at] + rng.choice(FRAGMENTS) + raw[at:]
    elif kind == 1:  # a whole value for another
        spots = [spot for spot, byte in enumerate(raw) if byte in b":,["]
        at = rng.choice(spots) + 1 if spots else 0
        until = next((spot for spot in range(at, len(raw)) if raw[spot] in b",]}"), len(raw))
        raw = raw[:at] + rng.choice(FRAGMENTS) + raw[until:]
    elif kind == 2:
        raw = raw[:at] + raw[min(until, at + 5) :]
    elif kind == 3:
        raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    elif kind == 4:
        size = max(0, size + rng.choice([-8, -1, 1, 8]))
    else:
        lie = max(0, len(raw) + rng.choice([-9, -1, 1, 9, 10**8, 2**63]))
        return lie.to_bytes(8, "little") + raw + bytes(size)
    return header_bytes(raw) + bytes(size)


def test_never_accepts_what_the_library_rejects(tmp_path):
    rng = random.Random(20251129)
    num_rejected = num_accepted = num_stricter = 0
    for _ in range(NUM_MUTATIONS):
        raw, size = _valid(rng)
        file = _mutate(rng, raw, size)
        ours, theirs = _ours(tmp_path / "f.safetensors", file), _theirs(file)
        assert ours is None or theirs is not None, file
        if ours and theirs is not None:
            assert ours.tensors.keys() == theirs.keys()
        num_rejected += theirs is None
        num_accepted += ours is not None
        num_stricter += ours is None and theirs is not None
    assert num_rejected > NUM_MUTATIONS // 3 and num_accepted > NUM_MUTATIONS // 50
    assert num_stricter < NUM_MUTATIONS // 100  # names that stand twice, sizes beyond 2**63, fields nobody writes


def test_the_quick_way_agrees_with_the_long_one():
    rng = random.Random(2)
    num_quick = 0
    for _ in range(NUM_MUTATIONS):
        raw, size = _valid(rng)
        raw = _mutate(rng, raw, size)[8:]
        try:
            quick = _parse_usual(raw.decode())
        except ValueError:
            continue
        if quick is not None:
            assert quick == _parse_any(raw, raw.decode())
            num_quick += 1
    assert num_quick > NUM_MUTATIONS // 100


def test_accepts_what_is_valid(tmp_path):
    rng = random.Random(1)
    for _ in range(300):
        raw, size = _valid(rng)
        file = header_bytes(raw) + bytes(size)
        ours, theirs = _ours(tmp_path / "f.safetensors", file), _theirs(file)
        assert ours is not None and theirs is not None and ours.data_start == 8 + len(raw)
        for name, tensor in ours.tensors.items():
            assert list(tensor.shape) == theirs[name]["shape"] and tensor.dtype == theirs[name]["dtype"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":{},"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":"","data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}',
        b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}',
        b'{"a":{"dtype":"U7","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}}',
        b'{"__metadata__":{"n":1}}',
        b"[]",
        b"  ",
        b'{"a":' * 5000,
    ],
)
def test_traps_of_the_python_parser(tmp_path, raw):
    num_bytes = 1 if b"[0,1]" in raw else 0
    file = header_bytes(raw) + bytes(num_bytes)
    assert _theirs(file) is None
    assert _ours(tmp_path / "f.safetensors", file) is None


def test_offsets_are_within_the_data_area(tmp_path):
    header = {
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "a": {"dtype": "U8", "shape": [], "data_offsets": [8, 9]},
        "__metadata__": {"format": "pt"},
    }
    read = _ours(tmp_path / "f.safetensors", header_bytes(header) + bytes(9))
    assert read.tensors == {"b": TensorInfo("F32", (2,), 0, 8), "a": TensorInfo("U8", (), 8, 9)}
    assert read.metadata == {"format": "pt"}
