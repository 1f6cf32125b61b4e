"""The dashboard in front of a run that was launched from here: who leaves is asked whether it goes on."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from xtuner.tui.monitor.app import MonitorApp


class LeaveScreen(ModalScreen[str | None]):
    """`leave` the run running, `stop` it, or None: stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,l", "dismiss('leave')", "Leave it running", priority=True),
        Binding("s", "dismiss('stop')", "Stop and save", priority=True),
        Binding("escape,q", "dismiss(None)", "Stay", priority=True),
    ]

    def compose(self) -> ComposeResult:
        """The question and its keys."""
        with Vertical():
            yield Static(
                "The run goes on without this screen.\n\n"
                "Enter or l: leave it running\n"
                "s: stop it; it finishes its step and saves\n"
                "Esc: stay here",
                markup=False,
            )


class LaunchedApp(MonitorApp):
    """The dashboard; the screen itself never touches the run.

    Attributes:
        wants_stop: the user left and wants the run stopped.
    """

    wants_stop = False

    async def action_quit(self) -> None:
        """Ask, unless the run is over."""
        if isinstance(self.screen, LeaveScreen):  # a second Ctrl-C, whose key is the app's first
            self.screen.dismiss("leave")
        elif self.session is None or not self.session.is_alive:
            self.exit()
        else:
            self.push_screen(LeaveScreen(), self._leave)

    def _leave(self, choice: str | None) -> None:
        if choice is not None:
            self.wants_stop = choice == "stop"
            self.exit()
