"""What the command palette of the dashboard offers."""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.app import SystemCommand
from textual.screen import Screen

from xtuner.tui.monitor.key_hint import key_of
from xtuner.tui.monitor.tab_line import TABS

if TYPE_CHECKING:
    from xtuner.tui.monitor.app import MonitorApp


def palette_commands(app: "MonitorApp", screen: Screen[object]) -> Iterator[SystemCommand]:
    """All keys of the app by name, and themes."""
    key = partial(key_of, screen)
    for tab in TABS:
        key_of_tab = key(f"tab.{tab.id}")
        yield SystemCommand(tab.title, f"Show this tab ({key_of_tab})", lambda tab=tab: app.action_show_tab(tab.id))
    yield SystemCommand("Pause", f"Freeze the view; reading goes on ({key('pause')})", app.action_pause)
    yield SystemCommand("Runs", f"Another run of the work dir ({key('runs')})", app.action_pick_run)
    about_export = f"Charts, values and a page about the run as files ({key('export')})"
    yield SystemCommand("Export", about_export, app.action_export)
    yield SystemCommand("Theme", "Other colours", app.action_change_theme)
    yield SystemCommand("Help", f"The keys ({key('help')})", app.action_help)
    yield SystemCommand("Quit", f"Leave; the run goes on ({key('quit')})", app.exit)
