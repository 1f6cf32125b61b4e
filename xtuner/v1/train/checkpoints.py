"""When a run saves its state, what goes into it, and how a run goes on from it."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist
from transformers import PreTrainedModel

from xtuner.errors import DataError, StoppedNotSaved
from xtuner.run.checkpoints import Checkpoint, prune
from xtuner.run.faults import point
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.restore import restore_checkpoint
from xtuner.v1.checkpoint.save import SaveFailed, Snapshot, save_checkpoint
from xtuner.v1.config import TrainerConfig
from xtuner.v1.config.memory import GIB, MASTER_BYTES, STATE_BYTES
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.model.matrices import hidden_matrices
from xtuner.v1.model.shard import whole_shape
from xtuner.v1.train.rank_log import RankLog
from xtuner.v1.train.signals import StopRequest


@dataclass(frozen=True)
class _Save:
    """A save that was begun.

    Attributes:
        step: whose state it takes.
        begun_at: seconds of the monotonic clock.
        stall_s: how long the training waited before it could go on.
        is_asked: whether `RunDir.save_now` asked for it.
        outcome: what comes of it, and why an older one could not be removed.
    """

    step: int
    begun_at: float
    stall_s: float
    is_asked: bool
    outcome: "Future[tuple[Checkpoint, str]]"


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
        self._save: _Save | None = None
        # The default group belongs to the training: two threads in one group would take each other's messages.
        self._group = dist.new_group(backend="gloo") if config.async_checkpoint else None
        self._thread = ThreadPoolExecutor(1, "checkpoint") if config.async_checkpoint else None
        if is_first and config.checkpoint_interval:
            self._warn_of_little_room()

    def wishes(self) -> tuple[bool, bool]:
        """Whether this rank wants the run to save, and to save and stop, after the step at hand."""
        is_due = self._interval_s is not None and time.monotonic() - self._saved_at >= self._interval_s
        is_asked = self._is_first and self._save is None and (is_due or os.path.exists(self._run_dir.save_now))
        return is_asked, self.is_stopping

    @property
    def is_stopping(self) -> bool:
        """Whether this rank was sent a signal to stop."""
        return bool(self._stop.signal_name)

    @property
    def stop_reason(self) -> str:
        """The signal that this rank was sent, in words."""
        return f"stopped by {self._stop.signal_name}" if self._stop.signal_name else "stopped by a signal"

    def after_step(self, step: int, *, is_wanted: bool) -> None:
        """Save, if it is time or a rank wanted it."""
        if self._save and self._save.outcome.done():
            self.wait()
        is_time = self._interval_steps is not None and step % self._interval_steps == 0
        if is_wanted or is_time or (step == 1 and self._config.save_first_step):
            self.save(step)

    def save(self, step: int) -> None:
        """Save the state after `step`, unless it is saved; with `--async-checkpoint` only begin to.

        A failure costs a warning and never the run: a disk may have room again at the next time.
        """
        begun_at = time.monotonic()
        self.wait()
        if step == self.saved_step:
            return
        facts = {**self._facts, "progress": self._progress()}
        is_asked = self._is_first and os.path.exists(self._run_dir.save_now)
        outcome = self._start(partial(self._write, self._take(), step, facts))
        self._save = _Save(step, begun_at, time.monotonic() - begun_at, is_asked, outcome)
        if not self._thread:
            self.wait()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the save that was begun, if one was, and say what came of it; every rank learns the same.

        Raises:
            TimeoutError: it takes longer than `timeout_s`.
        """
        if self._save is None:
            return
        try:
            checkpoint, remark = self._save.outcome.result(timeout_s)
        except SaveFailed as error:
            self._tell_failure(self._save, error)
        else:
            self.saved_step = checkpoint.step
            self._tell_success(self._save, checkpoint, remark)
        self._save, self._saved_at = None, time.monotonic()

    def _start(self, work: "Callable[[], tuple[Checkpoint, str]]") -> "Future[tuple[Checkpoint, str]]":
        if self._thread:
            return self._thread.submit(work)
        outcome: Future[tuple[Checkpoint, str]] = Future()
        try:
            outcome.set_result(work())
        except SaveFailed as error:
            outcome.set_exception(error)
        return outcome

    def _take(self) -> Snapshot | Exception:
        """The state as it is now, or why this rank has no room for a copy of it, which the others are to learn."""
        try:
            point("save.snapshot")
            snapshot = Snapshot.take(self._engine.model, self._engine.torch_optimizers, self._engine.device)
            return snapshot.copied() if self._thread else snapshot
        except StoppedNotSaved:
            raise
        except Exception as error:
            return error

    def _write(self, snapshot: Snapshot | Exception, step: int, facts: Mapping[str, Any]) -> tuple[Checkpoint, str]:
        """Save, and remove what is old; beside the training, where a thread is there for it."""
        checkpoint = save_checkpoint(
            snapshot, self._run_dir, step, facts=facts, needed_bytes=self._needed_bytes, group=self._group
        )
        try:
            if self._is_first:
                prune(self._run_dir, self._config.checkpoint_maxkeep)
        except OSError as error:
            return checkpoint, f"an old checkpoint could not be removed: {error}"
        return checkpoint, ""

    def _tell_success(self, save: _Save, checkpoint: Checkpoint, remark: str) -> None:
        if not self._is_first:
            return
        waited = f", in the background: training waited {save.stall_s:.2f} s" if self._thread else ""
        self._log.info(f"saved {checkpoint.path} in {time.monotonic() - save.begun_at:.1f} s{waited}")
        if remark:
            self._log.warning(remark)
        if save.is_asked:
            with suppress(OSError):
                self._run_dir.save_now.unlink(missing_ok=True)

    def _tell_failure(self, save: _Save, error: SaveFailed) -> None:
        if self._is_first:
            self._log.warning(
                f"the checkpoint of step {save.step} could not be saved: {error}; training goes on, "
                "the checkpoints before it are kept"
            )

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
