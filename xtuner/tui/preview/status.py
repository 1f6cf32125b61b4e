"""The line above the keys: what the marks mean, and what was just done."""

from typing import ClassVar

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from xtuner.run.text import visible
from xtuner.tui.preview.wrap import TOKEN_END, crop

_GAP = "   "


class StatusBar(Widget):
    """The legend on the left, and a message on the right, which wins where there is no room for both."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "status--trained",
        "status--special",
        "status--mark",
        "status--said",
    }

    said: reactive[str] = reactive("")
    has_model: reactive[bool] = reactive(False)
    shows_tokens: reactive[bool] = reactive(False)
    shows_raw: reactive[bool] = reactive(False)

    def render(self) -> Text:
        """Legend and message."""
        width = self.size.width
        said = crop(visible(self.said).replace("\n", " "), width)
        legend = self._legend()
        room = width - cell_len(said) - (len(_GAP) if said else 0)
        if said and legend.cell_len > room:
            legend = Text()
        legend.truncate(width, overflow="ellipsis")
        line = Text(no_wrap=True, end="")
        line.append_text(legend)
        line.append(" " * max(0, width - legend.cell_len - cell_len(said)))
        line.append(said, self.get_component_rich_style("status--said", partial=True))
        return line

    def _legend(self) -> Text:
        if self.shows_raw:
            return Text("the row's JSON")
        if not self.has_model:
            return Text("chats as they stand; --model DIR shows tokens")
        legend = Text()
        legend.append("▌", self._look("mark"))
        legend.append("trained", self._look("trained"))
        legend.append(_GAP)
        legend.append("<special>", self._look("special"))
        if self.shows_tokens:
            legend.append(f"{_GAP}{TOKEN_END} end of a token, ⏎ line end, ⇥ tab")
        else:
            legend.append(f"{_GAP}the rest is context")
        return legend

    def _look(self, name: str) -> Style:
        return self.get_component_rich_style(f"status--{name}", partial=True)
