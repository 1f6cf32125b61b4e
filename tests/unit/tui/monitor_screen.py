"""The dashboard under test, and what can be seen of it."""

import time
from unittest.mock import patch

from tui_screens import Screen, run_steps

from xtuner.tui.monitor import app as app_module
from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.runs import RunList

SIZES = ((80, 24), (120, 36), (200, 60))


class MonitorScreen(Screen):
    """The dashboard, and what can be seen of it."""

    async def settle(self):
        """Until all that is written was read, and shown."""
        await self.pilot.pause()
        await self.until(lambda: self.app._runs.newest is None or (self.app.session and self.app.session.has_past))
        await self.until(lambda: self.app.session is None or not self.app.session.is_behind)
        self.frame()
        await self.pilot.pause()

    def frame(self):
        """A frame now, as at its time."""
        self.app._show_frame(time.time())

    async def until_shown(self, text):
        def is_shown():
            self.frame()
            return text in self.text

        await self.until(is_shown)

    @property
    def header(self):
        return self.lines[0]

    @property
    def tab(self):
        return self.app._tab

    @property
    def pane(self):
        return self.app._pane


def drive(steps, path, size=(120, 36), app=None):
    """Run `steps(screen)` with the dashboard on `path`; no thread of it may be left.

    What is said stays: a busy machine may not paint once in the seconds that a reader has.
    """
    with patch.object(app_module, "_SAID_S", 600.0):
        run_steps(app or MonitorApp(RunList(path)), MonitorScreen, steps, size, threads="monitor-")
