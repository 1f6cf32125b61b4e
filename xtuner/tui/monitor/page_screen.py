"""A page of text over the dashboard, until it is closed."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from xtuner.tui.monitor.document import Document
from xtuner.tui.widgets.picture import Row


class PageScreen(ModalScreen[None]):
    """What `lay_out` makes for a width, in a frame."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,space,question_mark", "dismiss", "Back", show=False, id="page.close")
    ]

    def __init__(self, lay_out: Callable[[int], Sequence[Row]]) -> None:
        super().__init__()
        self._page = Document(lay_out)

    def compose(self) -> ComposeResult:
        """The page."""
        yield self._page

    def on_mount(self) -> None:
        """Its keys scroll."""
        self._page.focus()
