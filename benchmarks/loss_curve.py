"""The losses of XTuner and TRL on the same packs, step by step, and a drawing of both: part of `train.py`.

XTuner trains 200 steps and writes down what it trained on and at which learning rates; TRL's trainer is given those
packs in that order, the same weights to start from and the same optimizer. What is left is rounding, which grows as
the steps go on.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from train import Programs

PACK_LENGTH = 1024
# High enough for random weights to learn something in 200 steps.
PEAK_LR = 5e-4


def compare_losses(programs: "Programs", num_steps: int, image: Path) -> None:
    """Train both tools, print how far apart their losses are, and draw them."""
    from train import Case

    case = Case("", pack_length=PACK_LENGTH, num_ranks=1, num_threads=2, num_steps=num_steps)
    model = programs.model(case.num_ids, is_tied=case.is_tied)
    data = programs.data(case.num_ids) / "chats.jsonl"
    packs, rates = programs.directory / "curve-packs.jsonl", programs.directory / "curve-rates.json"
    flags = ["--model", model, "--data", data, "--lr", PEAK_LR, "--packs-to", packs, "--learning-rates-to", rates]
    ours = programs.xtuner(case, flags)["losses"]
    print(f"\nloss from {ours[0]:.4f} to {ours[-1]:.4f} in {num_steps} steps of one pack of {PACK_LENGTH:,} tokens")
    if programs.trl_python is None:
        return
    theirs = programs.trl(case, ["--model", model, "--packs", packs, "--learning-rates", rates])["losses"]
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    print(
        f"difference to TRL's, nats a token: first step {gaps[0]:.1e}, mean {statistics.mean(gaps):.1e}, "
        f"largest {max(gaps):.1e} in step {gaps.index(max(gaps)) + 1}"
    )
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(draw(ours, theirs), encoding="utf-8")
    print(f"drawn in {image}")


# --- The drawing ---

# Middle tones and no background: readable on a white and on a black page. TRL's line is wide and pale, ours thin and
# dark on top of it, so that equal curves show as one line in two colours.
_TEXT, _GRID, _OURS, _THEIRS = "#808080", "#80808040", "#2f7fd6", "#e0913a"
_WIDTH, _HEIGHT = 760, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 52


@dataclass(frozen=True)
class Scale:
    """From steps and losses to places in the picture."""

    num_steps: int
    low: float
    high: float

    def x(self, step: float) -> float:
        """The place of `step`, from 1."""
        return round(_LEFT + (step - 1) / max(1, self.num_steps - 1) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, loss: float) -> float:
        """The place of `loss`."""
        return round(_TOP + (self.high - loss) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM), 1)


def draw(ours: list[float], theirs: list[float]) -> str:
    """An SVG of both curves over the steps."""
    everything = [*ours, *theirs]
    tick = _tick(max(everything) - min(everything))
    scale = Scale(len(ours), min(everything) // tick * tick, (max(everything) // tick + 1) * tick)
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    description = (
        f"Loss over {len(ours)} steps, from {ours[0]:.2f} to {ours[-1]:.2f}; "
        f"XTuner and TRL differ by {max(gaps):.1e} at most."
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_TEXT}">',
        f"<title>{escape(description)}</title>",
        *_axes(scale, tick),
        _curve(theirs, scale, _THEIRS, 6, 0.75),
        _curve(ours, scale, _OURS, 1.6, 1),
        *_legend(max(gaps)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _tick(extent: float) -> float:
    """The distance of two lines of the grid, for about four to eight of them."""
    return next(tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if extent / tick <= 8 or tick == 5.0)


def _axes(scale: Scale, tick: float) -> list[str]:
    parts = []
    num_lines = round((scale.high - scale.low) / tick)
    for loss in [scale.low + i * tick for i in range(num_lines + 1)]:
        y = scale.y(loss)
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{loss:.2f}" if tick < 0.1 else f"{loss:.1f}", "end"))
    step_tick = max(1, scale.num_steps // 4)
    for step in [1, *range(step_tick, scale.num_steps + 1, step_tick)]:
        parts.append(_text(scale.x(step), _HEIGHT - _BOTTOM + 20, str(step), "middle"))
    middle = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    parts.append(_text(middle, _HEIGHT - 10, "optimizer step", "middle"))
    place = f'transform="translate(16 {_TOP + (_HEIGHT - _TOP - _BOTTOM) / 2}) rotate(-90)"'
    parts.append(f'<text {place} text-anchor="middle">loss, nats per trained token</text>')
    return parts


def _curve(losses: list[float], scale: Scale, colour: str, width: float, opacity: float) -> str:
    points = " ".join(f"{scale.x(step)},{scale.y(loss)}" for step, loss in enumerate(losses, start=1))
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-linejoin="round"/>'
    )


def _legend(largest_gap: float) -> list[str]:
    return [
        f'<path d="M{_LEFT} 18h28" stroke="{_THEIRS}" stroke-width="6" stroke-opacity="0.75"/>',
        _text(_LEFT + 36, 22, "TRL", "start"),
        f'<path d="M{_LEFT + 84} 18h28" stroke="{_OURS}" stroke-width="1.6"/>',
        _text(_LEFT + 120, 22, "XTuner", "start"),
        _text(_WIDTH - _RIGHT, 22, f"largest difference {largest_gap:.1e} nats", "end"),
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


if __name__ == "__main__":
    raise SystemExit("run me through train.py: python benchmarks/train.py --case curve --trl-python PYTHON")
