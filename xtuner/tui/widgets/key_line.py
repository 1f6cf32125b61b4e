"""The keys at the foot of a screen, in one row.

Textual's own footer makes a widget for each key and styles them anew with each change of the focus, which takes
longer than all the rest of showing another tab. This is a picture.
"""

from itertools import accumulate
from typing import ClassVar, NamedTuple

from textual import events

from xtuner.tui.widgets.cells import num_cells, one_line
from xtuner.tui.widgets.picture import Picture, Row, Run


class KeyHint(NamedTuple):
    """A key by its name in Textual, as it is shown, and what it does."""

    key: str
    shown: str
    about: str

    @property
    def runs(self) -> Row:
        """What stands in the row."""
        return [Run(f" {one_line(self.shown)} ", "key"), Run(f"{one_line(self.about)} ", "about")]

    @property
    def width(self) -> int:
        """Cells that it takes."""
        return sum(num_cells(run.text) for run in self.runs)


class KeyLine(Picture):
    """What the keys do that are heard now; a click is as good as the key."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"picture--key", "picture--about"}
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom;
        height: 1;
        color: $footer-foreground;
        background: $footer-background;
        & > .picture--key { color: $footer-key-foreground; background: $footer-key-background; text-style: bold; }
        & > .picture--about { color: $footer-description-foreground; background: $footer-description-background; }
    }
    """

    hints: tuple[KeyHint, ...] = ()

    def on_mount(self) -> None:
        """Hear of other keys."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.look())

    def look(self) -> None:
        """Show the keys that are heard now; of several for one action, the first."""
        hints: dict[str, KeyHint] = {}
        for _, binding, is_enabled, _ in self.screen.active_bindings.values():
            if binding.show and is_enabled and binding.action not in hints:
                shown = self.app.get_key_display(binding)
                hints[binding.action] = KeyHint(binding.key, shown, binding.description)
        if self.hints != tuple(hints.values()):
            self.hints = tuple(hints.values())
            self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The keys, as many as have room for all that is said of them."""
        ends = accumulate(hint.width for hint in self.hints)
        return [[run for hint, end in zip(self.hints, ends, strict=True) if end - 1 <= width for run in hint.runs]]

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Do what the key under the pointer does."""
        ends = accumulate(hint.width for hint in self.hints)
        under = next(
            (hint for hint, end in zip(self.hints, ends, strict=True) if event.x < end <= self.size.width + 1), None
        )
        if under is not None:
            self.app.simulate_key(under.key)
