"""Rows made ready for the screen: read, shown to the tokenizer, laid out in lines. Runs in a thread of its own."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from xtuner.data.finder import RawRow
from xtuner.data.jobs import ShowJob
from xtuner.data.jsonl import MAX_LINE_BYTES
from xtuner.data.options import FormatName
from xtuner.data.pool import WorkerPool
from xtuner.data.problems import ERRORS, Problem
from xtuner.data.view import RowView, view_raw
from xtuner.errors import DataError, ModelError, XTunerError
from xtuner.tui.preview.index import RowIndex
from xtuner.tui.preview.layout import Layout, ViewOptions, lay_out, split_at_limit

_VIEWS_KEPT = 8  # toggles are answered from memory
_MAX_SHOWN_BYTES = 2**20  # a row beyond this is a quarter of a million tokens, and seconds of work
_HEAD_BYTES = 2**18


@dataclass(frozen=True)
class ShowRequest:
    """A row to be shown in so many cells; `finds` asks to scroll to what is sought."""

    row: int
    width: int
    options: ViewOptions
    finds: bool = False


@dataclass(frozen=True)
class RowSize:
    """Tokens of a row within the length limit, and how many of them are trained."""

    num_tokens: int = 0
    num_trained: int = 0


@dataclass(frozen=True)
class ShownRow:
    """A row and its lines; `has_error` when it cannot be trained."""

    layout: Layout
    size: RowSize
    has_error: bool


class Shower:
    """Makes rows of one file ready; for one thread."""

    def __init__(self, index: RowIndex, path: Path, pool: WorkerPool | None, format: FormatName) -> None:
        self._index = index
        self._path = path
        self._pool = pool
        self._format = format
        self._views: OrderedDict[int, tuple[RowView, XTunerError | None]] = OrderedDict()
        self._model_error: ModelError | None = None

    def show(self, request: ShowRequest) -> ShownRow:
        """The row, laid out.

        Raises:
            OSError: the disk fails.
        """
        if request.row not in self._views:
            self._views[request.row] = self._view(request.row)
            if len(self._views) > _VIEWS_KEPT:
                self._views.popitem(last=False)
        view, failure = self._views[request.row]
        return ShownRow(
            lay_out(view, request.options, request.width, failure=failure),
            size_of(view),
            any(problem.is_error for problem in view.problems),
        )

    def _view(self, row: int) -> tuple[RowView, XTunerError | None]:
        """The row with tokens where that can be done; otherwise as it stands, with the reason."""
        size = self._index.size_of(row)
        if size > _MAX_SHOWN_BYTES:
            return self._view_of_large_row(row, size)
        raw = self._index.read(row)
        where = f"{self._path}:{raw.number}"
        if self._pool is None or self._model_error is not None:
            return self._view_without_tokens(raw, where), self._model_error
        try:
            return self._pool.show(ShowJob(raw.line, where, self._format, is_last=raw.is_last)), None
        except ModelError as error:  # it stands for all rows
            self._model_error = error
            return self._view_without_tokens(raw, where), error
        except XTunerError as error:
            return self._view_without_tokens(raw, where), error

    def _view_without_tokens(self, raw: RawRow, where: str) -> RowView:
        return view_raw(raw.line, where, self._format, is_last=raw.is_last)

    def _view_of_large_row(self, row: int, size: int) -> tuple[RowView, XTunerError | None]:
        raw = self._index.read(row, limit=_HEAD_BYTES)
        where = f"{self._path}:{raw.number}"
        view = RowView(where, raw.line.decode("utf-8", "backslashreplace"))
        if size > MAX_LINE_BYTES:
            said = f"{where}: {ERRORS['LINE_TOO_LONG']}; this is its beginning"
            return replace(view, problems=[Problem("LINE_TOO_LONG", said)]), None
        return view, DataError(
            f"{where}: the row has {size / 2**20:.1f} MiB, and this is its beginning",
            hint=f"xtuner preview {self._path} --row {raw.number} shows all of it",
        )


def size_of(view: RowView) -> RowSize:
    """Tokens of the row that are kept."""
    num_tokens = num_trained = 0
    for sequence in view.sequences:
        if sequence.is_cut_at is None:
            num_tokens, num_trained = num_tokens + sequence.num_tokens, num_trained + sequence.num_targets
            continue
        kept, _ = split_at_limit(sequence)
        num_tokens += sequence.is_cut_at
        num_trained += sum(piece.num_tokens for piece in kept if piece.is_trained)
    return RowSize(num_tokens, num_trained)
