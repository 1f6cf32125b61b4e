"""The dashboard under test, and what can be seen of it."""

import asyncio
import threading
import time

from tui_pictures import strips_of

from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.runs import RunList

SIZES = ((80, 24), (120, 36), (200, 60))


class MonitorScreen:
    """The app, its pilot, its screen."""

    def __init__(self, app, pilot):
        self.app, self.pilot = app, pilot

    async def press(self, *keys):
        await self.pilot.press(*keys)
        await self.settle()

    async def settle(self):
        """Until all that is written was read, and shown."""
        await self.pilot.pause()
        await self.until(lambda: self.app.session is None or not self.app.session.is_behind)
        self.frame()
        await self.pilot.pause()

    def frame(self):
        """A frame now, as at its time."""
        self.app._show_frame(time.time())

    async def until(self, condition, timeout_s=20.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"never came true; the screen:\n{self.text}"
            await asyncio.sleep(0.01)
        await self.pilot.pause()

    async def until_shown(self, text):
        def is_shown():
            self.frame()
            return text in self.text

        await self.until(is_shown)

    @property
    def lines(self):
        return [strip.text for strip in strips_of(self.app)]

    @property
    def text(self):
        return "\n".join(self.lines)

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
    """Run `steps(screen)` with the dashboard on `path`; no thread of it may be left."""
    app = app or MonitorApp(RunList(path))

    async def main():
        async with app.run_test(size=size) as pilot:
            screen = MonitorScreen(app, pilot)
            await screen.settle()
            await steps(screen)

    asyncio.run(main())
    if app.crash is not None:
        raise app.crash
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("monitor-")]
