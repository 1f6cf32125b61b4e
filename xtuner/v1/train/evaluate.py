"""When a run evaluates its model, what it says of it, which model is kept as the best, and when it is time to end."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xtuner.data.prepared import PreparedData
from xtuner.run.atomic import read_object, write_json
from xtuner.run.layout import RunDir
from xtuner.run.metrics import MetricsWriter, without_infinities
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.eval_batches import EvalBatches
from xtuner.v1.engine.distributed import Ranks
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.engine.evaluation import EvalOutcome, evaluate
from xtuner.v1.engine.oom import answer_out_of_memory
from xtuner.v1.train.data_log import pad_multiple
from xtuner.v1.train.exporter import Exporter
from xtuner.v1.train.generations import Generations
from xtuner.v1.train.rank_log import RankLog
from xtuner.v1.train.trackers import Trackers
from xtuner.v1.train.watchdog import EVALUATING, EXPORTING, REPLYING, Watchdog


@dataclass
class Progress:
    """How the evaluation loss goes.

    Attributes:
        patience: evaluations without improvement before the run ends; None for any number.
        min_delta: nats by which the loss must fall to count as improved.
        best_loss, best_step: the lowest loss so far, whatever it fell by.
        num_stale: evaluations since the last improvement.
    """

    patience: int | None = None
    min_delta: float = 0.0
    best_loss: float = math.inf
    best_step: int = -1
    num_stale: int = 0
    _to_beat: float = field(default=math.inf, init=False)

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        names = ("best_loss", "best_step", "num_stale", "_to_beat")
        return {name.lstrip("_"): getattr(self, name) for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; infinities may be words, as JSON has no numbers for them."""
        self.best_loss, self._to_beat = float(state["best_loss"]), float(state["to_beat"])
        self.best_step, self.num_stale = int(state["best_step"]), int(state["num_stale"])

    def add(self, step: int, loss: float) -> bool:
        """Take the loss after `step`; whether it is the lowest so far. NaN never is."""
        if loss < self._to_beat - self.min_delta:
            self._to_beat, self.num_stale = loss, 0
        else:
            self.num_stale += 1
        if not loss < self.best_loss:
            return False
        self.best_loss, self.best_step = loss, step
        return True

    @property
    def is_stalled(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.num_stale >= self.patience


class Evaluation:
    """The evaluations of one run on one rank; every rank must call the same methods in the same order.

    Args:
        engine: whose model is evaluated.
        data: what to evaluate on, the same on every rank; None for a run without evaluations.
        config: how often, how much, and when to end.
        ranks: this process among the others.
        run_dir: takes the records.
        log: of this rank.
        trackers: get the values too.
        exporter: keeps the best model.
        steps_per_epoch: optimizer steps between evaluations, where `config` does not say.
        total_steps: the last step, which is evaluated in any case.
        watchdog: is told how far it has come.
        set_status: tells the state of the run.
        wants_stop: whether this rank was asked to stop.

    Attributes:
        is_due: an evaluation was left because a rank was asked to stop; the run that goes on makes up for it.
    """

    def __init__(
        self,
        engine: TrainEngine,
        data: PreparedData | None,
        config: TrainerConfig,
        *,
        ranks: Ranks,
        run_dir: RunDir,
        log: RankLog,
        trackers: Trackers,
        exporter: Exporter,
        steps_per_epoch: int,
        total_steps: int,
        watchdog: Watchdog,
        set_status: Callable[..., None],
        wants_stop: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._config = config
        self._is_first = ranks.is_first
        self._run_dir = run_dir
        self._log = log
        self._trackers = trackers
        self._exporter = exporter
        self._interval = config.eval_interval or steps_per_epoch
        self._total_steps = total_steps
        self._watchdog = watchdog
        self._set_status = set_status
        self._wants_stop = wants_stop
        self.is_due = False
        self._progress = Progress(config.early_stopping_patience, config.early_stopping_min_delta)
        self.why_ended_early = ""
        self._batches = _batches(data, config, ranks) if data else None
        self._generations = (
            Generations(engine, data, config, run_dir, log, is_writer=self._is_first)
            if data and config.eval_generations
            else None
        )
        self._records = MetricsWriter(run_dir.eval_metrics) if data and self._is_first else None
        if self._batches and self._is_first:
            self._log.info(
                f"evaluation: {self._batches.num_packs:,} packs, {self._batches.num_targets:,} trained tokens; "
                f"before the first step, every {self._interval:,} steps and after the last"
            )

    def progress(self) -> dict[str, Any]:
        """How the evaluation loss went so far, for `go_on_from`."""
        return {**self._progress.state(), "is_due": self.is_due}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Continue the run that said `state`."""
        self._progress.restore(state)
        self.is_due = bool(state.get("is_due"))
        kept = read_object(self._run_dir.best_json).get("step")
        if self._progress.best_step > 0 and isinstance(kept, int):
            # The best one may be one that could not be exported.
            self._exporter.best_step = min(kept, self._progress.best_step)

    def before_training(self) -> None:
        """Evaluate the model as it was loaded: what training is measured against."""
        if self._batches:
            self._evaluate(0)
            self.is_due = False  # once trained, that model is gone

    def ends_run_after(self, step: int) -> bool:
        """Evaluate after `step` if it is time; whether the run is to end here, and not only at its last step."""
        self.is_due = False
        if not self._batches or not (step % self._interval == 0 or step == self._total_steps):
            return False
        self._evaluate(step)
        if self.is_due:
            return False
        if self._progress.is_stalled and step < self._total_steps:
            self.why_ended_early = (
                f"ended early after step {step}: the evaluation loss has not improved in "
                f"{self._progress.num_stale} evaluations (lowest: {self._progress.best_loss:.4f} "
                f"at step {self._progress.best_step})"
            )
            if self._is_first:
                self._log.info(self.why_ended_early)
        return bool(self.why_ended_early)

    def close(self) -> None:
        """Say which model was the best, and close the files."""
        if self._batches and self._is_first:
            self._log.info(self._verdict())
        if self._records:
            self._records.close()
        if self._generations:
            self._generations.close()

    def _evaluate(self, step: int) -> None:
        assert self._batches is not None
        self._watchdog.reach(EVALUATING)
        self._set_status(state="evaluating")
        begun_at = time.perf_counter()
        with answer_out_of_memory(self._engine.model, self._config, self._engine.device.type, step=step):
            outcome = evaluate(self._engine, self._batches, self._wants_end)
        self.is_due = outcome is None
        if outcome is None:
            self._set_status(state="running")
            return
        is_best = self._progress.add(step, outcome.loss)
        if self._is_first:
            self._tell(step, outcome, time.perf_counter() - begun_at, is_best=is_best)
        if self._generations:
            self._watchdog.reach(REPLYING)
            self._generations.write(step)
        if is_best and step:  # before the first step the model is what it was loaded from
            self._keep(step, outcome)
        self._set_status(state="running")

    def _wants_end(self) -> bool:
        """Asked after each batch."""
        self._watchdog.tick()
        return self._wants_stop()

    def _tell(self, step: int, outcome: EvalOutcome, time_s: float, *, is_best: bool) -> None:
        self._log.info(
            f"Evaluation at step {step}: loss {outcome.loss:.4f}, perplexity {outcome.perplexity:.2f}, "
            f"token accuracy {100 * outcome.token_accuracy:.1f} % ({outcome.num_tokens:,} tokens)"
            f"{', the best so far' if is_best and step else ''}"
        )
        assert self._records is not None
        times = {"timestamp": time.time(), "time": time_s}
        position = {"kind": "eval", "step": step, "total_steps": self._total_steps}
        self._records.write({**position, **times, **outcome.values, "is_best": is_best})
        self._trackers.evaluation(step, outcome.values)

    def _keep(self, step: int, outcome: EvalOutcome) -> None:
        self._watchdog.reach(EXPORTING)
        self._set_status(state="exporting")
        if self._exporter.export_best(step) and self._is_first:
            write_json(self._run_dir.best_json, without_infinities({"step": step, **outcome.values}))

    def _verdict(self) -> str:
        progress = self._progress
        if progress.best_step > 0:
            link = self._run_dir.best_export if self._config.lora.exports_model else self._run_dir.best_adapter
            is_kept = self._exporter.best_step == progress.best_step
            kept = f"kept as {link}" if is_kept else "which could not be exported"
            return f"best evaluation loss: {progress.best_loss:.4f} at step {progress.best_step}, {kept}"
        return "no evaluation was better than the one before the first step: no best model was kept"


def _batches(data: PreparedData, config: TrainerConfig, ranks: Ranks) -> EvalBatches:
    return EvalBatches(
        data,
        ranks.data_share,
        max_packs=config.eval_max_packs,
        pad_multiple=pad_multiple(config),
    )
