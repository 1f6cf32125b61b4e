"""The fifth tab: how the run was made, what it has left on disk, and what happened to it."""

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult

from xtuner.run.atomic import read_object
from xtuner.run.checkpoints import fault_of, list_checkpoints
from xtuner.tui.monitor.document import Document, pairs
from xtuner.tui.monitor.run_sections import sections_of
from xtuner.tui.monitor.session import Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.braille import GlyphSet
from xtuner.tui.widgets.picture import Row, Run

_READ_AGAIN_S = 5.0


class RunPane(TabPane):
    """A page, read anew now and then while it is shown."""

    is_live: ClassVar[bool] = True

    def __init__(self, session: Session, glyphs: GlyphSet) -> None:
        super().__init__(session, glyphs)
        self._page = Document()
        self._shown: tuple[object, ...] = ()
        self._read_at = float("-inf")
        self._config: dict[str, object] = {}
        self._faults: dict[int, str | None] = {}

    def compose(self) -> ComposeResult:
        """The page."""
        yield self._page

    def take_focus(self) -> None:
        """Give the keys to the page."""
        self.screen.set_focus(self._page)

    def repaint(self, now: float) -> None:
        """Show what is new; `now` is seconds since the epoch."""
        run_dir = self._session.files.run_dir
        if run_dir is not None and not 0 <= now - self._read_at < _READ_AGAIN_S:
            self._read_at = now
            self._config = read_object(run_dir.config_json) or self._config
            self._faults = {found.step: fault_of(found, reads_files=False) for found in list_checkpoints(run_dir)}
        sections = sections_of(self._session, self._config, self._faults, now)
        shown = tuple((title, tuple(entries)) for title, entries in sections.items())
        if shown != self._shown:
            self._shown = shown
            self._page.show(lambda width: lay_out(sections, width))


def lay_out(sections: Mapping[str, list[tuple[str, str]]], width: int) -> list[Row]:
    """The sections below each other."""
    rows: list[Row] = []
    for title, entries in sections.items():
        rows += [*([[]] if rows else []), [Run(title, "title")]]
        rows += pairs(entries, width) if entries else [[Run("none", "note")]]
    return rows
