"""How long a chart takes to draw, as rows of text: the part of a redraw that is ours.

    python benchmarks/chart.py [--num-series 4] [--num-points 100000] [--size 120x30]

prints milliseconds of processor time, which other processes do not lengthen: the median and the largest of `--rounds`
redraws, of lines alone and of smoothed lines with what they smooth behind them. Before each redraw one sample is
appended to each series, as in a run that is watched.
"""

import argparse
import random
import statistics
import time

from xtuner.run import derived, series
from xtuner.tui.widgets.axis import growing_range
from xtuner.tui.widgets.braille import GLYPH_SETS, GlyphSet
from xtuner.tui.widgets.plot import Curve, Plot
from xtuner.tui.widgets.plot_drawing import draw_plot
from xtuner.tui.widgets.trace import Sample, find_extreme, is_extreme


def make_series(num_series: int, num_points: int) -> list[series.Series]:
    """Noisy losses that fall."""
    seeded = random.Random(0)
    all_series = []
    for place in range(num_series):
        samples = series.Series()
        steps = range(num_points)
        samples.extend(steps, [2 + place + 2 / (1 + step / 5000) + seeded.gauss(0, 0.2) for step in steps])
        all_series.append(samples)
    return all_series


def time_redraws(
    sources: list[series.Series], curves: list[Curve], size: tuple[int, int], glyphs: GlyphSet, rounds: int
) -> list[float]:
    """Milliseconds of each redraw."""
    spent_ms = []
    best: Sample | None = None
    for _ in range(rounds):
        for samples in sources:
            samples.append(len(samples), 2.0)
        began = time.process_time()
        bounds = curves[0].line.x_range()
        assert bounds is not None
        if best is None or not is_extreme(curves[0].line, best, is_lowest=True):
            best = find_extreme(curves[0].line, is_lowest=True)
        plot = Plot("loss", curves, growing_range(*bounds), unit="nats", best=best)
        draw_plot(plot, *size, glyphs)
        spent_ms.append(1000 * (time.process_time() - began))
    return spent_ms


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-series", type=int, default=4)
    parser.add_argument("--num-points", type=int, default=100_000)
    parser.add_argument("--size", default="120x30", help="cells, WIDTHxHEIGHT")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--glyphs", choices=list(GLYPH_SETS), default="braille")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    print(f"{arguments.num_series} series of {arguments.num_points:,} points, {width}x{height} cells")
    sources = make_series(arguments.num_series, arguments.num_points)
    lines = [Curve(f"run {place}", samples) for place, samples in enumerate(sources)]
    smooth = [
        Curve(curve.name, derived.Smoothed(samples, 0.9), envelope=samples)
        for curve, samples in zip(lines, sources, strict=True)
    ]
    for name, curves in (("lines", lines), ("smoothed over envelope", smooth)):
        for curve in curves:
            len(curve.line)  # what is derived is brought up to date once
        spent_ms = time_redraws(sources, curves, (width, height), GLYPH_SETS[arguments.glyphs], arguments.rounds)
        print(f"{name:24} median {statistics.median(spent_ms):6.2f} ms  largest {max(spent_ms):6.2f} ms")


if __name__ == "__main__":
    main()
