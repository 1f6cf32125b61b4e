"""A thread that does the latest thing asked of it, and drops what was asked before.

Daemon threads of our own and not Textual's workers: those end with the event loop's executor, which would keep the
terminal until the slowest of them is through.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
IsStale = Callable[[], bool]


class Background(Generic[Request]):
    """One thread for one kind of work.

    Attributes:
        name: of the thread.
        work: called in the thread with a request, and with what tells whether it is still wanted.
        on_crash: called in the thread with what `work` raised: our own bug.
    """

    def __init__(
        self, name: str, work: Callable[[Request, IsStale], None], on_crash: Callable[[Exception], object]
    ) -> None:
        self._work = work
        self._on_crash = on_crash
        self._request: Request | None = None
        self._version = 0  # of the latest request; an odd answer to an older one is never sent
        self._is_stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        """Do this next; what is being done meanwhile is stale."""
        with self._changed:
            self._request = request
            self._version += 1
            self._changed.notify()

    def cancel(self) -> None:
        """Do nothing more until the next `ask`."""
        with self._changed:
            self._request = None
            self._version += 1

    def stop(self) -> None:
        """End the thread at its next look at `is_stale`; does not wait for it."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._request is not None)
                if self._is_stopped:
                    return
                request, version = self._request, self._version
                self._request = None
            assert request is not None
            try:
                self._work(request, lambda version=version: self._is_stopped or version != self._version)  # type: ignore[misc]
            except Exception as error:
                if not self._is_stopped:
                    self._on_crash(error)
                return
