"""The state of a run in one word, with a mark and a colour that say the same."""

from typing import ClassVar

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from xtuner.tui.widgets.braille import BRAILLE, GlyphSet
from xtuner.tui.widgets.cells import fit, num_cells, one_line

# state: mark, the same in ASCII, CSS class
_STATES = {
    "waiting": ("◌", ".", "-waiting"),
    "starting": ("◌", ".", "-waiting"),
    "restarting": ("◌", ".", "-warning"),
    "running": ("►", ">", "-good"),
    "evaluating": ("►", ">", "-good"),
    "exporting": ("►", ">", "-good"),
    "paused": ("=", "=", "-waiting"),
    "stalled": ("!", "!", "-warning"),
    "stopped": ("■", "#", "-waiting"),
    "finished": ("✓", "+", "-good"),
    "failed": ("✗", "x", "-bad"),
    "lost": ("?", "?", "-bad"),
}
_UNKNOWN = ("?", "?", "-waiting")
_MAX_CELLS = 16


def pill_text(state: str, glyphs: GlyphSet = BRAILLE) -> str:
    """The mark and the word: ` ► RUNNING `."""
    mark, ascii_mark, _ = _STATES.get(state, _UNKNOWN)
    word = one_line(state[:_MAX_CELLS]).upper() or "UNKNOWN"
    said = f" {ascii_mark if glyphs.is_ascii else mark} {word} "
    return fit(said, min(num_cells(said), _MAX_CELLS))


def pill_look(state: str) -> str:
    """What the colour of a state says: `good`, `warning`, `bad` or `waiting`."""
    return _STATES.get(state, _UNKNOWN)[2].removeprefix("-")


class StatePill(Widget):
    """The states that readers show, and `paused`; another word is shown as it is."""

    DEFAULT_CSS = """
    StatePill {
        width: auto;
        height: 1;
        text-style: bold reverse;
        &.-good { color: ansi_green; }
        &.-warning { color: ansi_yellow; }
        &.-bad { color: ansi_red; }
    }
    """
    _CLASSES: ClassVar[set[str]] = {look for _, _, look in _STATES.values()}

    state: reactive[str] = reactive("starting", layout=True)

    def __init__(self, state: str = "starting", *, glyphs: GlyphSet = BRAILLE, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self.state = state

    def watch_state(self, state: str) -> None:
        """Another colour."""
        self.remove_class(*self._CLASSES)
        self.add_class(_STATES.get(state, _UNKNOWN)[2])

    def render(self) -> Content:
        """Mark and word."""
        return Content(pill_text(self.state, self._glyphs))
