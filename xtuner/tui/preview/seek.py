"""Going to other rows than the next: matches of a search, numbers, rows in error. Some take a while to be found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from xtuner.tui.preview.index import RowIndex
from xtuner.tui.preview.messages import ErrorSought, Found
from xtuner.tui.preview.scan import Matches


class Finder(Protocol):
    """What looks through the file; the reader does."""

    index: RowIndex

    def search(self, text: str, origin: int) -> None:
        """Look for text; an empty one ends the search before."""

    def find_error(self, origin: int, known: frozenset[int]) -> None:
        """Look for a row in error."""

    def cancel_find_error(self) -> None:
        """Look no further."""


@dataclass
class Seeker:
    """What is being looked for, and where to go when it is found.

    Attributes:
        finder: looks, in threads.
        go: puts a row on the screen; with True, what was searched for in it.
        say: tells the user.
    """

    finder: Finder
    go: Callable[[int, bool], None]
    say: Callable[[str], None]
    matches: Matches | None = None
    _waits_for_match: tuple[int, int] | None = None  # the row to go from, and the direction
    _waits_for_number: int | None = None
    _seeks_error: bool = False
    _target: int = -1

    def search(self, text: str, row: int) -> None:
        """Find `text`, in this row or after it; an empty text ends the search."""
        self._forget()
        self.finder.search(text, row)
        self.matches = Matches(text, row) if text else None
        if text:
            self._waits_for_match = (row - 1, 1)
            self.say("searching …")
        else:
            self.say("")

    def next_match(self, row: int, direction: int) -> None:
        """Go to the match after or before this row."""
        if self.matches is None:
            self.say("nothing was searched for: / begins")
            return
        self._forget()
        self._waits_for_match = (row, direction)
        self._try_match(row)

    def found(self, message: Found, row: int) -> None:
        """The search came further; `row` is the one on the screen."""
        matches = self.matches
        if matches is None or (message.text, message.origin) != (matches.text, matches.origin):
            return
        matches.add(message.step, message.is_done)
        self._try_match(row)

    def jump(self, number: int) -> None:
        """Go to the row with this number, as soon as the file is read so far."""
        self._forget()
        self._waits_for_number = number
        self._try_number()

    def find_error(self, row: int, known: frozenset[int]) -> None:
        """Go to the next row in error."""
        self._forget()
        self._seeks_error = True
        self.say("looking for a row in error …")
        self.finder.find_error(row, known)

    def error_sought(self, message: ErrorSought) -> None:
        """The look for a row in error came further."""
        if not self._seeks_error:
            return
        self._seeks_error = not message.is_done
        if message.row is not None:
            is_same = message.row == message.origin
            self.say("no other row in error" if is_same else "")
            self._go(message.row, False)
        elif message.is_done:
            self.say(f"no row in error among {len(self.finder.index):,}")
        else:
            self.say(f"looking for a row in error: {message.num_scanned:,} rows")

    def grew(self) -> None:
        """More rows are known."""
        self._try_number()

    def moved(self, row: int) -> None:
        """The cursor stands on another row; when it was the user who moved, nothing is waited for any more."""
        if row != self._target:
            if self._seeks_error or self._waits_for_number is not None:
                self.say("")
            self._forget()
            self._say_matches(row)

    def _forget(self) -> None:
        if self._seeks_error:
            self.finder.cancel_find_error()
        self._seeks_error, self._waits_for_match, self._waits_for_number = False, None, None

    def _go(self, row: int, finds: bool) -> None:
        self._target = row
        self.go(row, finds)

    def _try_match(self, row: int) -> None:
        matches = self.matches
        if matches is None:
            return
        if self._waits_for_match is not None:
            begin, direction = self._waits_for_match
            target = matches.next(begin, direction=direction)
            if target is not None:
                self._waits_for_match = None
                self._go(target, True)
                row = target
            elif matches.is_done:
                self._waits_for_match = None
        self._say_matches(row)

    def _say_matches(self, row: int) -> None:
        if (matches := self.matches) is None:
            return
        what = f"/{matches.text}"
        total = f"{len(matches):,}" if matches.is_done else f"{len(matches):,} so far"
        share = f"{100 * matches.num_scanned / max(1, len(self.finder.index)):.0f} %"
        if not len(matches):
            self.say(f"{what}: in no row" if matches.is_done else f"{what}: searching, {share}")
        elif self._waits_for_match is not None:
            self.say(f"{what}: searching on, {share}; {total}")
        elif row in matches:
            place = f"match {matches.place_of(row):,} of {total}" if matches.is_done else f"{total}, {share}"
            self.say(f"{what}: {place}")
        else:
            self.say(f"{what}: in {total} rows")

    def _try_number(self) -> None:
        number, index = self._waits_for_number, self.finder.index
        if number is None or not len(index):
            return
        row = index.row_at(number)
        unit = "line" if index.counts_lines else "row"
        if row < len(index):
            self._waits_for_number = None
            found = index.number_of(row)
            self.say("" if found == number else f"{unit} {number:,} is blank; this is {found:,}")
            self._go(row, False)
        elif index.is_done:
            self._waits_for_number = None
            self.say(f"there is no {unit} {number:,}; this is the last")
            self._go(len(index) - 1, False)
        else:
            self.say(f"reading up to {unit} {number:,}: {100 * index.share_read:.0f} %")
