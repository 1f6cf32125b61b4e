"""A step on the screen: its questions, and beside or below them what the answers come to."""

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from xtuner.language import _
from xtuner.run.text import visible
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.candidates import Candidate
from xtuner.tui.wizard.field_row import Choice, FieldRow
from xtuner.tui.wizard.steps import CUSTOM, PRESETS, Step, preset_of

_PRESET_NAMES = tuple(preset.name for preset in PRESETS)


class StepPane(Container):
    """The questions and the panel of one step."""

    class PresetChosen(Message):
        """A preset is to be applied."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class ModelChosen(Message):
        """A model of the list is to be taken."""

        def __init__(self, candidate: Candidate) -> None:
            super().__init__()
            self.candidate = candidate

    def __init__(self, step: Step, answers: Answers) -> None:
        super().__init__(id=step.name)
        self.step = step
        self._answers = answers
        self._rows = [FieldRow(field, answers) for field in step.fields]
        self._preset = Choice(_PRESET_NAMES, preset_of(answers), id="preset", label=_)
        self._text = Static("", markup=False)
        self._list = OptionList(markup=False, compact=True)
        self._candidates: list[Candidate] = []

    def compose(self) -> ComposeResult:
        """Questions by group, then the panel."""
        if self._rows:
            with VerticalScroll(classes="fields", can_focus=False):
                yield from self._questions()
        with VerticalScroll(classes="panel"):
            yield self._text
            if self.step.name == "model":
                yield self._list

    def _questions(self) -> ComposeResult:
        if self.step.name == "training":
            yield Static(_("preset"), classes="group", markup=False)
            yield self._preset
        group = ""
        for row in self._rows:
            is_first = row.field.key in self.step.first
            if not is_first and row.field.group != group:
                group = row.field.group
                yield Static(_(group), classes="group", markup=False)
            yield row

    @property
    def panel_width(self) -> int:
        """Cells of a line of the panel."""
        return max(20, self._text.container_size.width - 1)

    def take_keys(self) -> None:
        """Give the keys to the first question, or to the panel where there is none."""
        if self._rows:
            self._rows[0].take_keys()
        else:
            self.screen.set_focus(self.query_one(".panel"))

    def scroll_panel(self, direction: int) -> None:
        """Scroll the panel by all but one of its lines."""
        scroll = self.query_one(".panel", VerticalScroll)
        scroll.scroll_relative(y=direction * max(1, scroll.size.height - 1), animate=False)

    def update(self, answers: Answers, typed: str | None = None) -> None:
        """Show what `answers` say; the text of the question `typed` came from its editor."""
        self._answers = answers
        for row in self._rows:
            row.update(answers, is_typed=row.field.key == typed)
        self._preset.value = preset_of(answers)

    def show_panel(self, text: Text) -> None:
        """Show the panel's text."""
        self._text.update(text)

    def show_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Offer these models; the list keeps its place where they are the same."""
        if list(candidates) == self._candidates:
            return
        self._candidates = list(candidates)
        self._list.clear_options()
        self._list.add_options(
            Option(Text(f"{visible(str(candidate.path))}  ({visible(candidate.origin)})")) for candidate in candidates
        )
        self._list.display = bool(candidates)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take the model."""
        event.stop()
        self.post_message(self.ModelChosen(self._candidates[event.option_index]))

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Apply the preset."""
        event.stop()
        if event.value != CUSTOM:
            self.post_message(self.PresetChosen(event.value))
