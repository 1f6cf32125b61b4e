"""The line in which text to search for, or a number to jump to, is typed."""

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label

Purpose = Literal["search", "jump"]


class Prompt(Horizontal):
    """Hidden until it is opened; says what was typed, or that nothing was."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Back")]

    class Answered(Message):
        """What was typed."""

        def __init__(self, purpose: Purpose, text: str) -> None:
            super().__init__()
            self.purpose = purpose
            self.text = text

    class Left(Message):
        """Nothing was typed."""

    def __init__(self) -> None:
        super().__init__()
        self._purpose: Purpose = "search"

    @property
    def is_open(self) -> bool:
        """Whether it takes the keys."""
        return self.display

    def compose(self) -> ComposeResult:
        """A label and the field."""
        yield Label("", markup=False)
        yield Input(compact=True, select_on_focus=True)

    def open(self, purpose: Purpose, unit: str, text: str = "") -> None:
        """Show it, with `text` to begin with, and take the keys."""
        self._purpose = purpose
        self.query_one(Label).update("search: " if purpose == "search" else f"{unit} number: ")
        field = self.query_one(Input)
        field.restrict = None if purpose == "search" else r"[0-9,_]*"
        field.value = text
        self.display = True
        self.screen.set_focus(field)  # now, and not when other messages are through: the next key is meant for it

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Say what was typed."""
        event.stop()
        self.display = False
        self.post_message(self.Answered(self._purpose, event.value))

    def action_leave(self) -> None:
        """Close without an answer."""
        self.display = False
        self.post_message(self.Left())
