"""Reading data files: every kind gives the same rows, damage is told with its place, and memory stays flat."""

import gzip
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from xtuner.data import lines as lines_module
from xtuner.data.jsonl import parse_line
from xtuner.data.lines import CHUNK_BYTES, CHUNK_ROWS, LineReader, ReadNotes
from xtuner.data.problems import RowError
from xtuner.data.sources import describe_file
from xtuner.errors import DataError, EnvironmentFault

ROWS = [{"messages": [{"role": "assistant", "content": text}]} for text in ("Hi", "é 你好 \u2028 \x85 😀", 'a "b"\n')]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _read(path: Path, content: bytes | None = None) -> tuple[list[tuple[int, bytes]], ReadNotes]:
    if content is not None:
        path.write_bytes(content)
    reader = LineReader(describe_file(path))
    chunks = list(reader.chunks())
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.ends_file for chunk in chunks] == [False] * (len(chunks) - 1) + [True] * bool(chunks)
    return [row for chunk in chunks for row in zip(chunk.numbers, chunk.lines, strict=True)], reader.notes


def _read_and_parse(path: Path, content: bytes) -> list[Any]:
    rows, _ = _read(path, content)
    return [parse_line(line, f"{path}:{number}", is_last=i == len(rows) - 1) for i, (number, line) in enumerate(rows)]


def _as_parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({key: [row[key] for row in ROWS] for key in ROWS[0]}), sink)
    return bytes(sink.getvalue())


KINDS: dict[str, tuple[bytes, list[int]]] = {
    "jsonl": (JSONL, [1, 2, 3]),
    "jsonl without last line end": (JSONL[:-1], [1, 2, 3]),
    "gzip": (gzip.compress(JSONL), [1, 2, 3]),
    "gzip of two members": (gzip.compress(JSONL[:30]) + gzip.compress(JSONL[30:]), [1, 2, 3]),
    "zstd": (zstandard.compress(JSONL), [1, 2, 3]),
    "zstd of two frames": (zstandard.compress(JSONL[:30]) + zstandard.compress(JSONL[30:]), [1, 2, 3]),
    "array": (json.dumps(ROWS).encode(), [1, 1, 1]),
    "indented array": (json.dumps(ROWS, indent=1, ensure_ascii=False).encode(), [2, 10, 18]),
    "array with a mark": (b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(), [2, 10, 18]),
    "array with CRLF": (json.dumps(ROWS, indent=1).replace("\n", "\r\n").encode(), [2, 10, 18]),
    "parquet": (_as_parquet(), [1, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_every_kind_of_file_gives_the_same_rows(case: str, tmp_path: Path) -> None:
    content, numbers = KINDS[case]
    rows, _ = _read(tmp_path / "d.jsonl", content)
    assert [json.loads(line) for _, line in rows] == ROWS and [number for number, _ in rows] == numbers


def test_marks_crlf_and_blank_lines_are_accepted_and_said(tmp_path: Path) -> None:
    plain, _ = _read(tmp_path / "a.jsonl", JSONL)
    first, second, third = JSONL.splitlines(keepends=True)[:1] + JSONL.split(b"\n")[1:3]
    odd, notes = _read(tmp_path / "b.jsonl", b"\xef\xbb\xbf" + first[:-1] + b"\r\n\n \t\r\n" + second + b"\n\n" + third)
    assert [json.loads(line) for _, line in odd] == [json.loads(line) for _, line in plain]
    assert [number for number, _ in odd] == [1, 4, 6]  # as an editor counts them
    assert notes.sentences() == ["a byte-order mark", "3 blank lines skipped", "2 lines end in CRLF"]
    assert _read(tmp_path / "a.jsonl")[1].sentences() == []


def test_a_file_of_blank_lines_holds_no_rows(tmp_path: Path) -> None:
    assert _read(tmp_path / "d.jsonl", b"\n\r\n  \n")[0] == []
    assert _read(tmp_path / "d.jsonl", b"\xef\xbb\xbf")[0] == []


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    rows, _ = _read(tmp_path / "d.jsonl", '["\u2028 \u2029 \x85 \x0b \x0c \x1c \r"]\n[]'.encode())
    assert len(rows) == 2


def test_chunks_are_small_and_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"[]\n" * 1000 + (b'["' + b"x" * 100_000 + b'"]\n') * 20 + b'["' + b"x" * 2 * CHUNK_BYTES + b'"]')
    chunks = list(LineReader(describe_file(path)).chunks())
    assert [number for chunk in chunks for number in chunk.numbers] == list(range(1, 1022))
    assert all(len(chunk.lines) <= CHUNK_ROWS for chunk in chunks)
    assert all(sum(map(len, chunk.lines)) <= CHUNK_BYTES or len(chunk.lines) == 1 for chunk in chunks)
    assert [chunk.ends_file for chunk in chunks[:-1]] == [False] * (len(chunks) - 1) and chunks[-1].ends_file
    assert chunks[-1].read_bytes == path.stat().st_size


@pytest.mark.parametrize("packed", [None, gzip.compress, zstandard.compress])
def test_memory_stays_that_of_a_few_chunks(packed: Callable[[bytes], bytes] | None, tmp_path: Path) -> None:
    content = b"".join(b'["' + os.urandom(4000).hex().encode() + b'"]\n' for _ in range(4000))  # 32 MB
    path = tmp_path / "d.jsonl"
    path.write_bytes(packed(content) if packed else content)
    reader = LineReader(describe_file(path))
    del content
    tracemalloc.start()
    try:
        num_rows = sum(len(chunk.lines) for chunk in reader.chunks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_rows == 4000 and peak < 8 * 2**20


@pytest.mark.parametrize(("pack", "magic_bytes"), [(gzip.compress, 2), (zstandard.compress, 4)])
def test_a_packed_file_cut_at_any_byte_never_loses_rows_in_silence(
    pack: Callable[[bytes], bytes], magic_bytes: int, tmp_path: Path
) -> None:
    whole = pack(JSONL[: JSONL.index(b"\n") + 1]) + pack(JSONL)
    for end in range(magic_bytes, len(whole)):
        if end == len(pack(JSONL[: JSONL.index(b"\n") + 1])):
            continue  # a whole file of one row
        with pytest.raises(DataError, match=r"d\.jsonl:\d+: the (gzip|zstd) stream breaks off") as caught:
            _read(tmp_path / "d.jsonl", whole[:end])
        assert caught.value.hint
    assert len(_read(tmp_path / "d.jsonl", whole)[0]) == 4


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_a_packed_file_with_damage_or_something_behind_it(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    whole = pack(b"".join(json.dumps(os.urandom(20).hex()).encode() + b"\n" for _ in range(1000)))
    for damaged in (whole[:5000] + bytes(100) + whole[5100:], whole + b"garbage"):
        with pytest.raises(DataError, match="stream breaks off"):
            _read(tmp_path / "d.jsonl", damaged)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_is_stopped(pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = pack((b"[" + b" " * 1000 + b"]\n") * 4000)
    assert len(_read(tmp_path / "d.jsonl", bomb)[0]) == 4000  # 4 MB are no bomb yet
    monkeypatch.setattr(lines_module, "BOMB_BYTES", 2**20)
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        _read(tmp_path / "d.jsonl", bomb)
    text = b"".join(b'["' + os.urandom(500).hex().encode() + b'"]\n' for _ in range(2000))
    assert len(_read(tmp_path / "d.jsonl", pack(text))[0]) == 2000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_a_line_beyond_the_limit_ends_the_file(
    pack: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 1000)
    line = b'["' + b"x" * 995 + b'"]\n'
    assert len(_read(tmp_path / "d.jsonl", pack(line * 3))[0]) == 3
    with pytest.raises(RowError, match=r"d\.jsonl:3: the line is longer than") as caught:
        _read(tmp_path / "d.jsonl", pack(line * 2 + b" " + line))
    assert caught.value.code == "LINE_TOO_LONG"


ARRAY = json.dumps(ROWS, indent=1).encode()


def test_an_array_cut_at_any_byte_is_never_taken_for_whole(tmp_path: Path) -> None:
    for end in range(1, len(ARRAY)):
        with pytest.raises(DataError, match=r"d\.json:\d+:"):
            _read_and_parse(tmp_path / "d.json", ARRAY[:end])
    assert _read_and_parse(tmp_path / "d.json", ARRAY) == ROWS


BROKEN_ARRAYS = {
    "no comma": (b'[\n{"text": "a"}\n{"text": "b"}]', "d.json:3:1: invalid JSON in the array: expected ','"),
    "no value": (b"[\n, 1]", "d.json:2:1: invalid JSON"),
    "more behind it": (b'[\n{"text": "a"}]\n[]', "more after the end"),
    "not UTF-8": ('[\n{"text": "Köln"}]'.encode("latin-1"), "byte 14 is not UTF-8"),
    "depth": (b"[\n" + b"[" * 100_000, "d.json:2: the JSON is nested too deeply"),
    "a number of 5,000 digits": (b'[\n{"a": 1},\n{"a": ' + b"1" * 5000 + b"}]", "d.json:3: "),
}


@pytest.mark.parametrize("case", BROKEN_ARRAYS)
def test_a_broken_array_is_told_with_its_place(case: str, tmp_path: Path) -> None:
    content, words = BROKEN_ARRAYS[case]
    with pytest.raises(DataError) as caught:
        _read(tmp_path / "d.json", content)
    assert words in caught.value.message and caught.value.hint


def test_an_array_too_large_to_be_read_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_ARRAY_BYTES", 100)
    with pytest.raises(DataError, match="too large") as caught:
        _read(tmp_path / "d.json", ARRAY)
    assert "jq -c" in caught.value.hint


def test_parquet_columns_that_a_row_lacks_are_left_out(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a", "name": None}], "tools": None}, {"tools": "[]"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    found, _ = _read(tmp_path / "d.parquet")
    assert [json.loads(line) for _, line in found] == [
        {"messages": [{"role": "user", "content": "a"}]},
        {"tools": "[]"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows).slice(0, 0), tmp_path / "empty.parquet")
    assert _read(tmp_path / "empty.parquet")[0] == []


def test_a_cut_parquet_file_and_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for end in (4, 100, -1):
        with pytest.raises(DataError, match=r"d\.parquet: row 1 cannot be read"):
            _read(tmp_path / "d.parquet", _as_parquet()[:end])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentFault, match="pyarrow is not installed") as caught:
        _read(tmp_path / "d.parquet", _as_parquet())
    assert caught.value.hint == "pip install 'xtuner[parquet]'"


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"[]\n")


def _replace(path: Path) -> None:
    content = path.read_bytes()
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").rename(path)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "grows": (_append, "changed while it was read"),
    "is cut": (lambda path: os.truncate(path, 1), "changed while it was read"),
    "is replaced by the same": (_replace, "changed while it was read"),
    "is touched": (lambda path: os.utime(path, ns=(0, 0)), "changed while it was read"),
    "vanishes": (Path.unlink, "vanished while it was read"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_refused(case: str, tmp_path: Path) -> None:
    change, words = CHANGES[case]
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"[]\n" * 3 * CHUNK_ROWS)
    chunks = LineReader(describe_file(path)).chunks()
    next(chunks)
    change(path)
    with pytest.raises(DataError, match=words) as caught:
        list(chunks)
    assert str(path) in caught.value.message and caught.value.hint


def test_a_file_that_vanished_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(JSONL)
    reader = LineReader(describe_file(tmp_path / "d.jsonl"))
    (tmp_path / "d.jsonl").unlink()
    with pytest.raises(DataError, match=r"d\.jsonl"):
        list(reader.chunks())
