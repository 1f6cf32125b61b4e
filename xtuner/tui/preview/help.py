"""The keys, on one page."""

from typing import ClassVar

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

KEYS: tuple[tuple[str, str], ...] = (
    ("j k", "next and previous row"),
    ("↓ ↑ PgDn PgUp", "move in what has the focus: list or row"),
    ("Home End", "its beginning and end"),
    ("Tab Enter", "from the list to the row; Tab goes back"),
    ("space b", "scroll the row by a page, also from the list"),
    ("/", "search in all rows, upper and lower case alike"),
    ("n N", "next and previous row that was found"),
    ("g :", "go to a line by its number"),
    ("e", "next row in error"),
    ("t", "mark where each token ends"),
    ("r", "the row as JSON"),
    ("l", "hide or show the list"),
    ("q Esc", "leave"),
)
NOTES = (
    "Trained text is underlined, and ▌ stands beside its lines.",
    "In the list, ✗ marks a row in error and / a row that was found.",
    "e sees what is wrong with a row as such; what the chat template refuses it knows of rows that were looked at.",
)


class HelpScreen(ModalScreen[None]):
    """Over the browser, until any of its keys."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"help--keys"}
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter,space", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        """The keys and what they do."""
        with VerticalScroll():
            yield Static()

    def on_mount(self) -> None:
        """Write the page, when its looks are known."""
        self.query_one(Static).update(_page(self.get_component_rich_style("help--keys", partial=True)))


def _page(look: Style) -> Text:
    width = max(cell_len(keys) for keys, _ in KEYS) + 2
    page = Text()
    for keys, meaning in KEYS:
        page.append(keys, look)
        page.append(" " * (width - cell_len(keys)) + f"{meaning}\n")
    page.append("\n" + "\n".join(NOTES))
    return page
