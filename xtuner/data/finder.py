"""Rows of a data file by number, for those who look at single rows and not at all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from xtuner.data.formats import detect_format
from xtuner.data.jsonl import parse_line
from xtuner.data.lines import LineReader
from xtuner.data.options import FormatName
from xtuner.data.problems import RowError
from xtuner.data.sources import DataFile
from xtuner.data.text_search import TextPattern


@dataclass(frozen=True)
class RawRow:
    """One row as bytes, with its line number (from 1)."""

    number: int
    line: bytes
    is_last: bool = False


def iter_rows(file: DataFile) -> Iterator[RawRow]:
    """The rows of `file`, one after the other.

    Raises:
        DataError: see `LineReader.chunks`.
    """
    for chunk in LineReader(file).chunks():
        last = len(chunk.lines) - 1
        for index, (number, line) in enumerate(zip(chunk.numbers, chunk.lines, strict=True)):
            yield RawRow(number, line, is_last=chunk.ends_file and index == last)


def find_row(file: DataFile, number: int) -> RawRow | None:
    """The row on line `number`; None when that line is blank or beyond the end."""
    for row in iter_rows(file):
        if row.number >= number:
            return row if row.number == number else None
    return None


def search_rows(file: DataFile, text: str) -> Iterator[RawRow]:
    """Rows that hold `text`, upper and lower case alike, whether written out or as JSON escapes."""
    pattern = TextPattern(text)
    return (row for row in iter_rows(file) if next(pattern.places(row.line), None) is not None)


def format_of(file: DataFile, row: RawRow) -> FormatName:
    """The format that `row`, the first of `file`, shows; `auto` where it shows none."""
    if file.format != "auto":
        return file.format
    try:
        return detect_format(parse_line(row.line, str(file.path), is_last=row.is_last), str(file.path))
    except RowError:
        return "auto"
