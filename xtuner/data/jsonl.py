"""JSONL files, read as bytes and judged line by line.

Lines end at `\\n` alone: `str.splitlines` would also cut at U+2028 and U+0085, which JSON strings may hold.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from xtuner.errors import DataError

# A row of chats is kilobytes; a line beyond this is a file that is not JSONL, and must not fill the memory.
MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Row:
    """One JSON value of a file and where it stands."""

    path: Path
    line: int
    value: Any

    @property
    def where(self) -> str:
        """`chats.jsonl:12`, for messages."""
        return f"{self.path}:{self.line}"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file; a byte-order mark, CRLF line ends and blank lines are accepted.

    Raises:
        DataError: the file is missing, empty, a directory, not UTF-8, or a line is not one JSON value.
    """
    _check_file(path)
    num_rows = 0
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, path), start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                num_rows += 1
                yield Row(path, number, _parse(text, path, number))
    if num_rows == 0:
        raise DataError(f"{path} holds no rows, only blank lines", hint="write one chat a line")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise DataError(f"there is no data file {path}", hint="check the path given to --dataset")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise DataError(f"{path} is {kind}", hint="pass a .jsonl file to --dataset")
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint=f"chmod u+r {path}") from None
    if size == 0:
        raise DataError(f"{path} is empty", hint="write one chat a line")


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}:{number}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB",
                hint="a JSONL file holds one chat a line; is this another kind of file?",
            )
        yield line


def _parse(line: bytes, path: Path, number: int) -> Any:
    where = f"{path}:{number}"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8",
            hint="convert the file with: iconv -f ENCODING -t UTF-8",
        ) from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # lone surrogates have no bytes to train on
    except json.JSONDecodeError as error:
        is_cut = not line.endswith(b"\n")  # only the last line of a file can lack its end
        raise DataError(
            f"{where}:{error.colno}: {'the file ends inside this line' if is_cut else 'invalid JSON'}: {error.msg}",
            hint="the file is still being written or was cut; finish or remove the last line"
            if is_cut
            else "each line must be one complete JSON value",
        ) from None
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: a string holds half of a surrogate pair", hint="write it as \\ud83d\\ude00 pairs"
        ) from None
    except RecursionError:
        raise DataError(f"{where}: the JSON is nested too deeply", hint="a chat is a list of messages") from None
    except ValueError as error:
        raise DataError(f"{where}: invalid JSON: {error}", hint="each line must be one JSON value") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return unique
