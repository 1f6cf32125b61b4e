"""One question on the screen: name, what is answered, where that came from, and what is wrong with it."""

from collections.abc import Callable
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.reactive import reactive
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input, Static

from xtuner.language import _
from xtuner.run.text import visible
from xtuner.tui.wizard.answers import Answers
from xtuner.tui.wizard.completion import complete
from xtuner.tui.wizard.fields import Field


class Choice(Widget, can_focus=True):
    """One of a few: the arrows and the space bar go through them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,space", "move(1)", "Next choice", show=False),
        Binding("left", "move(-1)", "Choice before", show=False),
    ]

    value: reactive[str] = reactive("")

    class Changed(Message):
        """Another one was taken."""

        def __init__(self, choice: "Choice", value: str) -> None:
            super().__init__()
            self.choice = choice
            self.value = value

    def __init__(
        self, choices: tuple[str, ...], value: str, id: str | None = None, label: Callable[[str], str] = str
    ) -> None:
        super().__init__(id=id)
        self._choices = choices
        self._label = label
        self.set_reactive(Choice.value, value)

    def render(self) -> Text:
        """The choice between arrows; where there is room, all of them."""
        one = f"‹ {self._label(self.value)} ›"
        rest = " ".join(self._label(choice) for choice in self._choices if choice != self.value)
        has_room = cell_len(one) + cell_len(rest) + 3 <= self.size.width
        return Text.assemble((one, "bold"), (f"   {rest}" if has_room else "", "dim"), no_wrap=True)

    def action_move(self, steps: int) -> None:
        """Take the next, or the one before; a wrong value from elsewhere gives way to the first."""
        place = self._choices.index(self.value) + steps if self.value in self._choices else 0
        self.value = self._choices[place % len(self._choices)]
        self.post_message(self.Changed(self, self.value))


class PathSuggester(Suggester):
    """Completes paths while they are typed."""

    def __init__(self, *, is_list: bool) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._is_list = is_list

    async def get_suggestion(self, value: str) -> str | None:
        """`value`, completed; names that a terminal would act on are not offered."""
        completed = complete(value, is_list=self._is_list)
        return completed if completed is not None and visible(completed) == completed else None


class FieldRow(Vertical):
    """A question; says `Edited` with each change."""

    class Edited(Message):
        """Something else is answered."""

        def __init__(self, key: str, text: str) -> None:
            super().__init__()
            self.key = key
            self.text = text

    def __init__(self, field: Field, answers: Answers) -> None:
        super().__init__(id=row_id(field.key))
        self.field = field
        self._source = Static("", classes="source", markup=False)
        self._error = Static("", classes="error", markup=False)
        self._editor = self._make_editor(answers.text(field.key))
        self._answers = answers
        self._shown = ("", "")  # source and error

    def compose(self) -> ComposeResult:
        """Name, editor and source on a line, the error below."""
        with Horizontal(classes="line"):
            yield Static(self.field.flag.removeprefix("--").removeprefix("fsdp-config."), classes="name", markup=False)
            yield self._editor
            yield self._source
        yield self._error

    def on_mount(self) -> None:
        """Say where the answer came from."""
        self.update(self._answers)

    def take_keys(self) -> None:
        """Give the keys to the editor."""
        self.screen.set_focus(self._editor)  # now: `focus` would let the keys pass that come before it

    def update(self, answers: Answers, *, is_typed: bool = False) -> None:
        """Show what `answers` say.

        Args:
            answers: of all questions.
            is_typed: the text came from the editor, which may be ahead of it already: it is left as it stands.
        """
        self._answers = answers
        text = answers.text(self.field.key)
        if self._editor.value != text and not is_typed:
            with self.prevent(Input.Changed):
                self._editor.value = text
        error = answers.error(self.field.key)
        shown = (_(answers.source(self.field.key)), visible(f"✗ {error.message}") if error else "")
        if shown != self._shown:  # to lay out all rows anew at each key would be felt
            self._shown = shown
            self._source.update(shown[0])
            self._error.update(shown[1])
            self._error.display = error is not None

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass it on."""
        event.stop()
        self.post_message(self.Edited(self.field.key, event.value))

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Pass it on."""
        event.stop()
        self.post_message(self.Edited(self.field.key, event.value))

    def _make_editor(self, text: str) -> "Input | Choice":
        if self.field.choices:
            return Choice(self.field.choices, text, label=_ if self.field.kind == "switch" else str)
        return Input(
            text,
            placeholder=_(self.field.default_words),
            compact=True,
            select_on_focus=False,
            suggester=PathSuggester(is_list=self.field.kind == "list") if self.field.holds_paths else None,
        )


def row_id(key: str) -> str:
    """The id of the row of `key`."""
    return f"row-{key.replace('.', '-')}"
