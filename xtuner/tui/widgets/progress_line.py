"""How far a run is, in one row: step, bar, share, time left."""

import math
from dataclasses import dataclass
from typing import ClassVar

from textual.reactive import reactive

from xtuner.tui.widgets.axis import format_count
from xtuner.tui.widgets.cells import one_line
from xtuner.tui.widgets.picture import Picture, Row, Run, fit_row

_EIGHTHS = " ▏▎▍▌▋▊▉"
_SMALLEST_BAR = 6
_BAR_CELLS = 24


@dataclass(frozen=True)
class Progress:
    """Steps done of `total`, which is 0 while it is not known; `note` follows the bar: `ETA 3:41:07`."""

    done: int = 0
    total: int = 0
    note: str = ""
    unit: str = "step"


def bar(share: float, width: int, *, is_ascii: bool = False) -> str:
    """A bar of `width` cells, `share` of it filled, to an eighth of a cell; full only when all is done."""
    share = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    if is_ascii:
        full = int(share * width)
        return ("=" * full + (">" if full < width and share > 0 else "")).ljust(width, ".")
    full, eighths = divmod(int(share * width * 8), 8)
    return ("█" * full + (_EIGHTHS[eighths] if full < width else "")).ljust(width)


def draw_progress(progress: Progress, width: int, *, is_ascii: bool = False) -> Row:
    """The row; the bar gives way first, then the note, then the share."""
    total = progress.total
    said = f"{progress.unit} {format_count(progress.done)}"
    if total <= 0:
        return fit_row([Run(said, "count"), Run(f"  {progress.note}", "note")], width)
    share = min(1.0, max(0.0, progress.done / total))
    count = Run(f"{said}/{format_count(total)}", "count")
    percent = Run(f" {math.floor(share * 1000) / 10:.1f} %", "count")  # downwards: 100 % is all of it
    note = Run(f"  {progress.note}" if progress.note else "", "note")
    room = width - sum(len(one_line(run.text)) for run in (count, percent, note)) - 3
    row = [count, percent, note]
    if room >= _SMALLEST_BAR:
        left, right = (" [", "]") if is_ascii else (" ▕", "▏")
        drawn = bar(share, min(room, _BAR_CELLS), is_ascii=is_ascii)
        row = [count, Run(left, "edge"), Run(drawn, "bar"), Run(right, "edge"), percent, note]
    elif room < -3:
        row = [count, percent]
    return fit_row(row, width)


class ProgressLine(Picture):
    """The progress of a run."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"picture--{look}" for look in ("count", "note", "bar", "edge")}
    DEFAULT_CSS = """
    ProgressLine {
        height: 1;
        width: 1fr;
        & > .picture--bar { color: ansi_green; }
        & > .picture--edge { text-style: dim; }
        & > .picture--note { text-style: bold; }
    }
    """

    progress: reactive[Progress] = reactive(Progress())

    def watch_progress(self) -> None:
        """Further."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The row."""
        return [draw_progress(self.progress, width, is_ascii=self.glyphs.is_ascii)]
