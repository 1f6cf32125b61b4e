"""From what the user names to data files: every way to name them, every kind of file, every mistake."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from xtuner.data.options import SourceSpec
from xtuner.data.sources import describe_file, find_files
from xtuner.errors import DataError

ROW = b'[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]\n'
OBJECT = b'{"messages": [{"role": "assistant", "content": "Yo"}]}'


def _names(*paths: object) -> list[str]:
    return [file.path.name for file in find_files([SourceSpec(str(path)) for path in paths])]


def _fill(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_bytes(ROW)
    return directory


def test_a_file_a_directory_a_glob_and_several(tmp_path: Path) -> None:
    _fill(tmp_path / "d", "b.jsonl", "a.jsonl", "c.json", "notes.txt", "README.md", "d.JSONL")
    _fill(tmp_path / "d" / "inner", "z.jsonl")
    _fill(tmp_path, "one.jsonl")
    assert _names(tmp_path / "one.jsonl") == ["one.jsonl"]
    assert _names(tmp_path / "d") == ["a.jsonl", "b.jsonl", "c.json", "d.JSONL"]
    assert _names(tmp_path / "d" / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert _names(tmp_path / "**" / "z.jsonl") == ["z.jsonl"]
    assert _names(tmp_path / "one.jsonl", tmp_path / "d" / "[ab].jsonl") == ["one.jsonl", "a.jsonl", "b.jsonl"]


def test_names_as_people_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path, "set [1]*.jsonl", "with\nline.jsonl", "数据.jsonl", "-dash.jsonl", os.fsdecode(b"\xff\xe9.jsonl"))
    assert _names(*tmp_path.iterdir()) == [path.name for path in tmp_path.iterdir()]  # itself before what it matches
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _names("~/数据.jsonl") == _names("~/数*.jsonl") == ["数据.jsonl"]
    (tmp_path / "link.jsonl").symlink_to("数据.jsonl")
    assert find_files([SourceSpec(str(tmp_path / "link.jsonl"))])[0].state.size == len(ROW)


def test_files_that_a_copy_leaves_behind_are_no_data(tmp_path: Path) -> None:
    _fill(tmp_path, "a.jsonl", "._a.jsonl", ".a.jsonl.swp")
    assert _names(tmp_path) == _names(tmp_path / "*.jsonl") == ["a.jsonl"]


def test_ratio_and_format_go_with_each_file(tmp_path: Path) -> None:
    _fill(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl")
    specs = [SourceSpec(str(tmp_path / "[ab].jsonl"), 0.5, "messages"), SourceSpec(str(tmp_path / "c.jsonl"), 2)]
    found = [(file.path.name, file.ratio, file.format) for file in find_files(specs)]
    assert found == [("a.jsonl", 0.5, "messages"), ("b.jsonl", 0.5, "messages"), ("c.jsonl", 2, "auto")]


KINDS = {
    "jsonl": (ROW, "jsonl"),
    "jsonl of objects": (OBJECT + b"\n" + OBJECT, "jsonl"),
    "jsonl of bare lists": (ROW * 2, "jsonl"),
    "jsonl with a mark": (b"\xef\xbb\xbf" + ROW, "jsonl"),
    "an empty list as row": (b"[]\n" + ROW, "jsonl"),
    "list of messages without role": (b'[{"content": "x"}]\n', "jsonl"),
    "cut list": (b'[{"role": "us', "jsonl"),
    "one row of indented JSON": (b'{\n "messages": []\n}', "jsonl"),
    "array of objects": (b"[" + OBJECT + b", " + OBJECT + b"]", "array"),
    "array of lists": (b"[" + ROW.strip() + b"]", "array"),
    "indented array": (b"[\n " + OBJECT + b"\n]", "array"),
    "array with a mark": (b"\xef\xbb\xbf [\r\n" + OBJECT + b"]", "array"),
    "array of text rows": (b'[{"text": "a"}, {"text": "b"}]', "array"),
    "array with a long first row": (b'[{"messages": [{"role": "user", "content": "' + b"x" * 70_000, "array"),
    "gzip": (gzip.compress(ROW), "gzip"),
    "zstd": (zstandard.compress(ROW), "zstd"),
    "parquet": (b"PAR1....", "parquet"),
}


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows"])
def test_the_first_bytes_tell_the_kind_whatever_the_name(case: str, name: str, tmp_path: Path) -> None:
    content, kind = KINDS[case]
    (tmp_path / name).write_bytes(content)
    assert describe_file(tmp_path / name).kind == kind


def _file(content: bytes, name: str = "d.jsonl") -> Callable[[Path], str]:
    def make(directory: Path) -> str:
        (directory / name).write_bytes(content)
        return str(directory / name)

    return make


def _fifo(directory: Path) -> str:
    os.mkfifo(directory / "pipe.jsonl")
    return str(directory / "pipe.jsonl")


def _link(target: str) -> Callable[[Path], str]:
    def make(directory: Path) -> str:
        (directory / "link.jsonl").symlink_to(target)
        return str(directory / "link.jsonl")

    return make


def _in_directory(make: Callable[[Path], str]) -> Callable[[Path], str]:
    def directory_of(directory: Path) -> str:
        _fill(directory, "a.jsonl")
        return str(Path(make(directory)).parent)

    return directory_of


# name -> (what makes it and returns the path to give, words of the message, words of the hint)
REFUSED: dict[str, tuple[Callable[[Path], str], str, str]] = {
    "nothing there": (lambda d: str(d / "none.jsonl"), "there is no data file", "check the path"),
    "an unset variable": (lambda d: "", "is empty", "check the path"),
    "nothing matches": (lambda d: str(d / "*.jsonl"), "no file matches", "ls"),
    "a directory without data": (lambda d: str(_fill(d / "x", "a.txt")), "without data files", ".parquet"),
    "a directory by glob": (lambda d: str(_fill(d / "x.jsonl").parent / "*.jsonl"), "no file matches", ""),
    "empty": (_file(b""), "is empty", "one chat a line"),
    "zip": (_file(b"PK\x03\x04rest"), "a zip archive", "unzip"),
    "xz": (_file(b"\xfd7zXZ\x00rest"), "an xz file", "xz -dk"),
    "bzip2": (_file(b"BZh91AY"), "a bzip2 file", "bunzip2"),
    "UTF-16": (_file('{"a": 1}'.encode("utf-16")), "UTF-16", "iconv -f UTF-16"),
    "UTF-16 big-endian": (_file(b"\xfe\xff\x00{"), "UTF-16", "iconv"),
    "csv": (_file(b"role,content\nuser,Hi\n", "d.csv"), "a table", ".jsonl"),
    "tsv": (_file(b"role\tcontent\n", "d.tsv"), "a table", ".jsonl"),
    "a pipe": (_fifo, "not a regular file", ""),
    "a device": (lambda d: "/dev/zero", "not a regular file", ""),
    "a link to nothing": (_link("gone"), "there is no data file", ""),
    "a link to itself": (_link("link.jsonl"), "cannot be read", ""),
    "a pipe among data": (_in_directory(_fifo), "pipe.jsonl is not a regular file", ""),
    "a dead link among data": (_in_directory(_link("gone")), "there is no data file", ""),
    "an empty file among data": (_in_directory(_file(b"", "b.jsonl")), "b.jsonl is empty", ""),
    "a NUL in the name": (lambda d: f"{d}/a\0b", "there is no data file", ""),
    "a name too long": (lambda d: f"{d}/{'x' * 300}", "cannot be read: File name too long", ""),
    "nobody's home": (lambda d: "~no-such-user-here/d.jsonl", "cannot be read", ""),
    "below a file": (lambda d: _file(ROW)(d) + "/x", "", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_data_is_told_with_a_way_out(case: str, tmp_path: Path) -> None:
    make, words, hint = REFUSED[case]
    with pytest.raises(DataError) as caught:
        find_files([SourceSpec(make(tmp_path))])
    assert words in caught.value.message and hint in caught.value.hint and caught.value.hint
    assert caught.value.exit_code == 4 and len(caught.value.message) < 500


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("closed", ["d", "d/a.jsonl"])
def test_what_may_not_be_read(closed: str, tmp_path: Path) -> None:
    _fill(tmp_path / "d", "a.jsonl")
    (tmp_path / closed).chmod(0)
    try:
        for path in (tmp_path / "d", tmp_path / "d" / "a.jsonl"):
            with pytest.raises(DataError, match="cannot be read: Permission denied"):
                find_files([SourceSpec(str(path))])
    finally:
        (tmp_path / closed).chmod(0o700)


def test_the_state_tells_any_touch(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(ROW)
    before = describe_file(path)
    assert describe_file(path) == before
    touches: list[Callable[[], object]] = [
        lambda: path.write_bytes(ROW + ROW),
        lambda: os.utime(path, ns=(0, before.state.mtime_ns + 1)),
        lambda: (path.rename(tmp_path / "old"), path.write_bytes(ROW), os.utime(path, ns=(0, before.state.mtime_ns))),
    ]
    for touch in touches:
        touch()
        assert describe_file(path).state != before.state
        path.write_bytes(ROW)
        before = describe_file(path)


def test_the_row_used_here_is_a_row() -> None:
    assert json.loads(ROW)[0]["role"] == "user"
