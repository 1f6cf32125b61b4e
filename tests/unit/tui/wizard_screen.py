"""The wizard under test, and what can be seen of it; keys go in as a user types them."""

from textual.widgets import Input
from tui_screens import Screen, run_steps

from xtuner.launch.devices import Hardware
from xtuner.launch.plan import LaunchPlan
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.app import WizardApp
from xtuner.tui.wizard.field_row import row_id
from xtuner.tui.wizard.inspection import Inspector
from xtuner.v1.config import TrainerConfig

CPU = Hardware("cpu", "this machine", 0, 64.0, 64.0)
SIZES = [(80, 24), (160, 48)]


class WizardScreen(Screen):
    """The wizard, and what can be seen of it."""

    async def type(self, key, text):
        """Replace what stands in the field of `key`."""
        field = self.app.query_one(f"#{row_id(key)} Input", Input)
        field.focus()
        await self.pilot.pause()
        await self.pilot.press("end", *["backspace"] * len(field.value), *text)
        await self.settle()

    async def settle(self):
        """Until the answers on the screen are the ones that were judged."""
        await self.pilot.pause()
        await self.until(lambda: self.app._inspected == self.app._answers and self.app._inspection is not None)

    async def wait_for(self, words):
        await self.until(lambda: words in self.text)

    @property
    def one_line(self):
        """The screen with its line breaks as spaces: what is wrapped is found too."""
        return " ".join(self.text.split())

    @property
    def answers(self):
        return self.app._answers

    @property
    def step(self):
        return self.app._current


def drive(steps, answers=None, *, size=(80, 24), hardware=CPU):
    """Run `steps(screen)`; what the wizard returned. No thread of it may be left."""
    inspector = Inspector(hardware, LaunchPlan(config=TrainerConfig(), nproc_per_node=1))
    app = WizardApp(answers or Answers(), inspector)
    run_steps(app, WizardScreen, steps, size)
    app._worker.stop()
    assert app._worker.join(30.0)
    return app.return_value
