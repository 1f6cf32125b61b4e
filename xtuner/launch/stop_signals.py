"""Signals to the supervising process, and how they reach the ranks."""

import signal
import subprocess
import time
from types import FrameType, TracebackType

# What each is passed on as: to the ranks SIGHUP means nothing, and a terminal that closes shall cost no step.
_PASSED_ON_AS = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGHUP: signal.SIGTERM,
}
# Equal signals that come close together are one to whom they are sent; a second one has a meaning of its own.
_APART_S = 1.0
_NOW_S = 10.0


class StopSignals:
    """Notes signals that ask a run to stop, from entering on, and passes them on to torchrun; a context manager.

    A detached launch does not hear SIGHUP: it has no terminal to lose. Neither is a signal heard that the process
    was started to ignore (`nohup`).

    Attributes:
        received: the signals so far, in their order.
    """

    def __init__(self, *, is_detached: bool) -> None:
        self.received: list[signal.Signals] = []
        self._num_passed = 0
        self._passed_at = 0.0
        self._own_at: float | None = None
        self._is_detached = is_detached
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in _PASSED_ON_AS:
            self._before[number] = signal.getsignal(number)
            if self._is_detached and number == signal.SIGHUP:
                signal.signal(number, signal.SIG_IGN)
            elif self._before[number] is not signal.SIG_IGN:
                signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def first_name(self) -> str:
        """The name of the first one; empty where there is none."""
        return self.received[0].name if self.received else ""

    def pass_on(self, torchrun: "subprocess.Popen[bytes]") -> None:
        """Send torchrun the next signal that it has not got; to be called again and again.

        One that is still there a while after the second signal, which means now, is killed, and its ranks with it.
        """
        since_last_s = time.monotonic() - self._passed_at
        if self._num_passed < len(self.received) and (self._num_passed == 0 or since_last_s >= _APART_S):
            torchrun.send_signal(_PASSED_ON_AS[self.received[self._num_passed]])
            self._num_passed += 1
            self._passed_at = time.monotonic()
        elif self._num_passed >= 2 and since_last_s >= _NOW_S:
            torchrun.kill()

    def end(self, torchrun: "subprocess.Popen[bytes]") -> None:
        """End torchrun and its ranks, for a reason of our own."""
        if self._own_at is None:
            self._own_at = time.monotonic()
            torchrun.terminate()
        elif time.monotonic() - self._own_at >= _NOW_S:
            torchrun.kill()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))
