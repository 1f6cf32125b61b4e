"""Writing files whole: modes, left-overs and characters that UTF-8 does not have."""

import json
import os
import threading

import pytest

from xtuner.run.atomic import atomic_write, read_json, write_json


def test_mode_is_that_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_file_and_directory_are_synced_around_the_rename(tmp_path, monkeypatch):
    calls = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor):
        calls.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def replace(source, target):
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    atomic_write(tmp_path / "a", "text")
    assert calls == ["file", "rename", "directory"]


def test_json_is_readable_and_ends_its_line(tmp_path):
    write_json(tmp_path / "a.json", {"model": "模型", "n": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "模型" in text and '\n  "n"' in text and text.endswith("}\n")


def test_a_file_name_that_is_not_utf8_goes_round(tmp_path):
    name = os.fsdecode(b"model-\xff")
    write_json(tmp_path / "a.json", {"model": name})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"model": name}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_what_is_not_json_is_a_value_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")


def test_a_missing_directory_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "none" / "a.json", 1)
    assert os.listdir(tmp_path) == []


def test_readers_beside_a_writer_see_whole_files_only(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [0] * 5000)
    is_over = threading.Event()

    def rewrite():
        while not is_over.is_set():
            write_json(path, [1] * 5000)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        assert all(len(read_json(path)) == 5000 for _ in range(200))
    finally:
        is_over.set()
        writer.join()
    assert os.listdir(tmp_path) == ["a.json"]
