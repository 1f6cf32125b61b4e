"""The screen below all pages."""

from textual.reactive import Reactive
from textual.screen import Screen
from textual.widget import Widget


class MainScreen(Screen[None]):
    """What has the keys shows that by itself: all the rest need not be painted anew when they pass to another."""

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
