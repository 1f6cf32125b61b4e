"""When a tab is painted: a key waits for what is being painted, so that is little where there is much to do."""

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xtuner.tui.monitor.tab_pane import TabPane

if TYPE_CHECKING:
    from xtuner.tui.monitor.session import Session

_FRAME_S, _FRAME_WHILE_BEHIND_S = 0.5, 0.02
# While the terminal's window has no focus, a frame now and then is enough.
_FRAME_UNSEEN_S = 2.0
# While a history is read, a part of what is shown is painted so often: the rest is for reading and for keys.
_PART_S = 0.05


def frame_after_s(sessions: "Sequence[Session]", *, has_focus: bool) -> float:
    """Seconds until the next look at what was read."""
    if is_behind(sessions):
        return _FRAME_WHILE_BEHIND_S
    return _FRAME_S if has_focus else _FRAME_UNSEEN_S


def is_behind(sessions: "Sequence[Session]") -> bool:
    """Whether one of the runs has more to take in at once."""
    return any(session.is_behind for session in sessions)


class Painter:
    """Paints a tab when there is news: all of it, or part after part while a history is read."""

    def __init__(self) -> None:
        self._again_at = 0.0
        self._is_frozen = False

    def show(self, pane: TabPane, sessions: "Sequence[Session]", now: float) -> None:
        """It is seen from now on; while a history is read, the picture it had comes before a new one."""
        if not self._is_frozen:
            # What was imported is looked through at each full collection: a tenth of a second without a key.
            self._is_frozen = True
            gc.freeze()
        self._again_at = time.monotonic() + _PART_S
        self.paint(pane, sessions, now)

    def paint(self, pane: TabPane, sessions: "Sequence[Session]", now: float) -> None:
        """Show what is new of these runs; `now` is seconds since the epoch."""
        revision = sum(session.revision for session in sessions)  # each of them only grows
        if revision == pane.painted and not pane.is_live:
            return
        if pane.painted < 0 or not is_behind(sessions):
            pane.repaint(now)
            pane.painted = revision
        elif time.monotonic() >= self._again_at:
            pane.repaint_part(now)
            self._again_at = time.monotonic() + _PART_S

    def forget(self) -> None:
        """Another run is shown from now on, or none: what held the last one is let go."""
        gc.unfreeze()
