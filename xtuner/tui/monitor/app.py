"""The screen of `xtuner monitor`: tabs over one run, repainted by a frame tick.

What reads and draws a run is imported behind the first frame: the names of the tabs need not wait for it.
"""

import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.actions import SkipAction
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Input

from xtuner.errors import UsageError
from xtuner.run.discover import RunFiles
from xtuner.tui.monitor.header import HeaderBar, Headline, headline_of
from xtuner.tui.monitor.key_hint import key_of
from xtuner.tui.monitor.main_screen import MainScreen
from xtuner.tui.monitor.notice_line import Notice, NoticeLine, notice_of
from xtuner.tui.monitor.painter import Painter, frame_after_s
from xtuner.tui.monitor.runs import RunList
from xtuner.tui.monitor.tab_line import TABS, TabLine
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.monitor.tiny_pane import TinyPane, tiny_lines
from xtuner.tui.widgets.braille import glyphs_for
from xtuner.tui.widgets.key_line import KeyLine
from xtuner.tui.widgets.picture import Run
from xtuner.user_config import keys_file

if TYPE_CHECKING:
    from xtuner.tui.keymap import UserKeys
    from xtuner.tui.monitor.overview import Overview
    from xtuner.tui.monitor.plots import PlotMaker
    from xtuner.tui.monitor.run_picker import Picked
    from xtuner.tui.monitor.session import Session
    from xtuner.tui.widgets.rank_table import RankTable

_SAID_S = 4.0
_SETTLED_S = 0.2  # after another size
_TINY_CELLS, _TINY_ROWS, _LOW_ROWS = 50, 14, 30


class MonitorApp(App[None]):
    """Keys and frames meet here; reading is the session's, drawing the panes'."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            # With priority: else a key goes from widget to widget, and waits at each for what is being painted.
            Binding(str(number), f"press_tab('{tab.id}')", tab.title, show=False, priority=True, id=f"tab.{tab.id}")
            for number, tab in enumerate(TABS, start=1)
        ),
        Binding("space", "pause", "Pause", id="pause"),
        Binding("r", "pick_run", "Runs", id="runs"),
        Binding("e", "export", "Export", id="export"),
        Binding("question_mark", "help", "Help", key_display="?", id="help"),
        Binding("q", "quit", "Quit", id="quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, runs: RunList, compared: Sequence[RunFiles] = ()) -> None:
        super().__init__()
        self.crash: BaseException | None = None
        self.session: Session | None = None
        self.is_paused = False
        self.user_keys: UserKeys | None = None
        self._alerts_key = "4"
        self._runs = runs
        self._compared = compared
        self._others: list[Session] = []
        self._glyphs = glyphs_for(os.environ)
        self._panes: dict[str, TabPane] = {}
        self._tab = TABS[0].id
        self._painter = Painter()
        self._has_focus = True
        self._is_tiny = self._is_over = False
        self._plots: PlotMaker | None = None
        # Held, not queried: frames come while a page lies above.
        self._header = HeaderBar(glyphs=self._glyphs)
        self._tabs = TabLine(glyphs=self._glyphs)
        self._body = Container(id="body")
        self._tiny = TinyPane(glyphs=self._glyphs)
        self._notice = NoticeLine(glyphs=self._glyphs)

    def get_default_screen(self) -> Screen[None]:
        """What lies below all pages."""
        return MainScreen(id="_default")

    def compose(self) -> ComposeResult:
        """Header, tabs, what the tab holds, the worst alert, keys."""
        yield self._header
        yield self._tabs
        yield self._body
        yield self._tiny
        yield self._notice
        yield KeyLine(glyphs=self._glyphs)

    def on_mount(self) -> None:
        """Begin to read once there is something to show it in."""
        if self._runs.newest is not None:
            self._header.headline = Headline(str(self._runs.newest.path), "starting")
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        from xtuner.tui.monitor.panes import load_ahead

        for files in self._compared:
            self._others.append(self._watched(files))
        if keys_file().exists():
            self._take_user_keys()
        self._frame()
        load_ahead(self.set_timer)

    def _take_user_keys(self) -> None:
        """What has to be known to judge them costs more than the first frame may."""
        from xtuner.tui.monitor.actions import user_keys

        self.user_keys = user_keys()
        self.set_keymap(self.user_keys.keymap)
        self._alerts_key = key_of(self.screen, "tab.alerts")
        if self.user_keys.problems:
            first, *more = self.user_keys.problems
            self.say(f"{keys_file().name}: {first}{f' (and {len(more)} more)' if more else ''}; the help shows it")

    def on_unmount(self) -> None:
        """Nothing outlives the screen."""
        self._is_over = True
        self._painter.forget()
        for session in self._sessions:
            session.stop()

    @property
    def _sessions(self) -> "list[Session]":
        """The run that is shown, and those beside it."""
        return [*([self.session] if self.session else []), *self._others]

    # Which run, and which tab.

    def _watched(self, files: RunFiles) -> "Session":
        from xtuner.tui.monitor.session import start_session

        return start_session(files)

    def show_run(self, files: RunFiles) -> None:
        """Watch this run from now on."""
        from xtuner.tui.monitor.plots import PlotMaker

        if self.session is not None:
            self.session.stop()
            self._painter.forget()
        self.session = self._watched(files)
        self._plots = PlotMaker(self.session)
        for pane in self._panes.values():
            pane.remove()
        self._panes.clear()
        self._set_paused(False)
        self.action_show_tab(self._tab)

    def action_show_tab(self, tab: str) -> None:
        """Show a tab; what it holds is made when it is first shown."""
        from xtuner.tui.monitor.panes import make_pane

        self._tab = self._tabs.here = tab
        if self.session is None or self._plots is None:
            return
        if tab not in self._panes:
            self._panes[tab] = pane = make_pane(tab, self.session, self._plots, self._others, self._glyphs)
            self._body.mount(pane)
        for name, pane in self._panes.items():
            pane.display = name == tab
        if self._panes[tab].is_mounted:
            self.on_tab_pane_ready()

    def on_tab_pane_ready(self) -> None:
        """Let what is shown take the keys; while a history is read, the picture it had comes before a new one."""
        pane = self._pane
        if pane is None or not pane.is_mounted or len(self.screen_stack) > 1:
            return
        pane.take_focus()
        self._painter.show(pane, self._sessions, time.time())

    @property
    def _pane(self) -> TabPane | None:
        return self._panes.get(self._tab)

    @property
    def _overview(self) -> "Overview | None":
        return cast("Overview | None", self._panes.get("overview"))

    # Frames.

    def _frame(self) -> None:
        """Take in what was read, show it, and come again."""
        if self._is_over:
            return
        try:
            self._show_frame(time.time())
        except Exception as error:  # a bug of ours: `watch` raises it when the terminal is itself again
            self.crash = error
            self.exit()
            return
        self.set_timer(frame_after_s(self._sessions, has_focus=self._has_focus), self._frame)

    def _show_frame(self, now: float) -> None:
        is_newer = self._runs.look(now)
        if self.session is None and self._runs.newest is not None:
            self.show_run(self._runs.newest)
        elif is_newer and self.session is not None:
            self._take_newer_run(self.session)
        if self.session is None:
            said = f"{self._runs.path} holds no runs yet: the first one is shown when it begins"
            self._header.headline = Headline(str(self._runs.path))
            self._notice.notice = Notice(said)
            self._tiny.rows = [[Run("WAITING", "title")], [Run(said)]]
            return
        for session in self._sessions:
            session.tick(now)
        if not self.is_paused:
            self._paint(self.session, now)

    def _take_newer_run(self, session: "Session") -> None:
        """A run that is over makes room; one that goes on stays."""
        newest = self._runs.newest
        if newest is None or newest.path == session.files.path:
            return
        if session.is_alive:
            self.say(f"a newer run has begun: {newest.path.name} ({key_of(self.screen, 'runs')} shows it)")
        else:
            self.show_run(newest)
            self.say(f"a newer run has begun: {newest.path.name}")

    def _paint(self, session: "Session", now: float) -> None:
        headline = self._header.headline = headline_of(session, now, is_paused=self.is_paused)
        self._tabs.num_alerts = len(session.alerts)
        self._notice.notice = notice_of(session, self._alerts_key)
        if self._is_tiny:
            if self._plots is not None:
                self._tiny.rows = tiny_lines(session, headline, self._plots)
            return
        pane = self._pane
        if pane is not None and pane.is_mounted and len(self.screen_stack) == 1:  # what lies under a page is not seen
            self._painter.paint(pane, self._sessions, now)

    def _forget_painted(self) -> None:
        for pane in self._panes.values():
            pane.painted = -1

    def on_resize(self, event: events.Resize) -> None:
        """Where nothing else has room, text is shown."""
        self._is_tiny = event.size.width < _TINY_CELLS or event.size.height < _TINY_ROWS
        for screen in self.screen_stack[:1]:
            screen.set_class(self._is_tiny, "-tiny")
            screen.set_class(event.size.height < _LOW_ROWS, "-low")
        self._forget_painted()
        # Textual drops what is painted while a tab is being mounted, and the size changes everything.
        self.set_timer(_SETTLED_S, self._paint_all)

    def _paint_all(self) -> None:
        for screen in self.screen_stack[-1:]:
            screen.refresh()

    async def on_event(self, event: events.Event) -> None:
        """Keys and the mouse come before reading."""
        if isinstance(event, events.InputEvent):
            for session in self._sessions:
                session.hold()
        await super().on_event(event)

    def on_app_focus(self) -> None:
        """The terminal's window is looked at."""
        self._has_focus = True

    def on_app_blur(self) -> None:
        """The terminal's window is not looked at."""
        self._has_focus = False

    # What widgets tell.

    def on_tab_line_chosen(self, message: TabLine.Chosen) -> None:
        """Another tab."""
        self.action_show_tab(message.tab)

    def on_notice_line_clicked(self) -> None:
        """What is wrong."""
        self.action_show_tab("alerts")

    def on_overview_said(self, message: "Overview.Said") -> None:
        """What was changed."""
        self.say(message.text)

    def on_rank_table_rank_chosen(self, message: "RankTable.RankChosen") -> None:
        """Show this rank alone in the charts."""
        self.action_show_tab("overview")
        if self._overview is not None:
            self.call_after_refresh(self._overview.show_rank, message.rank)

    def say(self, text: str) -> None:
        """Say something for some seconds, in place of the worst alert."""
        self._notice.said = text
        self.set_timer(_SAID_S, lambda: self._forget(text))

    def _forget(self, text: str) -> None:
        if self._notice.said == text:
            self._notice.said = ""

    # Keys.

    def action_press_tab(self, tab: str) -> None:
        """Show a tab; a digit that is typed, or pressed on a page, is for what has the keys."""
        if len(self.screen_stack) > 1 or isinstance(self.focused, Input):
            raise SkipAction
        self.action_show_tab(tab)

    def action_pause(self) -> None:
        """Freeze the view, or let it go on; reading goes on in any case."""
        self._set_paused(not self.is_paused)

    def _set_paused(self, is_paused: bool) -> None:
        if is_paused == self.is_paused or self.session is None:
            return
        self.is_paused = is_paused
        if self._overview is not None:
            self._overview.freeze(is_paused)
        self._forget_painted()
        self._header.headline = headline_of(self.session, time.time(), is_paused=is_paused)

    def action_help(self) -> None:
        """Show the keys."""
        from xtuner.tui.monitor import help_page
        from xtuner.tui.monitor.page_screen import PageScreen

        self.push_screen(PageScreen(help_page.page_for(self.user_keys)))

    def action_export(self) -> None:
        """Write a report of the run into the current directory."""
        from xtuner.tui.monitor.plots import PlotChoice
        from xtuner.tui.monitor.report import make_report, place_for, write_and_say

        if self.session is None:
            return
        try:
            directory = place_for(self.session.files.path)
        except UsageError as error:
            self.say(error.message)
            return
        choice = self._overview.choice if self._overview is not None else PlotChoice()
        report = make_report(self.session, choice, time.time())
        self.say(f"writing {directory}")
        write = partial(write_and_say, report, directory, partial(self.call_from_thread, self.say))
        self.run_worker(write, thread=True, name="monitor-report")

    def action_pick_run(self) -> None:
        """Choose another run of the work dir."""
        from xtuner.tui.monitor.run_picker import RunPicker

        if not self._runs.runs:
            self.say(f"{self._runs.path} holds no runs yet")
            return
        current = self.session.files if self.session else None
        self.push_screen(RunPicker(self._runs.runs, current, self._glyphs), self._pick_run)

    def _pick_run(self, picked: "Picked | None") -> None:
        if picked is None or (self.session is not None and picked.files.path == self.session.files.path):
            return
        if picked.is_compared:
            self._compare(picked.files)
        else:
            self.show_run(picked.files)

    def _compare(self, files: RunFiles) -> None:
        """Draw a run beside the one that is shown, or no longer."""
        known = next((session for session in self._others if session.files.path == files.path), None)
        if known is None:
            self._others.append(self._watched(files))
        else:
            known.stop()
            self._others.remove(known)
        overview = self._panes.pop("overview", None)
        if overview is not None:
            overview.remove()
        self.action_show_tab("overview")
        self.say(f"{files.path.name} is {'no longer ' if known else ''}compared")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers: all keys of the app by name, and themes."""
        from xtuner.tui.monitor.palette import palette_commands

        yield from palette_commands(self, screen)
