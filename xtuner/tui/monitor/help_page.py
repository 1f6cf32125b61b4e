"""The keys, on one page."""

from xtuner.tui.monitor.document import pairs, wrap
from xtuner.tui.widgets.picture import Row, Run

KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "everywhere": (
        ("1 2 3 4 5", "overview, ranks, logs, alerts, run"),
        ("Tab", "what takes the keys next"),
        ("space", "pause the view; reading goes on"),
        ("r", "another run of the work dir, with c beside this one"),
        ("e", "charts, values and a page about the run as files"),
        ("Ctrl+P", "all commands by name, themes"),
        ("?", "this page"),
        ("q Ctrl+C", "leave; the run goes on"),
    ),
    "overview": (
        ("↑ ↓", "chart before, next chart"),
        ("Enter", "the chart alone, or all again"),
        ("← →", "move the cursor, the same on all charts; Esc drops it"),
        ("+ -", "zoom in and out around the cursor; 0 shows all"),
        ("Shift+← Shift+→", "earlier and later"),
        ("w", "all steps, the newest 1,000 or 200"),
        ("s S", "smooth more, smooth less"),
        ("y Y", "log scale on this chart, on all"),
        ("x", "compared runs over steps, tokens, hours"),
        ("b", "all ranks as a band, or the first rank alone"),
        ("[ ]", "another rank alone"),
    ),
    "ranks": (
        ("↑ ↓", "choose a rank; Enter shows it alone in the charts"),
        ("< > o", "sort by another column, turn the order round"),
        ("/", "rows with these words; Esc shows all"),
        ("h t", "the heat map alone, and of what"),
    ),
    "logs": (
        ("↑ ↓ PgUp PgDn Home", "scroll"),
        ("f End", "follow the newest line"),
        ("[ ] #", "another rank, a rank by its number; all ranks are merged by time"),
        ("l", "all lines, warnings and errors, errors alone"),
        ("&", "only lines that match a regular expression"),
        ("/ n N", "search, next and previous match"),
        ("w W", "next and previous warning, error or traceback"),
        ("c", "copy the line to the clipboard of the terminal (OSC 52)"),
        ("Esc", "all lines of all ranks"),
    ),
    "alerts": (("↑ ↓ Enter", "choose an alert, show all of it"),),
}
MARKS = (
    ("C X", "a checkpoint, an export"),
    ("R E", "the run was resumed there, an evaluation"),
    ("✗ x", "a value that is NaN or infinite"),
    ("◆ *", "the best value"),
)


def lay_out(width: int) -> list[Row]:
    """The page."""
    rows: list[Row] = []
    for title, keys in KEYS.items():
        rows += [*([[]] if rows else []), [Run(title, "title")], *pairs(keys, width)]
    rows += [[], [Run("marks on charts", "title")], *pairs(MARKS, width), []]
    said = "The dashboard only reads: nothing here writes into the work dir or touches the run."
    return [*rows, *([Run(line, "note")] for line in wrap(said, width))]
