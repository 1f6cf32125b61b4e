"""The keys, on one page."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from xtuner.tui.keymap import UserKeys
from xtuner.tui.monitor.actions import signs_of
from xtuner.tui.monitor.document import pairs, wrap
from xtuner.tui.widgets.picture import Row, Run
from xtuner.user_config import keys_file


class KeyRow(NamedTuple):
    """Actions by their names, what they do, and keys that are always the same.

    In `about`, `<name>` stands for the keys of that action.
    """

    actions: str
    about: str
    fixed: str = ""


KEYS: dict[str, tuple[KeyRow, ...]] = {
    "everywhere": (
        KeyRow("tab.overview tab.ranks tab.logs tab.alerts tab.run", "overview, ranks, logs, alerts, run"),
        KeyRow("", "what takes the keys next", "Tab"),
        KeyRow("pause", "pause the view; reading goes on"),
        KeyRow("runs", "another run of the work dir, with <picker.compare> beside this one"),
        KeyRow("export", "charts, values and a page about the run as files"),
        KeyRow("", "all commands by name, themes", "Ctrl+P"),
        KeyRow("help", "this page"),
        KeyRow("quit", "leave; the run goes on", "Ctrl+C"),
    ),
    "overview": (
        KeyRow("overview.previous-chart overview.next-chart", "chart before, next chart"),
        KeyRow("overview.enlarge", "the chart alone, or all again"),
        KeyRow(
            "chart.cursor-left chart.cursor-right",
            "move the cursor, the same on all charts; <chart.no-cursor> drops it",
        ),
        KeyRow("chart.zoom-in chart.zoom-out", "zoom in and out around the cursor; <chart.follow> shows all"),
        KeyRow("chart.pan-left chart.pan-right", "earlier and later"),
        KeyRow("overview.window", "all steps, the newest 1,000 or 200"),
        KeyRow("overview.smoother overview.rougher", "smooth more, smooth less"),
        KeyRow("chart.log overview.log-all", "log scale on this chart, on all"),
        KeyRow("overview.x-axis", "compared runs over steps, tokens, hours"),
        KeyRow("overview.band", "all ranks as a band, or the first rank alone"),
        KeyRow("overview.previous-rank overview.next-rank", "another rank alone"),
    ),
    "ranks": (
        KeyRow("", "choose a rank; Enter shows it alone in the charts", "↑ ↓"),
        KeyRow("ranks.sort-previous ranks.sort-next ranks.reverse", "sort by another column, turn the order round"),
        KeyRow("ranks.filter", "rows with these words; <ranks.clear> shows all"),
        KeyRow("ranks.heat ranks.heat-key", "the heat map alone, and of what"),
    ),
    "logs": (
        KeyRow("log.up log.down log.page-up log.page-down log.first", "scroll"),
        KeyRow("log.follow", "follow the newest line"),
        KeyRow(
            "logs.previous-rank logs.next-rank logs.rank",
            "another rank, a rank by its number; all ranks are merged by time",
        ),
        KeyRow("logs.level", "all lines, warnings and errors, errors alone"),
        KeyRow("logs.filter", "only lines that match a regular expression"),
        KeyRow("logs.search logs.next-match logs.previous-match", "search, next and previous match"),
        KeyRow("logs.next-warning logs.previous-warning", "next and previous warning, error or traceback"),
        KeyRow("logs.copy", "copy the line to the clipboard of the terminal (OSC 52)"),
        KeyRow("logs.clear", "all lines of all ranks"),
    ),
    "alerts": (KeyRow("alerts.up alerts.down alerts.choose", "choose an alert, show all of it"),),
    "pages like this one": (
        KeyRow("page.up page.down page.page-up page.page-down page.first page.last", "scroll"),
        KeyRow("page.close", "back"),
    ),
    "list of runs": (KeyRow("picker.compare picker.close", "compare the run, or no longer; back"),),
}
MARKS = (
    ("C X", "a checkpoint, an export"),
    ("R E", "the run was resumed there, an evaluation"),
    ("✗ x", "a value that is NaN or infinite"),
    ("◆ *", "the best value"),
)
_REFERENCE = re.compile(r"<([\w.-]+)>")


def page_for(mine: UserKeys | None) -> Callable[[int], list[Row]]:
    """What lays the page out for a width; `mine` are the user's keys."""
    return partial(_lay_out, mine or UserKeys())


def _lay_out(mine: UserKeys, width: int) -> list[Row]:
    rows: list[Row] = []
    if mine.problems:
        wrong = [Run(str(keys_file()), "warning")]
        rows += [wrong, *([Run(line, "note")] for told in mine.problems for line in wrap(told, width))]
    for title, keys in KEYS.items():
        rows += [*([[]] if rows else []), [Run(title, "title")], *pairs([_pair(row, mine) for row in keys], width)]
    rows += [[], [Run("marks on charts", "title")], *pairs(MARKS, width), []]
    said = "The dashboard only reads: nothing here writes into the work dir or touches the run."
    return [*rows, *([Run(line, "note")] for line in wrap(said, width))]


def _pair(row: KeyRow, mine: UserKeys) -> tuple[str, str]:
    signs = [*(signs_of(action, mine) for action in row.actions.split()), *([row.fixed] if row.fixed else [])]
    return " ".join(signs), _REFERENCE.sub(lambda match: signs_of(match[1], mine), row.about)
