"""The download of a model, over the step that asks for it."""

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from xtuner.tui.wizard.download_words import screen_text
from xtuner.tui.wizard.model_download import ModelDownload


class DownloadScreen(ModalScreen[Path | None]):
    """Shows `download` and takes its keys; left with the directory when the cached model is taken."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "go_on", show=False),
        Binding("escape", "leave", show=False),
        Binding("d", "newest", show=False),
        Binding("b", "hide", show=False),
    ]

    def __init__(self, download: ModelDownload) -> None:
        super().__init__()
        self._download = download
        self._text = Static("", markup=False)

    def compose(self) -> ComposeResult:
        """One text, which scrolls where it does not fit."""
        with VerticalScroll(can_focus=False):
            yield self._text

    def on_mount(self) -> None:
        """Show how far it is."""
        self.show()

    def on_resize(self) -> None:
        """Lay it out anew."""
        self.show()

    def show(self) -> None:
        """Show what has changed."""
        if self._download.state is not None:
            self._text.update(screen_text(self._download.state, self._text.size.width or self.app.size.width))

    def action_go_on(self) -> None:
        """The next stage: take, fetch, go on, try again."""
        state = self._download.state
        if state is None or state.stage in ("asking", "fetching", "done"):
            return
        if state.stage == "cached":
            self._download.forget()
            self.dismiss(state.model_dir)
            return
        if state.planned is not None:
            self._download.fetch()
        elif state.endpoint is not None:
            self._download.ask()
        else:
            self._download.begin(state.answer)
        self.show()

    def action_newest(self) -> None:
        """Ask the Hub, though the cache has one."""
        if self._download.state is not None and self._download.state.stage == "cached":
            self._download.ask()
            self.show()

    def action_leave(self) -> None:
        """Stop what is fetched, and stay to say so; else go back."""
        if self._download.state is not None and self._download.state.stage == "fetching":
            self._download.halt()
            return
        self._download.forget()
        self.dismiss(None)

    def action_hide(self) -> None:
        """Go back, and fetch on."""
        if self._download.state is not None and self._download.state.stage == "fetching":
            self.dismiss(None)
