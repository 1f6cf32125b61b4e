"""Apps under test, driven by keys, and what can be seen of them; the screens of each build on this."""

import asyncio
import threading
import time

from tui_pictures import strips_of

PATIENCE_S = 240.0  # a busy machine is slow


class Screen:
    """The app, its pilot, and what stands on the screen."""

    def __init__(self, app, pilot):
        self.app, self.pilot = app, pilot

    async def press(self, *keys):
        await self.pilot.press(*keys)
        await self.settle()

    async def settle(self):
        """Until the app has done all that was asked of it."""
        await self.pilot.pause()

    async def until(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"never came true; the screen:\n{self.text}"
            await asyncio.sleep(0.01)
        await self.pilot.pause()

    @property
    def lines(self):
        return [strip.text for strip in strips_of(self.app)]

    @property
    def text(self):
        return "\n".join(self.lines)


def run_steps(app, make_screen, steps, size, threads=""):
    """Run `steps(screen)` with the app; what it crashed with is raised.

    Args:
        app: not yet run; `crash` is what it left with.
        make_screen: a `Screen` of an app and its pilot.
        steps: what is done and looked at.
        size: of the terminal.
        threads: how the names of the app's own begin; none of them may be left.
    """

    async def main():
        async with app.run_test(size=size) as pilot:
            screen = make_screen(app, pilot)
            await screen.settle()
            await steps(screen)

    asyncio.run(main())
    if app.crash is not None:
        raise app.crash
    assert not threads or not [thread for thread in threading.enumerate() if thread.name.startswith(threads)]
