"""JSONL reading: what is accepted, and what each mistake is called."""

import json
from pathlib import Path

import pytest

from xtuner.data.jsonl import read_rows
from xtuner.errors import DataError

ROW = [{"role": "user", "content": "naïve 你好 \u2028 😀"}, {"role": "assistant", "content": "ok"}]


def _file(directory: Path, content: bytes) -> Path:
    path = directory / "d.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROW, ensure_ascii=False).encode() + b"\n",
        json.dumps(ROW).encode(),
        b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n",
        b"\n  \n" + json.dumps(ROW, ensure_ascii=False).encode() + b"\n\n",
    ],
    ids=["plain", "no-last-newline", "bom-crlf", "blank-lines"],
)
def test_accepted(tmp_path: Path, content: bytes) -> None:
    rows = list(read_rows(_file(tmp_path, content)))
    assert [row.value for row in rows] == [ROW]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "no rows"),
        (b"[]\n{bad}\n[]\n", ":2:2: invalid JSON"),
        (b"[]\nNaN\n", ":2: invalid JSON: NaN"),
        (b'{"a": 1, "a": 2}\n', "'a' stands twice"),
        (b'["\\ud800"]\n', "surrogate"),
        (b'["caf\xe9"]\n', "0xe9"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'[]\n[{"role": "us', "ends inside"),
    ],
)
def test_refused_with_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows(_file(tmp_path, content)))
    assert words in caught.value.message and caught.value.hint


def test_a_row_cut_at_any_byte_is_reported(tmp_path: Path) -> None:
    whole = json.dumps(ROW, ensure_ascii=False).encode()
    for cut in range(1, len(whole)):
        with pytest.raises(DataError, match=":2"):
            list(read_rows(_file(tmp_path, b"[]\n" + whole[:cut])))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="is a directory"):
        list(read_rows(tmp_path))
