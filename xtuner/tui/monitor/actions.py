"""What keys do in the dashboard: the names for `keys.toml`, and where each is heard."""

from collections.abc import Sequence

from textual.binding import Binding, BindingType
from textual.widgets import DataTable, OptionList

from xtuner.tui.keymap import Action, Place, UserKeys, actions_of, read_user_keys, sign
from xtuner.tui.monitor.app import MonitorApp
from xtuner.tui.monitor.document import Document
from xtuner.tui.monitor.logs_pane import LogsPane
from xtuner.tui.monitor.overview import Overview
from xtuner.tui.monitor.page_screen import PageScreen
from xtuner.tui.monitor.ranks_pane import RanksPane
from xtuner.tui.monitor.run_picker import RunPicker
from xtuner.tui.widgets.alert_list import AlertList
from xtuner.tui.widgets.chart import LineChart
from xtuner.tui.widgets.log_view import LogView
from xtuner.tui.widgets.rank_table import RankTable
from xtuner.user_config import keys_file

SCREEN = "monitor"
BY_TITLE: dict[str, dict[str, Action]] = {
    "everywhere": actions_of(MonitorApp.BINDINGS),
    "overview": actions_of([*Overview.BINDINGS, *LineChart.BINDINGS]),
    "ranks": actions_of([*RanksPane.BINDINGS, *RankTable.BINDINGS]),
    "logs": actions_of([*LogsPane.BINDINGS, *LogView.BINDINGS]),
    "alerts": actions_of(AlertList.BINDINGS),
    "pages of text": actions_of([*Document.BINDINGS, *PageScreen.BINDINGS]),
    "list of runs": actions_of(RunPicker.BINDINGS),
}
ACTIONS: dict[str, Action] = {name: action for actions in BY_TITLE.values() for name, action in actions.items()}


def _keys_of(bindings: Sequence[BindingType]) -> frozenset[str]:
    """Keys of a widget of Textual's, which have no names."""
    return frozenset(key for binding in bindings if isinstance(binding, Binding) for key in binding.key.split(","))


def _places() -> list[Place]:
    """What is heard together: the keys of a tab beside those of the app; a page lies above both."""
    everywhere = frozenset(BY_TITLE["everywhere"])
    fixed = {"ranks": _keys_of(DataTable.BINDINGS), "list of runs": _keys_of(OptionList.BINDINGS)}
    tabs = [
        Place(title, everywhere | frozenset(BY_TITLE[title]), fixed.get(title, frozenset()))
        for title in ("overview", "ranks", "logs", "alerts")
    ]
    pages = [
        Place(title, frozenset(BY_TITLE[title]), fixed.get(title, frozenset()))
        for title in ("pages of text", "list of runs")
    ]
    return [*tabs, Place("run", everywhere | frozenset(actions_of(Document.BINDINGS))), *pages]


def user_keys() -> UserKeys:
    """The keys of the user, checked."""
    return read_user_keys(keys_file(), SCREEN, ACTIONS, _places())


def signs_of(action: str, mine: UserKeys) -> str:
    """The keys of an action as they are called on a page for people."""
    return " ".join(map(sign, mine.keys.get(action, ACTIONS[action].keys)))


def reference() -> str:
    """All names, as the table of docs/monitor.md."""
    lines = ["| action | keys | where | |", "| --- | --- | --- | --- |"]
    for title, actions in BY_TITLE.items():
        for action in actions.values():
            keys = " ".join(f"`{sign(key)}`" for key in action.keys)
            lines.append(f"| `{action.id}` | {keys} | {title} | {action.about.lower()} |")
    return "\n".join(lines)
