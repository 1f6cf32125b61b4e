"""The third tab: the logs of all ranks or of one, followed, filtered and searched."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.reactive import reactive

from xtuner.run.text import visible
from xtuner.tui.monitor.log_filter import LEVELS, LineFilter, compile_pattern, is_loud
from xtuner.tui.monitor.log_worker import LogWorker, Search, Source
from xtuner.tui.monitor.merged_lines import MergedLines
from xtuner.tui.monitor.session import Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.braille import GlyphSet
from xtuner.tui.widgets.file_lines import FileLines
from xtuner.tui.widgets.log_view import LogView
from xtuner.tui.widgets.picture import Picture, Row, Run
from xtuner.tui.widgets.prompt import Prompt

_BACK_WITHIN = 200  # lines: nearer to the oldest known line, older ones are looked for


class LogStatus(Picture):
    """What is shown of which logs."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"picture--name", "picture--note"}

    parts: reactive[tuple[str, ...]] = reactive(())

    def watch_parts(self) -> None:
        """Something else."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The line: what is shown, then the rest."""
        first, *others = self.parts or ("",)
        return [[Run(first, "name"), *(Run(f"  {part}", "note") for part in others if part)]]


class LogsPane(TabPane):
    """Lines are read when they are shown; a worker looks for those that a filter or a search wants."""

    is_live: ClassVar[bool] = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "ask('search')", "Search", key_display="/", priority=True, id="logs.search"),
        Binding("ampersand", "ask('filter')", "Filter", key_display="&", priority=True, id="logs.filter"),
        Binding("number_sign", "ask('rank')", "Rank", show=False, priority=True, id="logs.rank"),
        Binding("n", "next_match(1)", "Next match", show=False, id="logs.next-match"),
        Binding("N", "next_match(-1)", "Previous match", show=False, id="logs.previous-match"),
        Binding("w", "next_loud(1)", "Warning", id="logs.next-warning"),
        Binding("W", "next_loud(-1)", "Warning before", show=False, id="logs.previous-warning"),
        Binding("l", "next_level", "Level", id="logs.level"),
        Binding("left_square_bracket", "next_rank(-1)", "Previous rank", show=False, id="logs.previous-rank"),
        Binding("right_square_bracket", "next_rank(1)", "Next rank", show=False, id="logs.next-rank"),
        Binding("c", "copy", "Copy the line", show=False, id="logs.copy"),
        Binding("escape", "clear", "All lines", show=False, id="logs.clear"),
    ]

    def __init__(self, session: Session, glyphs: GlyphSet) -> None:
        super().__init__(session, glyphs)
        self._view = LogView()
        self._status = LogStatus(glyphs=glyphs)
        self._prompt = Prompt()
        self._worker = LogWorker()
        self._source: Source | None = None
        self._source_of: tuple[object, ...] = ()
        self._rank: int | None = None
        self._level = LEVELS[0]
        self._filter_text = self._search_text = ""
        self._pattern: re.Pattern[str] | None = None
        self._searched: re.Pattern[str] | None = None
        self._said = ""
        self._filter_revision = -1
        self._first_known = 0

    def compose(self) -> ComposeResult:
        """What is shown, the lines, the prompt."""
        yield self._status
        yield self._view
        yield self._prompt

    def on_mount(self) -> None:
        """Begin to look for lines."""
        self._worker.start()

    def on_unmount(self) -> None:
        """Nothing outlives the screen."""
        self._worker.stop()

    def take_focus(self) -> None:
        """Give the keys to the lines."""
        self.screen.set_focus(self._view)

    def repaint(self, now: float) -> None:
        """Show what the worker has found; `now` is not needed."""
        if self._worker.error is not None:
            raise self._worker.error
        self._choose_source()
        self._view.grow()
        self._take_filtered()
        self._take_found()
        self._look_back()
        self._say_status()

    # Which lines.

    def _choose_source(self) -> None:
        """Another source where the choice, or the files, are others than before."""
        files = self._session.files_now
        is_mixed = None in files.logs
        if self._rank is not None and not is_mixed and self._rank not in files.logs:
            self._rank = None
        logs: dict[int | None, Path]
        logs = files.logs if self._rank is None or is_mixed else {self._rank: files.logs[self._rank]}
        wanted = (tuple(logs.items()), len(self._session.store.gaps))
        if wanted == self._source_of or (self._source is None and not logs):
            return
        self._source = _open(logs)
        self._source_of = wanted if self._source is not None else ()
        self._view.set_source(self._source)
        self._apply_filter()

    def _apply_filter(self) -> None:
        is_mixed = None in self._session.files_now.logs
        wanted = LineFilter(self._level, self._rank if is_mixed else None, self._pattern)
        self._worker.watch(self._source, None if wanted.is_open else wanted.passes)
        self._filter_revision = -1
        if wanted.is_open:
            self._view.set_filter(None)
        self._view.set_pattern(self._searched or self._pattern)

    def _take_filtered(self) -> None:
        filtered = self._worker.filtered
        if filtered is not None and filtered.revision != self._filter_revision:
            self._filter_revision = filtered.revision
            self._view.set_filter(filtered.numbers())

    def _take_found(self) -> None:
        found = self._worker.found
        if found is None:
            return
        self._worker.found = None
        if found.number is None:
            self._said = "nothing below" if found.search.step > 0 else "nothing above"
        else:
            self._said = ""
            self._view.jump_to(found.number)

    def _look_back(self) -> None:
        """Older lines are looked for when the oldest known ones come near."""
        top = self._view.top_line
        if self._source is None or self._source.is_complete or self._worker.filtered is not None:
            return
        first, _ = self._source.bounds()
        if top is None or top - first < _BACK_WITHIN:
            self._worker.look_back()

    def _say_status(self) -> None:
        filtered = self._worker.filtered
        whose = "all ranks" if self._rank is None else f"rank {self._rank}"
        self._status.parts = (
            whose,
            f"{self._level}s and louder" if self._level == "warning" else "errors" if self._level == "error" else "",
            f"with /{self._filter_text}/" if self._pattern else "",
            f"{self._view.num_lines:,} lines",
            "" if filtered is None or filtered.is_done else "looking for older ones",
            "" if self._source is None or filtered is not None or self._source.is_complete else "and older ones",
            "following" if self._view.is_following else "",
            self._said,
        )

    # The prompt.

    def on_prompt_drafted(self, message: Prompt.Drafted) -> None:
        """A filter is tried while it is typed."""
        message.stop()
        if message.purpose == "filter":
            self._set_pattern(message.text)

    def on_prompt_answered(self, message: Prompt.Answered) -> None:
        """Filter, search, or another rank."""
        message.stop()
        self.take_focus()
        if message.purpose == "filter":
            self._set_pattern(message.text)
        elif message.purpose == "search":
            self._search(message.text)
        elif message.text.strip().isdecimal():
            self.show_rank(int(message.text.strip()[:7]))
        else:
            self.show_rank(None)

    def on_prompt_left(self, message: Prompt.Left) -> None:
        """As it was before."""
        message.stop()
        self.take_focus()
        if message.purpose == "filter":
            self._set_pattern(message.text)

    def _set_pattern(self, text: str) -> None:
        pattern = self._compile(text)
        if pattern is not None or not text:
            self._filter_text, self._pattern = text, pattern
            self._apply_filter()
        self._say_status()

    def _compile(self, text: str) -> re.Pattern[str] | None:
        self._said = ""
        try:
            return compile_pattern(text)
        except re.error as error:
            self._said = f"no regular expression: {error.msg}"
            return None

    def _search(self, text: str) -> None:
        self._search_text, self._searched = text, self._compile(text)
        self._view.set_pattern(self._searched or self._pattern)
        if self._searched is not None:
            # From the end, what is newest is what one looks for.
            self._find(self._searched_in, -1 if self._view.is_following else 1)

    def _searched_in(self, text: str) -> bool:
        return self._searched is not None and self._searched.search(text[:2000]) is not None

    def _find(self, is_wanted: Callable[[str], bool], step: int) -> None:
        if self._source is None:
            return
        first, stop = self._source.bounds()
        here = self._view.target
        if self._view.is_following:
            here = stop if step < 0 else None
        elif here is None:
            here = (self._view.top_line or first) - step
        if here is None:
            self._said = "nothing below"
            return
        passes = self._filter().passes
        self._worker.search(Search(lambda text: is_wanted(text) and passes(text), here + step, step))

    def _filter(self) -> LineFilter:
        is_mixed = None in self._session.files_now.logs
        return LineFilter(self._level, self._rank if is_mixed else None, self._pattern)

    # Keys.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the prompt, the keys that open it are like any other."""
        return action not in ("ask", "clear") or not self._prompt.is_open

    def action_ask(self, purpose: str) -> None:
        """Open the prompt."""
        begun = {"search": self._search_text, "filter": self._filter_text, "rank": ""}[purpose]
        label = {"search": "search", "filter": "lines with", "rank": "rank (none for all)"}[purpose]
        self._prompt.open(purpose, label, begun)

    def action_next_match(self, step: int) -> None:
        """Go to the next line that was sought, or the one before."""
        self._find(self._searched_in, step)

    def action_next_loud(self, step: int) -> None:
        """Go to the next warning, error or traceback, or the one before."""
        self._find(is_loud, -1 if self._view.is_following else step)

    def action_next_level(self) -> None:
        """Show all lines, warnings and errors, or errors alone."""
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._apply_filter()
        self._say_status()

    def action_next_rank(self, step: int) -> None:
        """The log of the next rank; beside the last one are all."""
        store = self._session.store
        known = [rank for rank in self._session.files_now.logs if rank is not None] or list(store.ranks)
        ranks: list[int | None] = [None, *sorted(known)]
        here = ranks.index(self._rank) if self._rank in ranks else 0
        self.show_rank(ranks[(here + step) % len(ranks)])

    def show_rank(self, rank: int | None) -> None:
        """Show the log of this rank, or of all."""
        self._said = ""
        if rank is not None and rank not in self._session.files_now.logs and rank not in self._session.store.ranks:
            self._said = f"there is no rank {rank}"
        else:
            self._rank = rank
            is_mixed = None in self._session.files_now.logs
            if is_mixed:
                self._apply_filter()
        self.repaint(0.0)

    def action_copy(self) -> None:
        """Copy the line that was jumped to, or the one at the top, to the clipboard of the terminal."""
        number = self._view.target if self._view.target is not None else self._view.top_line
        if number is None or self._source is None:
            return
        try:
            self.app.copy_to_clipboard(visible(self._source.read(number)))
            self._said = "copied"
        except (OSError, IndexError) as error:
            self._said = f"this line cannot be read: {error}"
        self._say_status()

    def action_clear(self) -> None:
        """Show all lines of all ranks, and forget what was sought."""
        self._level, self._rank = LEVELS[0], None
        self._filter_text = self._search_text = ""
        self._pattern = self._searched = None
        self._said = ""
        self._apply_filter()
        self.repaint(0.0)


def _open(logs: Mapping[int | None, Path]) -> Source | None:
    """One log by its line ends, several merged; None while there is none that can be opened."""
    if len(logs) != 1:
        return MergedLines(logs) if logs else None
    try:
        return FileLines(next(iter(logs.values())))
    except OSError:
        return None
