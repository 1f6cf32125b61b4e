"""Blocks of a file: every block says where it stands, whatever happens to the file."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run.tail import MAX_LINE_BYTES, BlockTail


@given(st.binary(max_size=300), st.integers(1, 50), st.none() | st.integers(0, 300), st.none() | st.integers(0, 300))
def test_blocks_are_the_lines_of_the_file_at_their_places(tmp_path_factory, content, max_bytes, last_bytes, end):
    path = tmp_path_factory.mktemp("tail") / "log"
    path.write_bytes(content)
    tail, seen, position = BlockTail(path, last_bytes=last_bytes, end=end), b"", None
    for _ in range(310):
        for block in tail.read(max_bytes):
            assert block.data.endswith(b"\n") and content[block.begin :].startswith(block.data)
            assert position in (None, block.begin), "nothing is left out"
            seen, position = seen + block.data, block.begin + len(block.data)
    first = 0 if last_bytes is None or last_bytes >= len(content) else len(content) - last_bytes
    wanted = content[:end][first:]
    wanted = wanted if first == 0 else wanted.partition(b"\n")[2]
    assert seen == wanted[: wanted.rfind(b"\n") + 1] and not tail.has_more


def test_a_line_that_was_cut_stands_alone_and_the_next_knows_its_place(tmp_path):
    content = b"first\n" + b"x" * (3 * MAX_LINE_BYTES) + b"\nlast\n"
    (tmp_path / "log").write_bytes(content)
    tail = BlockTail(tmp_path / "log")
    blocks = [block for _ in range(60) for block in tail.read(100_000)]
    assert [block.begin for block in blocks] == [0, 6, content.index(b"last")]
    assert blocks[1].data == b"x" * (MAX_LINE_BYTES + 1) + b"\n" and blocks[2].data == b"last\n"


def test_restarts_are_counted(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    tail = BlockTail(path)
    tail.read()
    path.write_bytes(b"another\n")
    assert [block.data for block in tail.read()] == [b"another\n"] and tail.num_restarts == 1
    path.rename(tmp_path / "log.1")
    path.write_bytes(b"another\nmore\n")
    assert [block.data for block in tail.read()] == [b"another\nmore\n"] and tail.num_restarts == 2
    path.write_bytes(b"")
    assert tail.read() == [] and tail.num_restarts == 3


def test_a_file_that_cannot_be_read_says_so_and_comes_back(tmp_path):
    tail = BlockTail(tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        tail.read()
    (tmp_path / "log").write_bytes(b"x\n")
    assert tail.read() and not tail.read()
    (tmp_path / "log").unlink()
    with pytest.raises(FileNotFoundError):
        tail.read()


def test_an_idle_file_is_opened_now_and_then_only(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"x\n")
    tail = BlockTail(tmp_path / "log")
    tail.read()
    opened = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments) or real_open(*arguments))
    for _ in range(80):
        tail.read()
    assert len(opened) == 10
    before = os.stat(tmp_path / "log")
    with (tmp_path / "log").open("r+b") as file:  # grown, as a clock that stands still would show it
        file.write(b"x\ny\n")
    os.utime(tmp_path / "log", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [block.data for block in tail.read()] == [b"y\n"]
