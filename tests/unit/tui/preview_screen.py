"""An app under test, and what can be seen of it; keys go in as a user types them."""

import asyncio
import threading
import time

from textual.widgets import Input

from xtuner.data.finder import format_of, iter_rows
from xtuner.data.sources import describe_file
from xtuner.tui.preview.app import PreviewApp
from xtuner.tui.preview.layout import is_trained


def chat(question, answer="Fine."):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class Screen:
    """An app under test, and what can be seen of it."""

    def __init__(self, app, pilot):
        self.app, self.pilot = app, pilot

    async def press(self, *keys):
        await self.pilot.press(*keys)
        await self.settle()

    async def type(self, text):
        """Into the prompt that is open."""
        self.app._prompt.query_one(Input).value = text
        await self.press("enter")

    async def until(self, condition, timeout_s=20.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"never came true; the screen:\n{self.text}"
            await asyncio.sleep(0.005)

    async def settle(self):
        """Until the row under the cursor is the one that is shown."""
        app = self.app
        await self.pilot.pause()
        await self.until(lambda: app._shown is not None and app._shown == app._asked)
        await self.pilot.pause()

    @property
    def lines(self):
        return [strip.text for strip in self.app._body.screen._compositor.render_strips()]

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def header(self):
        return self.lines[0]

    @property
    def row(self):
        """The text of the row, without its gutter."""
        return "\n".join("".join(run.text for run in line) for line in self.app._pane.lines)

    @property
    def trained(self):
        """Lines of the row that hold trained text."""
        return ["".join(run.text for run in line) for line in self.app._pane.lines if is_trained(line)]

    @property
    def marked(self):
        """Text of the row that is marked as what was sought."""
        return [run.text for line in self.app._pane.lines for run in line if "match" in run.kinds]

    @property
    def cursor(self):
        return self.app._rows.cursor

    @property
    def said(self):
        return self.app._status.said


def drive(steps, path, pool=None, size=(100, 30)):
    """Run `steps(screen)` with the app on `path`; no thread of it may be left."""
    file = describe_file(path)
    app = PreviewApp(file, pool, format_of(file, next(iter_rows(file))))

    async def main():
        async with app.run_test(size=size) as pilot:
            screen = Screen(app, pilot)
            await screen.settle()
            await screen.until(lambda: app._reader.index.is_done)
            await steps(screen)

    asyncio.run(main())
    if app.crash is not None:
        raise app.crash
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("preview-")]
