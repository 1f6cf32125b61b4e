"""The learning rate as a function of the step: nothing to save, nothing to restore."""

import math
from collections.abc import Callable

_DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    # Warm-up, stable, decay (MiniCPM, Hu et al. 2024): the peak until the last tenth, then straight down.
    "wsd": lambda progress: min(1.0, (1 - progress) / _WSD_DECAY_SHARE),
}
_WSD_DECAY_SHARE = 0.1


def learning_rate(
    step: int, total_steps: int, *, lr: float, lr_min: float, warmup_ratio: float, scheduler_type: str
) -> float:
    """The learning rate of `step` (from 1).

    During the w = floor(`warmup_ratio` * `total_steps`) warm-up steps it is `lr * step / w`; then it falls to
    `lr_min`, reached at the last step (`constant` stays at `lr`, `wsd` does so until the last tenth).
    """
    num_warmup = int(warmup_ratio * total_steps)
    if step <= num_warmup:
        return lr * step / num_warmup
    progress = (step - num_warmup) / max(1, total_steps - num_warmup)
    return lr_min + (lr - lr_min) * _DECAYS[scheduler_type](progress)
