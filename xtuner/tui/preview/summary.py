"""One row in a few words, for the list."""

from dataclasses import dataclass

from xtuner.data.chat import Chat, Document
from xtuner.data.finder import RawRow
from xtuner.data.formats import read_row
from xtuner.data.jsonl import MAX_LINE_BYTES, parse_line
from xtuner.data.options import FormatName
from xtuner.data.problems import ERRORS, RowError
from xtuner.data.view import messages_of
from xtuner.run.text import visible
from xtuner.tui.preview.index import RowIndex

_MAX_PARSED_BYTES = 2**20  # rows beyond this are not parsed for the list, only when they are opened
_MAX_CHARS = 300


@dataclass(frozen=True)
class Summary:
    """A row in the list.

    Attributes:
        text: the first words of its last user message, or of its text; of a row in error, what is wrong. Safe to show.
        turns: replies of the assistant; None where there are no turns.
        error: the code of what keeps the row out, as far as can be told without a tokenizer.
    """

    text: str
    turns: int | None = None
    error: str = ""


def summarise(index: RowIndex, row: int, format: FormatName) -> Summary:
    """The summary of a row.

    Raises:
        OSError: the disk fails.
    """
    size = index.size_of(row)
    if size > MAX_LINE_BYTES:
        return _summary_of_error("LINE_TOO_LONG")
    if size > _MAX_PARSED_BYTES:
        head = index.read(row, limit=_MAX_CHARS).line.decode("utf-8", "replace")
        return Summary(f"({size / 2**20:.1f} MiB) {first_words(head)}")
    return _summary_of(index.read(row), format)


def error_of(index: RowIndex, row: int, format: FormatName) -> str:
    """The code of what keeps the row out, as `Summary.error`, but of large rows too; empty when there is nothing.

    Raises:
        OSError: the disk fails.
    """
    if index.size_of(row) > MAX_LINE_BYTES:
        return "LINE_TOO_LONG"
    try:
        _read(index.read(row), format)
    except RowError as error:
        return error.code
    return ""


def first_words(text: str) -> str:
    """The beginning of `text` on one line, safe to show."""
    return visible(" ".join(text[:_MAX_CHARS].split()))


def _summary_of(raw: RawRow, format: FormatName) -> Summary:
    try:
        row = _read(raw, format)
    except RowError as error:
        return _summary_of_error(error.code)
    messages = messages_of(row)
    if not isinstance(row, Chat):
        return Summary(first_words(messages[0][1]))
    asked = next((text for role, text in reversed(messages) if role == "user"), messages[-1][1])
    return Summary(first_words(asked), len(row.assistant_turns))


def _read(raw: RawRow, format: FormatName) -> Chat | Document:
    where = str(raw.number)
    return read_row(parse_line(raw.line, where, is_last=raw.is_last), format, where)


def _summary_of_error(code: str) -> Summary:
    return Summary(f"{code}: {ERRORS[code]}", error=code)
