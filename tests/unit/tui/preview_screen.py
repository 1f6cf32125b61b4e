"""An app under test, and what can be seen of it; keys go in as a user types them."""

import tui_screens
from textual.widgets import Input

from xtuner.data.finder import format_of, iter_rows
from xtuner.data.sources import describe_file
from xtuner.tui.preview.app import PreviewApp
from xtuner.tui.preview.layout import is_trained


def chat(question, answer="Fine."):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


class Screen(tui_screens.Screen):
    """The browser of rows, and what can be seen of it."""

    async def type(self, text):
        """Into the prompt that is open."""
        self.app._prompt.query_one(Input).value = text
        await self.press("enter")

    async def settle(self):
        """Until the row under the cursor is the one that is shown."""
        app = self.app
        await self.pilot.pause()
        await self.until(lambda: app._shown is not None and app._shown == app._asked)
        await self.pilot.pause()

    @property
    def lines(self):
        """Of what lies below the help."""
        return [strip.text for strip in self.app._body.screen._compositor.render_strips()]

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

    async def steps_once_read(screen):
        await screen.until(lambda: app._reader.index.is_done)
        await steps(screen)

    tui_screens.run_steps(app, Screen, steps_once_read, size, threads="preview-")
