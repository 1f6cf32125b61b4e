"""A file that is hashed while it is written is the file, and its hash is that of what is on the disk."""

import errno
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtuner.run import faults, hashed_file
from xtuner.run.checkpoints import sha256_of
from xtuner.run.hashed_file import HashedFile

SIZES = st.lists(st.sampled_from([0, 1, 700, 2**16 - 1, 2**16, 2**20, 2**20 + 1, 3 * 2**20 + 7]), max_size=8)


@given(SIZES, st.integers(0, 2**32))
def test_hash_size_and_bytes_are_those_of_the_file(tmp_path_factory, sizes, seed):
    path = tmp_path_factory.mktemp("hashed") / "file"
    parts = [random.Random(seed).randbytes(size) for size in sizes]
    file = HashedFile(path)
    for number, part in enumerate(parts):
        assert file.tell() == sum(sizes[:number])
        assert file.write(memoryview(part)) == len(part)
    file.flush()
    file.close()
    file.close()
    assert path.read_bytes() == b"".join(parts)
    assert (file.size, file.sha256) == (path.stat().st_size, sha256_of(path))


def test_what_is_written_may_change_afterwards(tmp_path):
    file, buffer = HashedFile(tmp_path / "file"), bytearray(2**22)
    for value in range(1, 4):
        buffer[:] = bytes([value]) * len(buffer)
        file.write(buffer)
    buffer[:] = bytes(len(buffer))
    file.close()
    assert file.sha256 == sha256_of(tmp_path / "file")


def test_it_is_durable_when_it_is_closed(tmp_path, monkeypatch):
    fsync, synced = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.fstat(number).st_size), fsync(number)))
    monkeypatch.setattr(hashed_file, "_BEGIN_AFTER_BYTES", 1000)  # the disk is told to begin again and again
    file = HashedFile(tmp_path / "file")
    for _ in range(100):
        file.write(b"x" * 99)
    file.close()
    assert synced == [9900]


def test_an_error_of_the_disk_is_told_and_closes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "_FAULTS", faults._read("save.fsync:eio"))
    file = HashedFile(tmp_path / "file")
    file.write(b"x")
    with pytest.raises(OSError) as caught:
        file.close()
    assert caught.value.errno == errno.EIO
    file.close()


def test_a_file_that_exists_is_not_written_over(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
