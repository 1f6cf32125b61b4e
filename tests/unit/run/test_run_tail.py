"""Following files through everything that happens to logs."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run.tail import MAX_LINE_BYTES, FileTail


def read_all(tail, max_bytes=2**20, num_calls=50):
    return [line for _ in range(num_calls) for line in tail.read_lines(max_bytes)]


@given(st.binary(max_size=300), st.data())
def test_any_bytes_in_any_chunks_give_the_lines_of_the_whole(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("tail") / "log"
    tail, seen, position = FileTail(path), [], 0
    while position < len(content):
        size = data.draw(st.integers(1, len(content) - position))
        with path.open("ab") as file:
            file.write(content[position : position + size])
        position += size
        seen += tail.read_lines(data.draw(st.integers(1, 400)))
    seen += read_all(tail, 400, 3)
    whole = content.split(b"\n")[:-1]
    assert seen == [line.rstrip(b"\r").decode("utf-8", "backslashreplace") for line in whole]


def test_one_byte_at_a_time(tmp_path):
    tail, seen = FileTail(tmp_path / "log"), []
    with (tmp_path / "log").open("ab", buffering=0) as file:
        for byte in "好\nab\n".encode():
            file.write(bytes([byte]))
            seen.append(tail.read_lines())
    assert [lines for lines in seen if lines] == [["好"], ["ab"]]
    assert seen[3] == ["好"], "a line is given in the call after its end, not before"


def test_a_call_reads_no_more_than_it_may(tmp_path):
    (tmp_path / "log").write_bytes(b"x\n" * 2**20)
    tail = FileTail(tmp_path / "log")
    assert len(tail.read_lines()) == 2**19 and len(tail.read_lines(10)) == 5


def test_a_longer_file_with_the_same_inode_is_noticed(tmp_path):
    """copytruncate, then growth beyond the old end between two looks: sizes and inodes say nothing."""
    path = tmp_path / "log"
    path.write_bytes(b"old 1\nold 2\n")
    tail = FileTail(path)
    assert tail.read_lines() == ["old 1", "old 2"]
    inode = path.stat().st_ino
    with path.open("r+b") as file:
        file.truncate()
        file.write(b"new 1\nnew 2\nnew 3\n")
    assert path.stat().st_ino == inode
    assert tail.read_lines() == ["new 1", "new 2", "new 3"]


def test_a_file_that_goes_and_comes_back(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\nhal")
    tail = FileTail(path)
    assert tail.read_lines() == ["one"]
    path.unlink()
    assert tail.read_lines() == []
    path.write_bytes(b"two\n")
    assert tail.read_lines() == ["two"]


@pytest.mark.parametrize("character", ["x", "好", "🙂"])
def test_the_cap_cuts_between_characters_and_marks_the_line(tmp_path, character):
    path = tmp_path / "log"
    path.write_bytes(b"a" + character.encode() * MAX_LINE_BYTES + b"\nnext\n" + b"y" * MAX_LINE_BYTES + b"\n")
    long, after, full = read_all(FileTail(path), 70_001, 200)
    assert long.endswith(character + " …[cut]") and "\\x" not in long
    assert MAX_LINE_BYTES - 4 < len(long.removesuffix(" …[cut]").encode()) <= MAX_LINE_BYTES
    assert after == "next" and full == "y" * MAX_LINE_BYTES


def test_a_line_without_end_takes_no_more_than_the_cap(tmp_path):
    path = tmp_path / "log"
    tail = FileTail(path)
    with path.open("wb") as file:
        file.truncate(64 * 2**20)  # sparse
    assert read_all(tail, num_calls=70) == []
    assert len(tail._tail._rest) == MAX_LINE_BYTES + 1


def test_the_end_of_a_huge_file_is_there_at_once(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # sparse
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b"".join(b"line %d\n" % number for number in range(1000)))
    tail = FileTail(path, last_bytes=100)
    assert tail.read_lines()[-2:] == ["line 998", "line 999"]
    with path.open("ab") as file:
        file.write(b"line 1000\n")
    assert tail.read_lines() == ["line 1000"]
    path.write_bytes(b"n" * 200 + b"\nnew\n")
    assert tail.read_lines() == ["n" * 200, "new"], "what replaces the file is shown from its beginning"


def test_a_short_file_is_read_whole_though_only_its_end_is_wanted(tmp_path):
    (tmp_path / "log").write_bytes(b"one\ntwo\n")
    assert FileTail(tmp_path / "log", last_bytes=8).read_lines() == ["one", "two"]
    assert FileTail(tmp_path / "log", last_bytes=7).read_lines() == ["two"]


def test_what_is_no_file_gives_nothing_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (
        tmp_path / "pipe",
        tmp_path / "loop",
        tmp_path,
        tmp_path / "none" / "log",
        tmp_path / "x" / ("y" * 300),
    ):
        assert FileTail(path).read_lines() == []


def test_no_descriptor_stays_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    tails = [FileTail(tmp_path / f"rank{rank}.log") for rank in range(200)]
    for rank, tail in enumerate(tails):
        (tmp_path / f"rank{rank}.log").write_bytes(random.Random(rank).randbytes(100) + b"\n")
        assert tail.read_lines()
    assert len(os.listdir("/proc/self/fd")) == before
