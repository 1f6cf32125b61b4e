"""The line in which a filter, something to search for or a number is typed."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label


class Prompt(Horizontal):
    """Hidden until it is opened; tells each draft, and what was typed or that it was left."""

    DEFAULT_CSS = """
    Prompt {
        display: none;
        height: 1;
        padding: 0 1;
        background: $surface;
        Label { width: auto; text-style: bold; }
        Input { width: 1fr; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Back")]

    class Drafted(Message):
        """What stands in the line now."""

        def __init__(self, purpose: str, text: str) -> None:
            super().__init__()
            self.purpose = purpose
            self.text = text

    class Answered(Drafted):
        """What was typed."""

    class Left(Message):
        """It was left; `text` is what it was opened with."""

        def __init__(self, purpose: str, text: str) -> None:
            super().__init__()
            self.purpose = purpose
            self.text = text

    def __init__(self) -> None:
        super().__init__()
        self._purpose = self._begun_with = ""

    @property
    def is_open(self) -> bool:
        """Whether it takes the keys."""
        return bool(self.display)

    def compose(self) -> ComposeResult:
        """A label and the field."""
        yield Label("", markup=False)
        yield Input(compact=True, select_on_focus=True)

    def open(self, purpose: str, label: str, text: str = "", *, restrict: str | None = None) -> None:
        """Show it, with `text` to begin with, and take the keys.

        Args:
            purpose: what it is opened for; the messages say it again.
            label: stands before the field.
            text: stands in it.
            restrict: a regular expression of all that may be typed.
        """
        self._purpose, self._begun_with = purpose, text
        self.query_one(Label).update(f"{label}: ")
        field = self.query_one(Input)
        with self.prevent(Input.Changed):
            field.restrict, field.value = restrict, text
        self.display = True
        self.screen.set_focus(field)  # now, and not when other messages are through: the next key is meant for it

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell the draft."""
        event.stop()
        if self.is_open:
            self.post_message(self.Drafted(self._purpose, event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Say what was typed."""
        event.stop()
        self.display = False
        self.post_message(self.Answered(self._purpose, event.value))

    def action_leave(self) -> None:
        """Close without an answer."""
        self.display = False
        self.post_message(self.Left(self._purpose, self._begun_with))
