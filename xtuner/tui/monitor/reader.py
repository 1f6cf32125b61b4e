"""The one thread that reads the files of a run while the screen is open."""

import threading
import time
from collections import deque
from collections.abc import Iterator

from xtuner.run.events import Event
from xtuner.run.feed import Feed

_POLL_S = 0.5
_SLICE_S = 0.01
# Between two slices of a long history: the screen's thread gets its turn.
_BREATH_S = 0.002
# After a key the screen has the interpreter to itself, for as long as a picture takes; but reading never stands still.
_HOLD_S, _MAX_HOLD_S = 0.15, 0.5
# Slices that wait for the screen; while it does not come, reading waits too, so that memory stays bounded.
_MAX_WAITING = 8
_FULL_S = 0.01  # until that is looked at again: each look takes the interpreter from the screen


class Reader:
    """Polls a feed from a thread; `drain` hands over what was read.

    The thread touches the feed alone, and no widget. A bug in it is kept in `error` and ends the thread: the screen
    raises it.
    """

    def __init__(self, feed: Feed) -> None:
        self.error: BaseException | None = None
        self._feed = feed
        self._slices: deque[list[Event]] = deque()
        self._num_read = self._num_given = 0
        self._newest_until: int | None = None  # slices that hold where the run stands
        self._is_whole = False
        self._held_until = self._read_at = self._drained_at = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor-reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, as soon as it is through with its slice; a disk that hangs does not hold up the screen."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def hold(self) -> None:
        """Leave the processor to the screen for a moment: there was a key."""
        self._held_until = time.monotonic() + _HOLD_S

    def _held_s(self, last: float) -> float:
        """Seconds for which nothing is to be done; at most half a second in a row, which began at `last`."""
        return min(self._held_until, last + _MAX_HOLD_S) - time.monotonic()

    @property
    def is_behind(self) -> bool:
        """Whether there is more to read at once."""
        return not self._is_whole or bool(self._slices)  # in this order: the thread sets the former last

    @property
    def has_newest(self) -> bool:
        """Whether where the run stands was read, and drained."""
        return self._newest_until is not None and self._num_given >= self._newest_until

    def drain(self, budget_s: float) -> Iterator[list[Event]]:
        """The slices that wait, for about `budget_s` seconds of what the caller does with them; at least one.

        None for a moment after a key, unless all of the run's past is known: new steps are few.
        """
        if not self._is_whole and self._held_s(self._drained_at) > 0:
            return
        self._drained_at = time.monotonic()
        deadline = self._drained_at + budget_s
        while self._slices:
            self._num_given += 1
            yield self._slices.popleft()
            if time.monotonic() >= deadline:
                break

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                wait_s = _FULL_S if len(self._slices) >= _MAX_WAITING else self._held_s(self._read_at)
                if wait_s > 0:
                    self._is_over.wait(wait_s)
                    continue
                self._read_at = time.monotonic()
                events = self._feed.poll(_SLICE_S)
                if events:
                    self._num_read += 1
                    self._slices.append(events)
                if self._newest_until is None and self._feed.has_newest:
                    self._newest_until = self._num_read
                self._is_whole = self._feed.is_whole
                self._is_over.wait(_BREATH_S if self._feed.has_backlog else _POLL_S)
        except Exception as error:
            self.error = error
        finally:
            self._feed.close()
