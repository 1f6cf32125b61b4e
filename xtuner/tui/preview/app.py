"""The screen of `xtuner preview -i`: a list of rows, and beside it the row as the model sees it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Footer

from xtuner.data.options import FormatName
from xtuner.data.pool import WorkerPool
from xtuner.data.sources import DataFile
from xtuner.errors import DataError, XTunerError
from xtuner.run.text import visible
from xtuner.tui.preview.header import HeaderBar, place_in
from xtuner.tui.preview.help import HelpScreen
from xtuner.tui.preview.layout import ViewOptions, note
from xtuner.tui.preview.messages import Crashed, ErrorSought, Found, IndexStopped, Shown, Summarised
from xtuner.tui.preview.reader import RowReader
from xtuner.tui.preview.row_list import RowList
from xtuner.tui.preview.row_pane import RowPane
from xtuner.tui.preview.seek import Seeker
from xtuner.tui.preview.shower import ShowRequest
from xtuner.tui.preview.status import StatusBar
from xtuner.tui.widgets.prompt import Prompt

_SLOW_S = 0.3  # after which a row that is not there yet is said to be on its way


def browse(file: DataFile, pool: WorkerPool | None, format: FormatName) -> None:
    """Show the rows of `file` until the user leaves; the caller has checked that there is a terminal.

    Raises:
        DataError: the file cannot be opened or read.
    """
    try:
        app = PreviewApp(file, pool, format)
    except OSError as error:
        raise _unreadable(file, error) from None
    app.run()
    if isinstance(app.crash, OSError):
        raise _unreadable(file, app.crash) from None
    if app.crash is not None:
        raise app.crash


def _unreadable(file: DataFile, error: OSError) -> DataError:
    return DataError(f"{file.path} cannot be read: {error.strerror}", hint="check the path, and the disk")


class PreviewApp(App[None]):
    """Keys and messages meet here; reading is the reader's, drawing the widgets'."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]]] = [(0, "-tiny"), (60, "-normal")]  # type: ignore[misc]
    BINDINGS: ClassVar[list[BindingType]] = [
        # First in line for these: what is typed right after them belongs to the prompt already.
        Binding("slash", "ask('search')", "Search", key_display="/", priority=True),
        Binding("n", "next_match(1)", "Next"),
        Binding("N", "next_match(-1)", show=False),
        Binding("g,colon", "ask('jump')", "Go to", key_display="g", priority=True),
        Binding("t", "toggle_tokens", "Tokens"),
        Binding("r", "toggle_raw", "Raw"),
        Binding("e", "next_error", "Error"),
        Binding("l", "toggle_list", "List"),
        Binding("enter", "read", show=False),
        Binding("j", "move(1)", show=False),
        Binding("k", "move(-1)", show=False),
        Binding("space", "page(1)", show=False),
        Binding("b", "page(-1)", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q,escape,ctrl+c", "quit", "Quit", key_display="q"),
    ]

    def __init__(self, file: DataFile, pool: WorkerPool | None, format: FormatName) -> None:
        super().__init__()
        self.crash: Exception | None = None
        self._reader = RowReader(file, pool, format, self.post_message)
        self._seeker = Seeker(self._reader, self._go, self._say)
        self._options = ViewOptions()
        self._asked: ShowRequest | None = None
        self._shown: ShowRequest | None = None
        # Held, not queried: messages arrive while the help lies above.
        self._header = HeaderBar(str(file.path))
        self._body = Horizontal(id="body")
        self._rows = RowList(self._reader.index)
        self._pane = RowPane()
        self._status = StatusBar()
        self._prompt = Prompt()
        self._status.has_model = pool is not None

    def compose(self) -> ComposeResult:
        """Header, list and row, legend, keys."""
        yield self._header
        with self._body:
            yield self._rows
            yield self._pane
        yield self._status
        yield self._prompt
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read once there is something to show it in."""
        self._rows.focus()
        self._reader.start()

    def on_unmount(self) -> None:
        """Nothing outlives the screen."""
        self._reader.stop()

    # What threads tell.

    def on_index_grew(self) -> None:
        """More rows, or all."""
        self._rows.grow()
        self._update_place()
        if self._asked is None:
            self._show_row()
        self._seeker.grew()

    def on_index_stopped(self, message: IndexStopped) -> None:
        """The rest of the file cannot be read."""
        error = message.error
        said = error.message if isinstance(error, XTunerError) else str(error)
        self.notify(visible(said), title="reading stopped here", severity="error", timeout=20, markup=False)

    def on_summarised(self, message: Summarised) -> None:
        """Rows of the list can be drawn."""
        self._rows.add_summaries(message.summaries)

    def on_shown(self, message: Shown) -> None:
        """The row is ready."""
        request, shown = message.request, message.shown
        if request != self._asked:
            return
        keeps_place = self._shown is not None and self._shown.row == request.row
        self._shown = request
        self._pane.show(shown.layout, finds=request.finds, keeps_place=keeps_place)
        self._header.row_size = shown.size
        if shown.has_error:
            self._rows.mark_error(request.row)

    def on_found(self, message: Found) -> None:
        """The search came further."""
        self._seeker.found(message, self._rows.cursor)
        self._rows.refresh()

    def on_error_sought(self, message: ErrorSought) -> None:
        """The look for a row in error came further."""
        self._seeker.error_sought(message)

    def on_crashed(self, message: Crashed) -> None:
        """Leave; `browse` raises it."""
        self.crash = message.error
        self.exit()

    # What widgets tell.

    def on_row_list_moved(self, message: RowList.Moved) -> None:
        """Another row is to be shown."""
        self._seeker.moved(message.row)
        self._update_place()
        if self._asked is None or self._asked.row != message.row:
            self._show_row()

    def on_row_list_window_changed(self, message: RowList.WindowChanged) -> None:
        """Other rows of the list are to be drawn."""
        self._reader.summarise(message.rows)

    def on_row_pane_resized(self) -> None:
        """The row is to be laid out anew."""
        self._show_row()

    def on_prompt_left(self) -> None:
        """Back to the rows."""
        self._status.display = True
        self._focus_one()

    def on_prompt_answered(self, message: Prompt.Answered) -> None:
        """Search, or jump."""
        self.on_prompt_left()
        if message.purpose == "search":
            self._seeker.search(message.text, self._rows.cursor)
            self._rows.matches = self._seeker.matches
            self._set_options(sought=message.text)
        elif digits := "".join(filter(str.isdigit, message.text)):
            self._seeker.jump(int(digits[:18]))

    # Keys.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the prompt and over the help, the keys that open the prompt are like any other."""
        return action != "ask" or not (self._prompt.is_open or len(self.screen_stack) > 1)

    def action_ask(self, purpose: Literal["search", "jump"]) -> None:
        """Open the prompt."""
        self._status.display = False
        if purpose == "search":
            self._prompt.open(purpose, "search", self._options.sought)
        else:
            unit = "line" if self._reader.index.counts_lines else "row"
            self._prompt.open(purpose, f"{unit} number", restrict="[0-9,_]*")

    def action_next_match(self, direction: int) -> None:
        """Go to the next row that was found, or the one before."""
        self._seeker.next_match(self._rows.cursor, direction)

    def action_next_error(self) -> None:
        """Go to the next row in error."""
        self._seeker.find_error(self._rows.cursor, frozenset(self._rows.errors))

    def action_toggle_tokens(self) -> None:
        """Mark where tokens end, or do not."""
        if self._status.has_model:
            self._set_options(shows_tokens=not self._options.shows_tokens)
        else:
            self._say("tokens need a tokenizer: --model DIR")

    def action_toggle_raw(self) -> None:
        """Show the row's JSON, or what the model sees."""
        self._set_options(shows_raw=not self._options.shows_raw)

    def action_toggle_list(self) -> None:
        """Hide or show the list; where only one of the two has room, change to the other."""
        if self._is_tiny:
            self.action_switch()
            return
        self._body.toggle_class("-no-list")
        self._focus_one()

    def action_switch(self) -> None:
        """Take the keys from the list to the row, or back."""
        self._body.toggle_class("-reading")
        self._focus_one()

    def action_read(self) -> None:
        """Take the keys to the row."""
        self._body.add_class("-reading")
        self._focus_one()

    def action_move(self, rows: int) -> None:
        """Go to a neighbouring row, wherever the keys are."""
        self._rows.action_move(rows)

    def action_page(self, direction: int) -> None:
        """Scroll the row, wherever the keys are."""
        self._pane.page(direction)

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(HelpScreen())

    # How it is done.

    @property
    def _is_tiny(self) -> bool:
        return self._body.screen.has_class("-tiny")

    def _focus_one(self) -> None:
        """Give the keys to the row while it is read, or is alone; otherwise to the list."""
        is_reading = self._body.has_class("-reading") or self._body.has_class("-no-list")
        # After the change of class took effect: what is hidden cannot have the focus.
        self.call_after_refresh((self._pane if is_reading else self._rows).focus)

    def _say(self, text: str) -> None:
        self._status.said = text

    def _go(self, row: int, finds: bool) -> None:
        self._rows.cursor = row
        if finds or self._asked is None or self._asked.row != row:
            self._show_row(finds=finds)

    def _set_options(self, **changes: Any) -> None:
        self._options = replace(self._options, **changes)
        self._status.shows_tokens = self._options.shows_tokens
        self._status.shows_raw = self._options.shows_raw
        self._show_row()

    def _show_row(self, *, finds: bool = False) -> None:
        width, row = self._pane.width, self._rows.cursor
        if not width or row >= len(self._reader.index):
            return
        request = ShowRequest(row, width, self._options, finds)
        if request != self._asked or finds:
            self._asked = request
            self._reader.show(request)
            self.set_timer(_SLOW_S, lambda: self._say_slow(request))

    def _say_slow(self, request: ShowRequest) -> None:
        if request == self._asked and self._shown != request:
            self._pane.show(note(f"reading row {request.row + 1:,} …"), finds=False, keeps_place=False)

    def _update_place(self) -> None:
        self._header.place = place_in(self._reader.index, self._rows.cursor)
