"""Metric trackers: TensorBoard, wandb and trackio get the same values as the metrics files.

They are extras. What is missing is told before the run (`xtuner.preflight`), and what fails during it is a warning:
the metrics files have everything, and no chart is worth a run. Nothing leaves the machine unasked.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from typing import Protocol

from xtuner.run.layout import RunDir
from xtuner.run.text import visible
from xtuner.v1.config import TrainerConfig
from xtuner.v1.train.rank_log import RankLog

_PROJECT = "xtuner"


class Tracker(Protocol):
    """Takes the values of a step, named like `train/lr`."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` at `step`; steps come in order, one may come twice."""

    def close(self) -> None:
        """Write out what is left."""


class Trackers:
    """All trackers of a run on one rank; one that fails is closed with a warning, the others go on.

    Args:
        names: as in `--report-to`; none on every rank but the first.
        config: shown by trackers that show options.
        run_dir: whose name the run has there.
        log: takes the warnings.
    """

    def __init__(self, names: tuple[str, ...], config: TrainerConfig, run_dir: RunDir, log: RankLog) -> None:
        self._log = log
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            self._guard(name, partial(self._start, name, config, run_dir))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Report what a step's metrics record holds."""
        self._report("train", step, values)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Report what an evaluation's record holds."""
        self._report("eval", step, values)

    def close(self) -> None:
        """Close all."""
        for name, tracker in list(self._open.items()):
            self._guard(name, tracker.close)
        self._open.clear()

    def _report(self, group: str, step: int, values: Mapping[str, float]) -> None:
        named = {f"{group}/{key}": float(value) for key, value in values.items()}
        for name, tracker in list(self._open.items()):
            self._guard(name, partial(tracker.log, named, step))

    def _start(self, name: str, config: TrainerConfig, run_dir: RunDir) -> None:
        self._open[name] = _OPENERS[name](config, run_dir)

    def _guard(self, name: str, call: Callable[[], object]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # some talk, and stdout is for data
                call()
        except Exception as error:  # whatever it is, the training is worth more
            self._open.pop(name, None)
            self._log.warning(f"{name} gets no more values of this run: {type(error).__name__}: {visible(str(error))}")


class TensorBoardTracker:
    """Event files in the run directory: `tensorboard --logdir WORK_DIR` shows all runs."""

    def __init__(self, config: TrainerConfig, run_dir: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir.path / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` at `step`; flushed, so that a reader sees them at once."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


class WandbTracker:
    """A wandb run below the run directory, offline unless `WANDB_MODE` says otherwise."""

    def __init__(self, config: TrainerConfig, run_dir: RunDir) -> None:
        # Even offline it would report its own errors to its makers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run_dir.name,
            dir=str(run_dir.path),
            config=config.model_dump(mode="json"),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` at `step`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the wandb run."""
        self._run.finish()


class TrackioTracker:
    """A trackio run in trackio's own local database; `trackio show` shows it."""

    def __init__(self, config: TrainerConfig, run_dir: RunDir) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=run_dir.name,
            config=config.model_dump(mode="json"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` at `step`; those that are not finite are left out."""
        self._run.log({key: value for key, value in values.items() if math.isfinite(value)}, step=step)

    def close(self) -> None:
        """End the trackio run; ended by itself, it would be ended again, and talk, when the process exits."""
        self._trackio.finish()


_OPENERS: dict[str, Callable[[TrainerConfig, RunDir], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}
