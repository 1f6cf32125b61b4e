"""The second tab: the ranks in a table, with a reason where one stands out, and as shades over time."""

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from xtuner.run.store import RunStore
from xtuner.tui.monitor.session import Session
from xtuner.tui.monitor.tab_pane import TabPane
from xtuner.tui.widgets.braille import GlyphSet
from xtuner.tui.widgets.heatmap import Heat, HeatMap
from xtuner.tui.widgets.prompt import Prompt
from xtuner.tui.widgets.rank_table import RankTable, Value

HEAT_KEYS = (
    ("data_time", "data time", "s"),
    ("time", "step time", "s"),
    ("tgs", "throughput", "tokens/s"),
    ("max_memory", "memory", "GiB"),
    ("total_loss", "loss", "nats"),
)
_HEAT_STEPS = 400
_MANY_RANKS = 64
_MANY_RANKS_REPAINT_S = 3.0
_TABLE_KEYS = ("data_time", "time", "tgs", "max_memory")


def rank_values(session: Session, now: float) -> dict[int, Mapping[str, Value]]:
    """What the table shows of each rank; `now` is seconds since the epoch."""
    store = session.store
    latest = {key: store.latest(key) for key in _TABLE_KEYS}
    reasons: dict[int, str] = {}
    for alert in session.alerts:
        if alert.rank is not None:
            reasons.setdefault(alert.rank, alert.text)
    return {
        number: {
            "step": rank.last_step,
            "lag": None if rank.last_step is None else store.step - rank.last_step,
            "heard": None if rank.last_heard is None else max(0.0, now - rank.last_heard),
            "reason": reasons.get(number, ""),
            **{key: values.get(number) for key, values in latest.items()},
        }
        for number, rank in sorted(store.ranks.items())
    }


def heat_of(store: RunStore, key: str, title: str, unit: str) -> Heat:
    """The newest steps of all ranks, one value a step."""
    first = store.step - _HEAT_STEPS + 1
    rows = []
    for _, rank in sorted(store.ranks.items()):
        row: list[float | None] = [None] * _HEAT_STEPS
        series = rank.series.get(key)
        if series is not None:
            for step, value in zip(*series.samples(-_HEAT_STEPS), strict=True):
                if step >= first:
                    row[int(step) - first] = value
        rows.append(row)
    begin = next((place for place in range(_HEAT_STEPS) if any(row[place] is not None for row in rows)), 0)
    labels = [f"rank {number}" for number in sorted(store.ranks)]
    return Heat(f"{title}, the newest steps", labels, [row[begin:] for row in rows], unit)


class RanksPane(TabPane, can_focus=True):
    """Table and heat map; where only one of them has room, `h` changes to the other."""

    is_live: ClassVar[bool] = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "ask", "Filter", key_display="/", priority=True, id="ranks.filter"),
        Binding("h", "toggle_heat", "Heat map", id="ranks.heat"),
        Binding("t", "next_heat", "Heat of", id="ranks.heat-key"),
        Binding("escape", "clear", "All rows", show=False, id="ranks.clear"),
    ]

    def __init__(self, session: Session, glyphs: GlyphSet) -> None:
        super().__init__(session, glyphs)
        self._table = RankTable()
        self._heat = HeatMap(glyphs=glyphs)
        self._prompt = Prompt()
        self._heat_key = 0
        self._filter = ""
        self._painted_at = float("-inf")

    def compose(self) -> ComposeResult:
        """The table above the map."""
        yield self._table
        yield self._heat
        yield self._prompt

    def take_focus(self) -> None:
        """Give the keys to the table; while it is hidden, they are the pane's."""
        self.screen.set_focus(self._table if self._table.display else self)

    def repaint(self, now: float) -> None:
        """Show what is new; a thousand rows not at each frame."""
        is_soon = 0 <= now - self._painted_at < _MANY_RANKS_REPAINT_S
        if is_soon and len(self._session.store.ranks) > _MANY_RANKS:
            return
        self._painted_at = now
        values = rank_values(self._session, now)
        self._table.styles.max_height = len(values) + 2 if self._shows_both else None
        with self.app.batch_update():
            self._table.update_ranks(values)
        self._paint_heat()

    def _paint_heat(self) -> None:
        if self._heat.display:
            self._heat.heat = heat_of(self._session.store, *HEAT_KEYS[self._heat_key])

    @property
    def _shows_both(self) -> bool:
        return self._heat.display and self._table.display

    def on_heat_map_rank_picked(self, message: HeatMap.RankPicked) -> None:
        """Show that rank in the table."""
        message.stop()
        ranks = sorted(self._session.store.ranks)
        if message.rank < len(ranks) and ranks[message.rank] in self._table.ranks:
            self._table.move_cursor(row=self._table.ranks.index(ranks[message.rank]))

    def on_prompt_drafted(self, message: Prompt.Drafted) -> None:
        """Filter while it is typed."""
        message.stop()
        self._set_filter(message.text)

    def on_prompt_answered(self, message: Prompt.Answered) -> None:
        """Keep the filter."""
        message.stop()
        self._set_filter(message.text)
        self.take_focus()

    def on_prompt_left(self, message: Prompt.Left) -> None:
        """As it was before."""
        message.stop()
        self._set_filter(message.text)
        self.take_focus()

    def _set_filter(self, text: str) -> None:
        self._filter = text
        self._table.set_filter(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the prompt, the key that opens it is like any other."""
        return action not in ("ask", "clear") or not self._prompt.is_open

    def action_ask(self) -> None:
        """Ask for words that a row must have."""
        self._prompt.open("filter", "rows with", self._filter)

    def action_clear(self) -> None:
        """Show all ranks."""
        self._set_filter("")

    def action_toggle_heat(self) -> None:
        """Give the map all the room, or the table its part again."""
        self.toggle_class("-heat")
        self.call_after_refresh(self._paint_heat)
        self.call_after_refresh(self.take_focus)

    def action_next_heat(self) -> None:
        """Another key in the map."""
        self._heat_key = (self._heat_key + 1) % len(HEAT_KEYS)
        self._paint_heat()
