"""The thread behind the log view: lets a source grow, filters its lines, and searches them."""

import threading
import time
from array import array
from collections.abc import Callable
from typing import NamedTuple, Protocol

_POLL_S = 0.5
_SLICE_LINES = 500
# Between two slices: the screen's thread gets its turn.
_BREATH_S = 0.002
_MAX_MATCHES = 1_000_000


class Source(Protocol):
    """Lines that can be looked for in both directions; a `LineSource`."""

    @property
    def is_complete(self) -> bool:
        """Whether the beginning is known."""

    def bounds(self) -> tuple[int, int]:
        """The first line that is known and the one after the last."""

    def read(self, number: int) -> str:
        """The text of a line."""

    def read_many(self, begin: int, stop: int) -> list[str]:
        """The texts of several."""

    def grow(self) -> bool:
        """Look for newer lines."""

    def extend_back(self) -> bool:
        """Look for older lines."""

    def close(self) -> None:
        """Close what is open."""


class Search(NamedTuple):
    """Look for the next line that `is_wanted`, from `start` on in steps of `step` (1 or -1)."""

    is_wanted: Callable[[str], bool]
    start: int
    step: int


class Found(NamedTuple):
    """What came of a search: a line, or None."""

    search: Search
    number: int | None


class Filtered:
    """The lines of a source that pass a filter, the newest found first."""

    def __init__(self, source: Source, passes: Callable[[str], bool]) -> None:
        self.revision = 0
        self._source = source
        self._passes = passes
        self._after, self._before = array("q"), array("q")
        _, self._stop = source.bounds()
        self._first = self._stop

    def numbers(self) -> "array[int]":
        """The lines that passed, in their order."""
        return self._before[::-1] + self._after

    @property
    def is_done(self) -> bool:
        """Whether all older lines were looked at, or enough were found."""
        is_full = len(self._before) >= _MAX_MATCHES
        return is_full or (self._source.is_complete and self._first <= self._source.bounds()[0])

    def advance(self) -> bool:
        """Look at some lines, the new ones first; whether there are more."""
        first, stop = self._source.bounds()
        if self._stop < stop:
            end = min(stop, self._stop + _SLICE_LINES)
            self._after.extend(self._matches(self._stop, end))
            self._stop = end
            return True
        if self.is_done:
            return False
        if self._first > first:
            begin = max(first, self._first - _SLICE_LINES)
            self._before.extend(reversed(self._matches(begin, self._first)))
            self._first = begin
        else:
            self._source.extend_back()
        return True

    def _matches(self, begin: int, end: int) -> list[int]:
        texts = enumerate(_read(self._source, begin, end), start=begin)
        found = [number for number, text in texts if self._passes(text)]
        self.revision += bool(found)
        return found


def search_lines(source: Source, search: Search, is_over: Callable[[], bool]) -> int | None:
    """The number of the next line that is wanted; None where there is none, or when `is_over`."""
    place = search.start
    while not is_over():
        first, stop = source.bounds()
        if search.step < 0 and place < first:
            if source.is_complete:
                return None
            source.extend_back()
            continue
        if search.step > 0 and place >= stop:
            return None
        begin, end = (place, place + _SLICE_LINES) if search.step > 0 else (place - _SLICE_LINES + 1, place + 1)
        begin, end = max(begin, first), min(end, stop)
        texts = list(enumerate(_read(source, begin, end), start=begin))
        for number, text in texts[:: search.step]:
            if search.is_wanted(text):
                return number
        place = end if search.step > 0 else begin - 1
    return None


def _read(source: Source, begin: int, end: int) -> list[str]:
    if begin >= end:
        return []
    try:
        return source.read_many(begin, end)
    except (OSError, IndexError):  # it was cut; who shows it says so
        return [""] * (end - begin)


class LogWorker:
    """Works for one view; the screen's thread asks and looks, the worker's own does the rest.

    A bug in it is kept in `error` and ends the thread: the screen raises it.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.found: Found | None = None
        self.filtered: Filtered | None = None
        self._source: Source | None = None
        self._old: list[Source] = []  # to be closed
        self._grown: Source | None = None
        self._grown_at = 0.0
        self._search: Search | None = None
        self._wants_back = False
        self._is_over = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="monitor-logs", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a disk that hangs does not hold up the screen."""
        self._tell(_is_over=True)
        if self._thread.is_alive():
            self._thread.join(1.0)

    def watch(self, source: Source | None, passes: Callable[[str], bool] | None) -> None:
        """Let this source grow, and filter its lines where there is a filter; another source than before is closed."""
        filtered = Filtered(source, passes) if source is not None and passes is not None else None
        old = [self._source] if self._source is not None and self._source is not source else []
        self._tell(_source=source, filtered=filtered, _search=None, found=None, _old=[*self._old, *old])

    def search(self, search: Search) -> None:
        """Look for a line; `found` tells what came of it."""
        self._tell(_search=search, found=None)

    def look_back(self) -> None:
        """Look for older lines."""
        self._tell(_wants_back=True)

    def _tell(self, **changes: object) -> None:
        with self._news:
            for name, value in changes.items():
                setattr(self, name, value)
            self._news.notify()

    def _run(self) -> None:
        try:
            while not self._is_over:
                has_more = self._work()
                with self._news:
                    if not (self._is_over or self._search or self._wants_back):
                        self._news.wait(_BREATH_S if has_more else _POLL_S)
        except Exception as error:
            self.error = error
        for source in [*self._old, *([self._source] if self._source is not None else [])]:
            source.close()

    def _work(self) -> bool:
        """Do a little of all that is to be done; whether there is more."""
        while self._old:  # by this thread, as it may be in the middle of reading it
            self._old.pop().close()
        source, filtered, search = self._source, self.filtered, self._search
        if source is None:
            return False
        try:
            self._grow(source)
            if search is not None:
                self._answer(search, search_lines(source, search, lambda: self._is_over or self._search is not search))
            return filtered.advance() if filtered is not None else False
        except OSError:  # the view says so of each line that it cannot read
            self._answer(search, None)
            return False

    def _grow(self, source: Source) -> None:
        if self._wants_back:
            self._wants_back = False
            source.extend_back()
        now = time.monotonic()
        if source is not self._grown or now - self._grown_at >= _POLL_S:
            self._grown, self._grown_at = source, now
            source.grow()

    def _answer(self, search: Search | None, number: int | None) -> None:
        with self._news:
            if search is not None and self._search is search:
                self._search, self.found = None, Found(search, number)
