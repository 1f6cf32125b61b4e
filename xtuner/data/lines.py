"""A data file of any kind, as raw lines in chunks: one JSON value each, not parsed yet.

Lines end at `\\n` alone: `str.splitlines` would also cut at U+2028 and U+0085, which JSON strings may hold. Memory
stays that of a few chunks, however large the file is; only a JSON array is read whole, and has a limit for it.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from xtuner.data.jsonl import MAX_LINE_BYTES
from xtuner.data.problems import RowError
from xtuner.data.sources import DataFile, FileState
from xtuner.errors import DataError, EnvironmentFault

CHUNK_BYTES = 2**19
CHUNK_ROWS = 256
MAX_ARRAY_BYTES = 2**30
# A compressed file beyond both of these is no text but a bomb: chats shrink by 3 to 20 times.
BOMB_RATIO = 100
BOMB_BYTES = 2**30

# A frame can grow 32,768 times (RFC 8878, 3.1.1.2): what is unpacked at once must fit the memory all the same.
_ZSTD_BYTES = 2**11

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines of one file.

    Attributes:
        number: which chunk of its file, from 0.
        numbers: the line number of each line, from 1 (of a parquet file: the row).
        lines: the bytes of each line.
        ends_file: whether the last line is the file's last.
        read_bytes: bytes of the file read so far, for progress.
    """

    number: int
    numbers: list[int]
    lines: list[bytes]
    ends_file: bool = False
    read_bytes: int = 0


@dataclass
class ReadNotes:
    """What was met on the way and accepted."""

    has_bom: bool = False
    num_blank: int = 0
    num_crlf: int = 0
    num_lines: int = 0

    def sentences(self) -> list[str]:
        """One phrase for each thing that is worth saying."""
        notes = [(self.has_bom, "a byte-order mark"), (self.num_blank, f"{self.num_blank:,} blank lines skipped")]
        notes.append((self.num_crlf, f"{self.num_crlf:,} lines end in CRLF"))
        return [text for is_there, text in notes if is_there]


@dataclass
class LineReader:
    """Reads `file` once; `notes` grow while the chunks are taken."""

    file: DataFile
    notes: ReadNotes = field(default_factory=ReadNotes)

    def chunks(self) -> Iterator[Chunk]:
        """All lines but the blank ones, in order.

        Raises:
            DataError: the file cannot be read, changed while it was read, or has a line beyond the limit.
        """
        numbers: list[int] = []
        lines: list[bytes] = []
        size = chunk = 0
        with _opened(self.file) as stream:
            for number, line in self._lines(stream):
                if (size + len(line) > CHUNK_BYTES or len(lines) >= CHUNK_ROWS) and lines:
                    yield Chunk(chunk, numbers, lines, read_bytes=_position(stream))
                    chunk, numbers, lines, size = chunk + 1, [], [], 0
                numbers.append(number)
                lines.append(line)
                size += len(line)
            read_bytes = _position(stream)
        require_unchanged(self.file)
        if lines:
            yield Chunk(chunk, numbers, lines, ends_file=True, read_bytes=read_bytes)

    def _lines(self, stream: Any) -> Iterator[tuple[int, bytes]]:
        notes = self.notes
        for number, line in _numbered_lines(stream, self.file):
            if number == 1 and line.startswith(_BOM):
                notes.has_bom = True
                line = line[len(_BOM) :]
            notes.num_lines += 1
            if line.endswith(b"\r\n"):
                notes.num_crlf += 1
            if line.isspace() or not line:
                notes.num_blank += 1
            else:
                yield number, line


def require_unchanged(file: DataFile) -> None:
    """Raise `DataError` when `file` is not what it was when it was found."""
    try:
        now = FileState.of(file.path)
    except OSError:
        raise DataError(f"{file.path} vanished while it was read", hint="start again with a file that stays") from None
    if now != file.state:
        raise DataError(
            f"{file.path} changed while it was read ({file.state.size:,} bytes before, {now.size:,} now)",
            hint="wait until the file is written, then start again",
        )


def _numbered_lines(stream: Any, file: DataFile) -> Iterator[tuple[int, bytes]]:
    if file.kind == "array":
        yield from _array_elements(stream, file)
        return
    if file.kind == "parquet":
        yield from stream
        return
    number = 0
    while line := _read_line(stream, file, number + 1):
        number += 1
        yield number, line


def _read_line(stream: BinaryIO, file: DataFile, number: int) -> bytes:
    try:
        line = stream.readline(MAX_LINE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _broken_archive(file, number, error) from None
    except OSError as error:
        raise DataError(f"{file.path}:{number} cannot be read: {error}", hint="check the disk") from None
    except Exception as error:  # zstandard's own class, known only where it is installed
        if type(error).__name__ != "ZstdError":
            raise
        raise _broken_archive(file, number, error) from None
    if len(line) > MAX_LINE_BYTES:
        raise RowError(
            "LINE_TOO_LONG",
            f"{file.path}:{number}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB",
            hint="a JSONL file holds one chat a line; is this another kind of file?",
        )
    return line


def _broken_archive(file: DataFile, number: int, error: Exception) -> DataError:
    return DataError(
        f"{file.path}:{number}: the {file.kind} stream breaks off here: {error}",
        hint="the file was cut or damaged; make or download it again",
    )


def _array_elements(stream: BinaryIO, file: DataFile) -> Iterator[tuple[int, bytes]]:
    """Each element of a JSON array with the line it begins on; what is no element is left to the row parser."""
    if file.state.size > MAX_ARRAY_BYTES:
        raise DataError(
            f"{file.path} is one JSON array of {file.state.size / 2**30:.1f} GiB, too large to be read at once",
            hint=f"make it JSON lines: jq -c '.[]' {file.path} > rows.jsonl",
        )
    try:
        text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.path}: byte {error.start + 1} is not UTF-8", hint="convert it with: iconv -f ENCODING -t UTF-8"
        ) from None
    decoder = json.JSONDecoder()
    position, line, counted = _skip_blanks(text, text.index("[") + 1), 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            _, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _broken_array(file, error.lineno, error.colno, error.msg) from None
        except RecursionError:
            raise DataError(f"{file.path}:{line}: the JSON is nested too deeply", hint="a chat is a list") from None
        except ValueError as error:  # a number of thousands of digits
            raise DataError(f"{file.path}:{line}: invalid JSON: {error}", hint="no row needs such a number") from None
        yield line, text[position:end].encode()
        position = _skip_blanks(text, end)
        if text[position : position + 1] == ",":
            position = _skip_blanks(text, position + 1)
        elif text[position : position + 1] != "]":
            where = json.JSONDecodeError("expected ',' or ']' after a row", text, position)
            raise _broken_array(file, where.lineno, where.colno, where.msg)
    if _skip_blanks(text, position + 1) != len(text):
        raise DataError(
            f"{file.path}: there is more after the end of the JSON array",
            hint="keep one array, or write one row a line",
        )


def _broken_array(file: DataFile, line: int, column: int, message: str) -> DataError:
    return DataError(
        f"{file.path}:{line}:{column}: invalid JSON in the array: {message}",
        hint="the file was cut or is still being written, or is not JSON",
    )


def _skip_blanks(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\n", "\r", "\t") and position < len(text):
        position += 1
    return position


@contextmanager
def _opened(file: DataFile) -> Iterator[Any]:
    if file.kind == "parquet":
        yield _parquet_rows(file)
        return
    try:
        raw = file.path.open("rb")
    except OSError as error:
        raise DataError(
            f"{file.path} cannot be read: {error.strerror}", hint="start again with a file that stays"
        ) from None
    with raw:
        if file.kind == "gzip":
            yield _Guarded(gzip.GzipFile(fileobj=raw), raw, file)
        elif file.kind == "zstd":
            yield _Guarded(_ZstdFrames(raw), raw, file)
        else:
            yield raw


class _Guarded(io.RawIOBase):
    """Lines of a compressed stream, which end when they outgrow what was compressed beyond all reason."""

    def __init__(self, stream: Any, raw: BinaryIO, file: DataFile) -> None:
        self._lines = io.BufferedReader(stream, 2**18)
        self._raw = raw
        self._file = file
        self._num_bytes = 0

    def readline(self, size: int | None = -1) -> bytes:
        """The next line, of at most `size` bytes."""
        line = self._lines.readline(-1 if size is None else size)
        self._num_bytes += len(line)
        if self._num_bytes > BOMB_BYTES and self._num_bytes > BOMB_RATIO * self._raw.tell():
            raise DataError(
                f"{self._file.path} unpacks to more than {BOMB_RATIO} times its size",
                hint="no text packs like that; unpack the file and look at it",
            )
        return line

    def tell(self) -> int:
        """Bytes of the compressed file read so far."""
        return self._raw.tell()


class _ZstdFrames(io.RawIOBase):
    """What zstd frames unpack to. The library's own reader ends without a word where a file is cut."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor()
        self._raw = raw
        self._frame: Any = None  # None between frames
        self._rest = b""  # of what was read, behind the end of a frame
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of `io.RawIOBase`; EOFError in the middle of a frame."""
        while not self._unpacked:
            packed = self._rest or self._raw.read(_ZSTD_BYTES)
            if not packed and self._frame is None:
                return 0
            if not packed:
                raise EOFError("the file ended inside a frame")
            self._frame = self._frame or self._decompressor.decompressobj()
            self._unpacked, self._rest = memoryview(self._frame.decompress(packed)), b""
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._unpacked))
        buffer[:size], self._unpacked = self._unpacked[:size], self._unpacked[size:]
        return size


def _parquet_rows(file: DataFile) -> Iterator[tuple[int, bytes]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise EnvironmentFault(
            f"{file.path} is a parquet file, and pyarrow is not installed", hint="pip install 'xtuner[parquet]'"
        ) from None
    number = 0
    try:
        for batch in parquet.ParquetFile(file.path).iter_batches(batch_size=CHUNK_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, json.dumps(_without_nulls(row), ensure_ascii=False).encode() + b"\n"
    except (ArrowException, OSError, TypeError) as error:
        raise DataError(f"{file.path}: row {number + 1} cannot be read: {error}", hint="write the file again") from None


def _without_nulls(value: Any) -> Any:
    """Columns give every row every key; a null there, or NaN among numbers, means that the row does not have it."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None and inner == inner}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _position(stream: Any) -> int:
    return int(stream.tell()) if hasattr(stream, "tell") else 0
