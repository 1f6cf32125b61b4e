"""The two rows at the top: which run, how it stands, how far it is."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from textual.reactive import reactive

from xtuner.run.figures import duration
from xtuner.tui.widgets.axis import format_value
from xtuner.tui.widgets.cells import crop_left, num_cells, one_line
from xtuner.tui.widgets.picture import Picture, Row, Run, fit_row
from xtuner.tui.widgets.progress_line import Progress, draw_progress
from xtuner.tui.widgets.state_pill import pill_look, pill_text

if TYPE_CHECKING:
    from xtuner.tui.monitor.session import Session

_MIN_NAME = 12
_MAX_NAME_SHARE = 0.3
_GAP = "  "


@dataclass(frozen=True)
class Headline:
    """What the header says.

    Attributes:
        path: of the run.
        notes: what fits of the second row, the most important first.
    """

    path: str = ""
    state: str = "waiting"
    is_paused: bool = False
    progress: Progress = field(default_factory=Progress)
    notes: tuple[str, ...] = ()


def headline_of(session: "Session", now: float, *, is_paused: bool = False) -> Headline:
    """The header of a run at `now`, in seconds since the epoch."""
    store = session.store
    done, total = store.step, store.total_steps
    if not store.ranks and store.status is not None:
        done, total = store.status.step, store.status.total_steps
    left_s = store.eta_s() if session.is_alive else None
    eta = f"ETA {duration(left_s)}" if left_s is not None else ""
    return Headline(
        str(session.files.path), session.state, is_paused, Progress(done, total, eta), tuple(_notes(session, now))
    )


def _notes(session: "Session", now: float) -> list[str]:
    store, record = session.store, session.record
    notes = [f"elapsed {duration(session.elapsed_s(now))}"]
    tokens = store.num_tokens()
    if tokens is not None:
        notes.append(f"{format_value(tokens)} tokens{'' if session.has_past else ' so far'}")
    resumed = record.get("resumed")
    attempt = max(len(store.files.attempts), 1 + (len(resumed) if isinstance(resumed, list) else 0))
    notes.append(f"attempt {attempt}")
    if store.epoch is not None:
        notes.append(f"epoch {store.epoch}")
    notes += [
        f"{name} {_name_of(record[key])}" for name, key in (("model", "model"), ("data", "dataset")) if record.get(key)
    ]
    return notes


def _name_of(value: object) -> str:
    """The last parts of a path, or of the first of several."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dict):
        first = first.get("path", "")
    more = f" and {len(value) - 1} more" if isinstance(value, list) and len(value) > 1 else ""
    return "/".join(str(first).rstrip("/").split("/")[-1:]) + more


def draw_header(headline: Headline, width: int, height: int, *, is_ascii: bool, pill: Run) -> list[Row]:
    """The header in one or two rows; the path is cut first, as its end says most."""
    room = max(_MIN_NAME, int(width * _MAX_NAME_SHARE))
    path = crop_left(one_line(headline.path), room)
    paused = [Run(" PAUSED ", "paused"), Run(" ")] if headline.is_paused else []
    start = [Run(path, "path"), Run(_GAP), pill, Run(" "), *paused]
    taken = sum(num_cells(run.text) for run in start)
    progress = draw_progress(headline.progress, max(0, width - taken - 1), is_ascii=is_ascii)
    rows = [fit_row([*start, Run(" "), *progress], width)]
    if height > 1:
        rows.append(fit_row([Run(_GAP.join(headline.notes), "note")], width))
    return rows


class HeaderBar(Picture):
    """Run, state, progress, and what it is made of."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"picture--{look}"
        for look in ("path", "note", "count", "bar", "edge", "paused", "good", "warning", "bad", "waiting")
    }

    headline: reactive[Headline] = reactive(Headline())

    def watch_headline(self) -> None:
        """Another moment."""
        self.redraw()

    def draw(self, width: int, height: int) -> list[Row]:
        """The header."""
        state = self.headline.state
        pill = Run(pill_text(state, self.glyphs), pill_look(state))
        return draw_header(self.headline, width, height, is_ascii=self.glyphs.is_ascii, pill=pill)
