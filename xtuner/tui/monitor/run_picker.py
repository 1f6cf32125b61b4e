"""The runs of a work dir, to choose one from."""

import time
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from xtuner.run.discover import RunFiles
from xtuner.run.status import read_status
from xtuner.run.supervision import judge_launch, read_supervision
from xtuner.tui.monitor.key_hint import key_of
from xtuner.tui.widgets.braille import GlyphSet
from xtuner.tui.widgets.cells import crop, one_line
from xtuner.tui.widgets.state_pill import pill_text

_MAX_RUNS = 200
_MAX_NAME = 40
_MIN_CELLS = 8


def describe(files: RunFiles, glyphs: GlyphSet) -> str:
    """One run in a line."""
    name = crop(one_line(files.path.name), _MAX_NAME)
    launch = read_supervision(files.run_dir) if files.run_dir else None
    status = read_status(files.run_dir) if files.run_dir else None
    if status is None:
        return f"{name}  {len(files.logs)} logs"
    state = pill_text(judge_launch(launch, status, time.time()), glyphs)
    return f"{name} {state} step {status.step:,}/{status.total_steps:,}"


class Picked(NamedTuple):
    """A run, and whether it is to be drawn beside the one that is shown."""

    files: RunFiles
    is_compared: bool = False


class _RunOptions(OptionList):
    """Options that are not wrapped in no cells at all, at which Textual fails: a terminal may be one cell wide."""

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As of the base class."""
        return super().get_content_height(container, viewport, max(width, _MIN_CELLS))


class RunPicker(ModalScreen[Picked | None]):
    """The newest run first; says which was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,r", "dismiss(None)", "Back", show=False, id="picker.close"),
        Binding("c", "compare", "Compare", show=False, id="picker.compare"),
    ]

    def __init__(self, runs: Sequence[RunFiles], current: RunFiles | None, glyphs: GlyphSet) -> None:
        super().__init__()
        self._runs = list(reversed(runs))[:_MAX_RUNS]
        self._current = current
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        """The list."""
        yield _RunOptions(*(Option(Content(describe(files, self._glyphs))) for files in self._runs), markup=False)
        yield Label(markup=False)

    def on_mount(self) -> None:
        """The cursor stands on the run that is shown."""
        paths = [files.path for files in self._runs]
        options = self.query_one(OptionList)
        options.highlighted = paths.index(self._current.path) if self._current and self._current.path in paths else 0
        options.focus()
        compare = key_of(self, "picker.compare")
        self.query_one(Label).update(f"Enter shows the run, {compare} compares it with the one that is shown")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Show that run."""
        event.stop()
        self.dismiss(Picked(self._runs[event.option_index]))

    def action_compare(self) -> None:
        """Draw the run under the cursor beside the one that is shown, or no longer."""
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self.dismiss(Picked(self._runs[highlighted], is_compared=True))
