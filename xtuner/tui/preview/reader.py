"""All that reads: one thread each for the index, the list, the row on the screen, searching and the look for errors.

They answer with messages, and touch nothing else of the screen.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from textual.message import Message

from xtuner.data.options import FormatName
from xtuner.data.pool import WorkerPool
from xtuner.data.sources import DataFile
from xtuner.errors import XTunerError
from xtuner.tui.preview.background import Background, IsStale
from xtuner.tui.preview.index import open_index
from xtuner.tui.preview.messages import Crashed, ErrorSought, Found, IndexGrew, IndexStopped, Shown, Summarised
from xtuner.tui.preview.scan import Step, batched, find_error, search
from xtuner.tui.preview.shower import Shower, ShowRequest
from xtuner.tui.preview.summary import Summary, summarise

_GROWTH_S = 0.1  # how often the screen hears of new rows
_SUMMARIES_AT_ONCE = 16
_LEAVE_S = 0.5  # a thread that waits for a tokenizer is not waited for


@dataclass(frozen=True)
class SearchRequest:
    """Text, and the row to begin at."""

    text: str
    origin: int


@dataclass(frozen=True)
class ErrorRequest:
    """The row to begin after, and rows that are known to be in error."""

    origin: int
    known: frozenset[int]


class RowReader:
    """The threads of one file; `post` must be safe to call from any thread.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self, file: DataFile, pool: WorkerPool | None, format: FormatName, post: Callable[[Message], object]
    ) -> None:
        self.index = open_index(file)
        self._format = format
        self._post = post
        self._shower = Shower(self.index, file.path, pool, format)
        self._indexing = Background("preview-index", self._build, self._crash)
        self._summaries = Background("preview-list", self._summarise, self._crash)
        self._rows = Background("preview-row", self._show, self._crash)
        self._searches = Background("preview-search", self._search, self._crash)
        self._errors = Background("preview-errors", self._find_error, self._crash)

    def start(self) -> None:
        """Begin to read the file."""
        self._indexing.ask(True)

    def show(self, request: ShowRequest) -> None:
        """Answered by `Shown`."""
        self._rows.ask(request)

    def summarise(self, rows: list[int]) -> None:
        """Answered by `Summarised`."""
        self._summaries.ask(rows)

    def search(self, text: str, origin: int) -> None:
        """Answered by `Found`, time and again; an empty text ends the search before."""
        if text:
            self._searches.ask(SearchRequest(text, origin))
        else:
            self._searches.cancel()

    def find_error(self, origin: int, known: frozenset[int]) -> None:
        """Answered by `ErrorSought`, time and again."""
        self._errors.ask(ErrorRequest(origin, known))

    def cancel_find_error(self) -> None:
        """Look no further."""
        self._errors.cancel()

    def stop(self) -> None:
        """End all threads, and wait for those that end at once."""
        threads = (self._indexing, self._summaries, self._rows, self._searches, self._errors)
        for thread in threads:
            thread.stop()
        deadline = time.monotonic() + _LEAVE_S
        if all(thread.join(max(0.0, deadline - time.monotonic())) for thread in threads):
            self.index.close()  # otherwise the descriptor stays: its number could become another file's

    def _crash(self, error: Exception) -> None:
        self._post(Crashed(error))

    def _build(self, _: bool, is_stale: IsStale) -> None:
        told = 0.0

        def tell() -> None:
            nonlocal told
            if time.monotonic() - told > _GROWTH_S:
                told = time.monotonic()
                self._post(IndexGrew())

        try:
            self.index.build(is_stale, tell)
        except (XTunerError, OSError) as error:
            self._post(IndexStopped(error))
        self._post(IndexGrew())

    def _summarise(self, rows: list[int], is_stale: IsStale) -> None:
        done: dict[int, Summary] = {}
        for row in rows:
            if is_stale():
                break
            done[row] = summarise(self.index, row, self._format)
            if len(done) == _SUMMARIES_AT_ONCE:
                self._post(Summarised(done))
                done = {}
        if done:
            self._post(Summarised(done))

    def _show(self, request: ShowRequest, is_stale: IsStale) -> None:
        shown = self._shower.show(request)
        if not is_stale():
            self._post(Shown(request, shown))

    def _search(self, request: SearchRequest, is_stale: IsStale) -> None:
        steps = search(self.index, request.text, request.origin, is_stale)

        def send(step: Step, is_done: bool) -> None:
            self._post(Found(request.text, request.origin, step, is_done))

        batched(steps, send, is_stale)

    def _find_error(self, request: ErrorRequest, is_stale: IsStale) -> None:
        steps = find_error(self.index, self._format, request.origin, request.known, is_stale)
        told, num_scanned = time.monotonic(), 0
        answer = partial(ErrorSought, request.origin)
        for found, _, _ in steps:
            num_scanned += 1
            if found:
                self._post(answer(found[0], True, num_scanned))
                return
            if time.monotonic() - told > _GROWTH_S:
                told = time.monotonic()
                self._post(answer(None, False, num_scanned))
        if not is_stale():
            self._post(answer(None, True, num_scanned))
