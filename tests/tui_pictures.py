"""Widgets in an app of their own, and pictures of them.

    python tests/tui_pictures.py DIRECTORY [--size 120x36]

writes an SVG of each widget with sample data, to be looked at.
"""

import argparse
import asyncio
import math
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.app import App
from textual.widget import Widget

SIZES = ((160, 48), (80, 24), (20, 5), (1, 1))


def strips_of(app: App) -> list:
    """The rows of the screen as they go to the terminal."""
    return app.screen._compositor.render_strips()


def text_on(app: App) -> str:
    """What can be read on the screen."""
    return "\n".join(strip.text for strip in strips_of(app))


def show(
    make: Callable[[], Widget],
    steps: Callable[[App, object], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    theme: str = "textual-dark",
) -> None:
    """Run `steps(app, pilot)` with the widget alone on the screen."""

    class OneWidget(App):
        def compose(self):
            yield make()

    async def main():
        app = OneWidget()
        app.theme = theme
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(main())


def samples() -> dict[str, Callable[[], Widget]]:
    """Each widget, with sample data."""
    sys.path.insert(0, str(Path(__file__).parent / "unit" / "tui"))
    from list_series import ListSeries

    from xtuner.tui.widgets.alert_list import AlertEntry, AlertList
    from xtuner.tui.widgets.card import Card, Reading
    from xtuner.tui.widgets.chart import LineChart
    from xtuner.tui.widgets.heatmap import Heat, HeatMap
    from xtuner.tui.widgets.log_view import LogView
    from xtuner.tui.widgets.plot import Band, Curve, Marker
    from xtuner.tui.widgets.progress_line import Progress, ProgressLine
    from xtuner.tui.widgets.rank_table import RankTable
    from xtuner.tui.widgets.state_pill import StatePill

    seeded = random.Random(42)
    raw = [3 * math.exp(-step / 300) + 1 + seeded.gauss(0, 0.1) for step in range(1000)]
    raw[500], raw[700] = 4.5, math.nan
    smooth, weight, total = [], 1.0, 0.0
    for value in raw:
        if math.isfinite(value):
            total, weight = total * 0.95 + 0.05 * value, weight * 0.95
        smooth.append(total / (1 - weight))
    evals = ListSeries([value + 0.3 for value in smooth[::100]], range(0, 1000, 100))

    def chart() -> Widget:
        train = Curve("train", ListSeries(smooth), envelope=ListSeries(raw))
        widget = LineChart("loss", [train, Curve("eval", evals)], unit="nats", best="low")
        widget.set_markers([Marker(250, "C"), Marker(520, "R"), Marker(750, "C")])
        return widget

    def band() -> Widget:
        low, high = ([value * factor for value in smooth] for factor in (0.8, 1.2))
        curve = Curve("memory", ListSeries(smooth), band=Band(ListSeries(low), ListSeries(high)))
        widget = LineChart("memory, all ranks", [curve], unit="GiB")
        widget.cursor_x = 400
        return widget

    def four() -> Widget:
        curves = [
            Curve(f"run {place}", ListSeries([value * (1 + place / 5) for value in smooth])) for place in range(4)
        ]
        return LineChart("loss of four runs", curves)

    def card() -> Widget:
        widget = Card("loss", ListSeries(smooth))
        widget.reading = Reading("1.684", "-0.012/100", "good", "")
        return widget

    def heat() -> Widget:
        widget = HeatMap()
        rows = [
            [5 + rank % 3 + (4 if rank == 5 and part > 60 else 0) + seeded.random() for part in range(100)]
            for rank in range(16)
        ]
        rows[3][40] = math.nan
        widget.heat = Heat("step time", [f"rank {rank}" for rank in range(16)], rows, "s")
        return widget

    def table() -> Widget:
        widget = RankTable()
        widget.update_ranks(
            {
                rank: {"step": 1234, "lag": 0, "data_time": 0.05, "time": 4.98, "tgs": 805.3, "max_memory": 15.9}
                for rank in range(8)
            }
            | {5: {"step": 1230, "data_time": 0.82, "reason": "rank 5: data_time 0.82 s against a median of 0.05 s"}}
        )
        return widget

    def alerts() -> Widget:
        widget = AlertList()
        widget.set_entries(
            [
                AlertEntry("error", "loss is NaN", "09:17", "rank 2, step 812: total_loss: nan", "lower --lr"),
                AlertEntry("warning", "rank 5 is slow", "09:12", "data_time 0.82 s against a median of 0.05 s"),
                AlertEntry("info", "checkpoint saved", "09:10"),
            ]
        )
        return widget

    class Lines:
        def bounds(self):
            return 0, 1000

        def read(self, number):
            level = "ERROR" if number % 50 == 49 else "WARNING" if number % 20 == 19 else "INFO"
            return f"[XTuner][RANK 0][2025-08-29 09:17:51][{level}] Step {number}/1000 total_loss: 1.722 数据"

    def progress() -> Widget:
        widget = ProgressLine()
        widget.progress = Progress(1234, 5000, "ETA 3:41:07")
        return widget

    return {
        "chart": chart,
        "band": band,
        "four": four,
        "card": card,
        "heat": heat,
        "ranks": table,
        "alerts": alerts,
        "log": lambda: LogView(Lines()),
        "progress": progress,
        "pill": lambda: StatePill("running"),
    }


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", default="120x36")
    parser.add_argument("--theme", default="textual-dark")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name, make in samples().items():

        async def save(app, pilot, name=name):
            (arguments.directory / f"{name}.svg").write_text(app.export_screenshot(), encoding="utf-8")
            print(f"{name}\n{text_on(app)}\n")

        show(make, save, (width, height), arguments.theme)


if __name__ == "__main__":
    main()
