"""Lines of files by number: from the end, to both sides, in any blocks."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtuner.tui.widgets.file_lines import CUT_MARK, MAX_LINE_BYTES, FileLines


def all_of(lines):
    first, stop = lines.bounds()
    return [lines.read(number) for number in range(first, stop)]


@settings(max_examples=200)
@given(st.binary(max_size=60).map(lambda data: data.replace(b"a", b"\n")), st.binary(max_size=40), st.integers(1, 20))
def test_any_file_in_any_blocks(tmp_path_factory, begin, more, block_bytes):
    path = tmp_path_factory.mktemp("lines") / "log"
    path.write_bytes(begin)
    lines = FileLines(path, block_bytes=block_bytes)
    with path.open("ab") as file:
        file.write(more)
    while lines.extend_back(1):
        pass
    assert lines.is_complete
    assert lines.grow() == bool(more)
    assert not lines.grow()
    whole = (begin + more).split(b"\n")[:-1]
    assert all_of(lines) == [line.rstrip(b"\r").decode("utf-8", "backslashreplace") for line in whole]
    lines.close()


def test_the_end_is_there_at_once_and_numbers_stay(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    lines = FileLines(path, block_bytes=100)
    first, stop = lines.bounds()
    assert 0 < stop - first < 20 and lines.read(stop - 1) == "line 999"
    known = lines.read(first)
    lines.extend_back(500)
    assert lines.read(first) == known and lines.bounds()[0] < first and lines.bounds()[1] == stop
    while lines.extend_back():
        pass
    assert lines.read(lines.bounds()[0]) == "line 0" and all_of(lines) == [f"line {n}" for n in range(1000)]


def test_opening_reads_one_block_of_a_file_of_10_gb(tmp_path, monkeypatch):
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # a hole takes no room on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast line\n")
    num_read = 0
    pread = os.pread

    def counted(descriptor, size, offset):
        nonlocal num_read
        data = pread(descriptor, size, offset)
        num_read += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    lines = FileLines(path)
    assert lines.read(lines.bounds()[1] - 1) == "last line" and num_read < 2**20


def test_an_unfinished_line_is_none_until_it_ends(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    lines = FileLines(path)
    assert all_of(lines) == ["one"]
    with path.open("ab") as file:
        file.write(b"o\r\nthree")
    lines.grow()
    assert all_of(lines) == ["one", "two"]


def test_of_a_long_line_the_beginning_is_read(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"short\n" + b"x" * 2**20 + b"\nend\n")
    lines = FileLines(path)
    while lines.extend_back():
        pass
    texts = all_of(lines)
    assert texts == ["short", "x" * MAX_LINE_BYTES + CUT_MARK, "end"]


def test_no_such_line(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    lines = FileLines(path)
    for number in (-1, 1):
        with pytest.raises(IndexError, match=f"line {number}"):
            lines.read(number)


def test_a_file_that_was_cut_is_an_oserror(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n" * 9)
    lines = FileLines(path)
    os.truncate(path, 4)
    with pytest.raises(OSError, match="changed"):
        lines.read(5)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing"):
        with pytest.raises(OSError):
            FileLines(tmp_path / name)


def test_closing_twice(tmp_path):
    (tmp_path / "log").write_bytes(b"")
    lines = FileLines(tmp_path / "log")
    assert lines.bounds() == (0, 0) and lines.is_complete
    lines.close()
    lines.close()
