"""From what the user names (a file, a directory, a glob) to data files, each with its kind and first bytes judged."""

import glob
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xtuner.data.options import FormatName, SourceSpec
from xtuner.errors import DataError

Kind = Literal["jsonl", "array", "gzip", "zstd", "parquet"]

DATA_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")
_HEAD_BYTES = 2**16
_ROW_KEYS = {"messages", "dialogs", "conversations", "instruction", "text"}
_ENDINGS_SAID = ".jsonl, .jsonl.gz, .jsonl.zst, .json or .parquet"

# First bytes of files that are something else, and what to do with them.
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive", "unzip it and pass the .jsonl inside"),
    b"\xfd7zXZ\x00": ("an xz file", "unpack it with: xz -dk FILE"),
    b"BZh": ("a bzip2 file", "unpack it with: bunzip2 -k FILE"),
    b"\xff\xfe": ("UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8 FILE > FILE.jsonl"),
    b"\xfe\xff": ("UTF-16 text", "convert it with: iconv -f UTF-16 -t UTF-8 FILE > FILE.jsonl"),
}


@dataclass(frozen=True)
class FileState:
    """What tells that a file was not touched: size, times in ns, device and inode."""

    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """The state of `path` now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino)


@dataclass(frozen=True)
class DataFile:
    """One file of rows.

    Attributes:
        path: where it is, as the user would write it.
        kind: how its rows are laid out.
        format: the shape of its rows as asked for; `auto` is settled by its first row.
        ratio: how often each row is used.
        state: what it was when it was found.
    """

    path: Path
    kind: Kind
    format: FormatName
    ratio: float
    state: FileState


def find_files(specs: Sequence[SourceSpec]) -> list[DataFile]:
    """The files of all `specs`, those of a directory or glob in the order of their names.

    Raises:
        DataError: nothing there, nothing readable, or a file that is no data.
    """
    assert specs, "the caller has checked that there is data"
    return [describe_file(path, spec.format, spec.ratio) for spec in specs for path in _paths(spec.path)]


def describe_file(path: Path, format: FormatName = "auto", ratio: float = 1.0) -> DataFile:
    """Judge one file by its status and first bytes.

    Raises:
        DataError: see `find_files`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before it is opened: a pipe would wait for ever
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise DataError(f"{path} is {kind}", hint=f"pass a {_ENDINGS_SAID} file")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        raise DataError(f"there is no data file {path}", hint="check the path of the data") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint=f"chmod u+r {path}") from None
    if not head:
        raise DataError(f"{path} is empty", hint="write one chat a line")
    return DataFile(path, _kind(path, head), format, ratio, FileState.of(path))


def _paths(text: str) -> list[Path]:
    if not text:  # an unset variable of the shell; as a path it would be the working directory
        raise DataError("the path of the data is empty", hint="check the path of the data")
    try:
        return _matches(text)
    except (OSError, RuntimeError) as error:  # RuntimeError: `~name` of nobody
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{text[:200]} cannot be read: {reason}", hint="check the path of the data") from None


def _matches(text: str) -> list[Path]:
    path = Path(text).expanduser()
    if path.is_dir():
        found = sorted(inner for inner in path.iterdir() if _is_data(inner.name) and not inner.is_dir())
        if not found:
            raise DataError(f"{path} is a directory without data files", hint=f"data files end in {_ENDINGS_SAID}")
        return found
    if path.exists() or not glob.has_magic(text):
        return [path]
    found = sorted(Path(name) for name in glob.glob(os.path.expanduser(text), recursive=True) if os.path.isfile(name))
    if not found:
        raise DataError(f"no file matches {text}", hint="quote the pattern, and look at it with: ls PATTERN")
    return found


def _is_data(name: str) -> bool:
    return name.lower().endswith(DATA_ENDINGS) and not name.startswith(".")


def _kind(path: Path, head: bytes) -> Kind:
    """By the first bytes: an ending may lie."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or head[1:4] == b"\x2a\x4d\x18":  # a frame, or one to be skipped
        return "zstd"
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, (what, hint) in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}, not JSON lines", hint=hint.replace("FILE", str(path)))
    if path.suffix in (".csv", ".tsv"):
        raise DataError(f"{path} is a table, not JSON lines", hint="write one JSON object a row, as .jsonl")
    return "array" if _is_array_of_rows(head) else "jsonl"


def _is_array_of_rows(head: bytes) -> bool:
    """Whether the file is one JSON array of rows. A JSONL row can be an array too: one of messages, on one line."""
    text = head.decode("utf-8", "ignore").removeprefix("\ufeff").lstrip()
    if not text.startswith("["):
        return False
    inner = text[1:].lstrip()
    if inner.startswith("["):
        return True
    if "\n" in text[: len(text) - len(inner)]:  # a row would not break its line there
        return True
    try:
        first, _ = json.JSONDecoder().raw_decode(inner)
    except (ValueError, RecursionError):
        return _first_of(inner.partition("\n")[0][:200], ("role", *_ROW_KEYS)) in _ROW_KEYS
    return isinstance(first, dict) and "role" not in first and bool(_ROW_KEYS & first.keys())


def _first_of(text: str, keys: Sequence[str]) -> str | None:
    """The one of `keys` that stands first in `text`."""
    places = {key: text.find(f'"{key}"') for key in keys}
    return min((key for key in keys if places[key] >= 0), key=lambda key: places[key], default=None)
