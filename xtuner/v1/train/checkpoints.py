"""When a run saves its state, what goes into it, and how a run goes on from it."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from transformers import PreTrainedModel

from xtuner.errors import DataError
from xtuner.run.checkpoints import Checkpoint, prune
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.restore import restore_checkpoint
from xtuner.v1.checkpoint.save import SaveFailed, save_checkpoint
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.memory import GIB, MASTER_BYTES, STATE_BYTES
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.model.matrices import hidden_matrices
from xtuner.v1.model.shard import whole_shape
from xtuner.v1.train.rank_log import RankLog
from xtuner.v1.train.signals import StopRequest


class Checkpoints:
    """The checkpoints of one run on one rank; every rank must call the same methods in the same order.

    Args:
        engine: whose state is saved.
        config: how often, and how many are kept.
        run_dir: where to.
        log: this rank's.
        is_first: true on the rank that decides about the time, and says what happens.
        facts: what must not change between saving and resuming, see `data_facts`.
        progress: gives what else is to be remembered; what the first rank gives is.

    Attributes:
        saved_step: the step of the newest checkpoint; 0 while there is none.
    """

    def __init__(
        self,
        engine: TrainEngine,
        config: TrainerConfig,
        run_dir: RunDir,
        log: RankLog,
        *,
        is_first: bool,
        facts: Mapping[str, Any],
        progress: Callable[[], dict[str, Any]],
    ) -> None:
        self._engine = engine
        self._config = config
        self._run_dir = run_dir
        self._log = log
        self._is_first = is_first
        self._facts = facts
        self._progress = progress
        self._interval_steps, self._interval_s = config.checkpoint_every
        self._saved_at = time.monotonic()
        self.saved_step = 0
        self._needed_bytes = checkpoint_bytes(engine.model, config)
        self._stop = StopRequest()
        if is_first and config.checkpoint_interval:
            self._warn_of_little_room()

    def wishes(self) -> tuple[bool, bool]:
        """Whether this rank wants the run to save, and to save and stop, after the step at hand."""
        is_due = self._interval_s is not None and time.monotonic() - self._saved_at >= self._interval_s
        is_asked = self._is_first and (is_due or self._run_dir.save_now.exists())
        return is_asked, bool(self._stop.signal_name)

    @property
    def stop_reason(self) -> str:
        """The signal that this rank was sent, in words."""
        return f"stopped by {self._stop.signal_name}" if self._stop.signal_name else "stopped by a signal"

    def after_step(self, step: int, *, is_wanted: bool) -> None:
        """Save, if it is time or a rank wanted it."""
        is_time = self._interval_steps is not None and step % self._interval_steps == 0
        if is_wanted or is_time or (step == 1 and self._config.save_first_step):
            self.save(step)

    def save(self, step: int) -> Checkpoint | None:
        """Save the state after `step`, unless it is saved; None when that failed.

        A failure costs a warning and never the run: a disk may have room again at the next time.
        """
        if step == self.saved_step:
            return None
        begun_at = time.monotonic()
        try:
            checkpoint = save_checkpoint(
                self._engine.model,
                self._engine.torch_optimizers,
                self._run_dir,
                step,
                device=self._engine.device,
                facts={**self._facts, "progress": self._progress()},
                needed_bytes=self._needed_bytes,
            )
        except SaveFailed as error:
            self._saved_at = time.monotonic()  # not at every step from here on, if it is a matter of time
            if self._is_first:
                self._log.warning(
                    f"the checkpoint of step {step} could not be saved: {error}; training goes on, "
                    "the checkpoints before it are kept"
                )
            return None
        self._saved_at, self.saved_step = time.monotonic(), step
        if self._is_first:
            self._log.info(f"saved {checkpoint.path} in {self._saved_at - begun_at:.1f} s")
            with suppress(OSError):
                self._run_dir.save_now.unlink(missing_ok=True)
            try:
                prune(self._run_dir, self._config.checkpoint_maxkeep)
            except OSError as error:
                self._log.warning(f"an old checkpoint could not be removed: {error}")
        return checkpoint

    def restore(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Go on from `checkpoint`; the progress that was saved with it.

        Raises:
            DataError: data, packing or batch are others, and `--allow-data-change` is not given.
            ModelError, EnvironmentFault: see `restore_checkpoint`.
        """
        manifest = checkpoint.manifest()
        changes = [
            f"{name} {manifest.get(name)!r} is now {value!r}"
            for name, value in self._facts.items()
            if name != "world_size" and manifest.get(name) != value
        ]
        if changes and not self._config.allow_data_change:
            raise DataError(
                f"{checkpoint.path} is of other data: {'; '.join(changes)}",
                hint="resume with the data and options of the run, or pass --allow-data-change",
            )
        goes_on = restore_checkpoint(
            self._engine.model, self._engine.torch_optimizers, checkpoint, device=self._engine.device
        )
        self.saved_step, self._saved_at = checkpoint.step, time.monotonic()
        if self._is_first:
            self._log.info(f"resumed from {checkpoint.path}: the next step is {checkpoint.step + 1}")
            for change in changes:
                self._log.warning(f"resumed with other data: {change}")
            if not goes_on:
                self._log.info(
                    f"saved by {manifest.get('world_size')} ranks, resumed by {self._facts['world_size']}: "
                    "random numbers (dropout) begin anew"
                )
        return dict(manifest.get("progress") or {})

    def _warn_of_little_room(self) -> None:
        num_kept = self._config.checkpoint_maxkeep
        needed = (num_kept + 1) * self._needed_bytes  # an old one goes only when the new one is whole
        free = shutil.disk_usage(self._run_dir.path).free
        if free < needed:
            self._log.warning(
                f"checkpoints take {self._needed_bytes / GIB:.2f} GiB each, {num_kept} of them and the one that is "
                f"written {needed / GIB:.2f} GiB; {self._run_dir.path} has {free / GIB:.2f} GiB free"
            )


def checkpoint_bytes(model: PreTrainedModel, config: TrainerConfig) -> int:
    """About how much a checkpoint of `model` takes on disk: the trained parameters and the optimizer's state.

    What is kept in 8 bits is written in float32.
    """
    of_matrices, of_others = STATE_BYTES["adamw" if config.optimizer == "adamw-8bit" else config.optimizer]
    matrices = {id(weight) for weight in hidden_matrices(model)}
    return sum(
        whole_shape(parameter).numel() * (MASTER_BYTES + int(of_matrices if id(parameter) in matrices else of_others))
        for parameter in model.parameters()
        if parameter.requires_grad
    )


def data_facts(config: TrainerConfig, world_size: int, data_fingerprint: str) -> dict[str, Any]:
    """What decides which rows a step trains, and on how many ranks."""
    return {
        "world_size": world_size,
        "data": data_fingerprint,
        "sequences_per_step": config.sequences_per_step(world_size),
        "seed": config.seed,
    }
