"""The question before leaving."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from xtuner.language import _


class QuitScreen(ModalScreen[bool]):
    """Leave, or stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "dismiss(True)", "Leave", priority=True),
        Binding("n,escape", "dismiss(False)", "Stay", priority=True),
    ]

    def compose(self) -> ComposeResult:
        """The question and its keys."""
        with Vertical():
            yield Static(
                _("Leave without launching?")
                + "\n\n"
                + _("Your answers are kept: xtuner sft --continue goes on with them.")
                + "\n\n"
                + _("y or Enter: leave     n or Esc: stay"),
                markup=False,
            )
