"""What a tab holds: a widget that is repainted by frames."""

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from xtuner.tui.widgets.braille import GlyphSet

if TYPE_CHECKING:
    from xtuner.tui.monitor.session import Session


class TabPane(Vertical):
    """One tab of one run.

    Args:
        session: the run.
        glyphs: what the terminal can show.

    Attributes:
        is_live: whether it changes without news of a run, as ages of ranks and lines of logs do.
        painted: the revision of the runs that it shows; -1 before the first one.
    """

    is_live: ClassVar[bool] = False

    class Ready(Message):
        """It can be painted, and take the keys."""

    def __init__(self, session: "Session", glyphs: GlyphSet) -> None:
        super().__init__()
        self.painted = -1
        self._session = session
        self._glyphs = glyphs

    def render_lines(self, crop: Region) -> list[Strip]:
        """Blanks behind what it holds: one for all rows, as each would ask all parents for their style."""
        return [Strip.blank(crop.width, self.rich_style)] * crop.height

    def on_mount(self) -> None:
        """Say so."""
        self.post_message(self.Ready())

    def repaint(self, now: float) -> None:
        """Show what is new; `now` is seconds since the epoch."""
        raise NotImplementedError

    def repaint_part(self, now: float) -> None:
        """Show what is new of a part, the next one at each call: a key waits no longer than that takes."""
        self.repaint(now)

    def take_focus(self) -> None:
        """Give the keys to what is most used."""
        raise NotImplementedError
