"""What a run leaves behind: exported models and adapters, and the links to the latest and the best of them."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from xtuner.errors import EnvironmentFault
from xtuner.run.exports import mark_verified
from xtuner.run.layout import (
    RunDir,
    exported_steps,
    point_best,
    point_latest,
    point_latest_adapter,
    remove_exports,
)
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.distributed import gather_strings
from xtuner.v1.model.export import export_model
from xtuner.v1.model.export_lora import export_adapter
from xtuner.v1.train.rank_log import RankLog

# EnvironmentFault: what was written cannot be read back.
_DISK_FAULTS = (OSError, SafetensorError, EnvironmentFault)


class Exporter:
    """Exports the model of a run; every rank must call the same methods in the same order.

    Args:
        model: the sharded model.
        config: what is exported, and with which tokenizer.
        run_dir: where to.
        log: this rank's.
        is_writer: true on exactly one rank.

    Attributes:
        best_step: the step of the best model so far, which is exported; None while there is none.
    """

    def __init__(
        self, model: PreTrainedModel, config: TrainerConfig, run_dir: RunDir, log: RankLog, *, is_writer: bool
    ) -> None:
        self._model = model
        self._config = config
        self._run_dir = run_dir
        self._log = log
        self._is_writer = is_writer
        self.best_step: int | None = None

    def export_latest(self, step: int) -> Path:
        """Export the model as it is after `step`, as the latest one; the directory of the model, or of its adapter."""
        if step != self.best_step:  # else it is there already
            self._export(step)
        self._point_latest(step)
        return self._run_dir.export(step) if self._config.lora.exports_model else self._run_dir.adapter(step)

    def _point_latest(self, step: int) -> None:
        if self._is_writer:
            if self._config.lora.rank:
                point_latest_adapter(self._run_dir, step)
                self._log.info(f"exported the adapter to {self._run_dir.adapter(step)}")
            if self._config.lora.exports_model:
                point_latest(self._run_dir, step)
                self._log.info(f"exported to {self._run_dir.export(step)}")
            self._remove_old()

    def after_step(self, step: int) -> None:
        """Export, if it is time; a disk that is full or fails costs a warning, and the export."""
        is_due = self._config.hf_interval and step % self._config.hf_interval == 0
        if is_due and (step == self.best_step or self._try_export(step)):
            self._point_latest(step)

    def export_best(self, step: int) -> bool:
        """Export the model as it is after `step`, let `hf-best` lead there, and remove what was the best before.

        Returns whether it is there.

        At every moment the link leads to a whole export. A disk that is full or fails costs a warning: the best model
        before stays the best that there is.
        """
        if not self._try_export(step):
            return False
        if self._is_writer:
            point_best(self._run_dir, step)
            if self.best_step is not None:
                self._remove(self.best_step)
        self.best_step = step
        return True

    def _remove_old(self) -> None:
        """Remove all but the newest ones, and those that a link leads to."""
        if self._config.hf_max_keep:
            for step in exported_steps(self._run_dir)[: -self._config.hf_max_keep]:
                self._remove(step)

    def _remove(self, step: int) -> None:
        try:
            remove_exports(self._run_dir, step)
        except OSError as error:
            self._log.warning(f"the export of step {step} could not be removed: {error}")

    def _try_export(self, step: int) -> bool:
        """Export on the way; whether it is there, as all ranks agree."""
        reason = ""
        try:
            self._export(step)
        except _DISK_FAULTS as error:
            reason = f"{type(error).__name__}: {error}"
        reasons = "".join(gather_strings(reason))
        if reasons and self._is_writer:
            self._log.warning(f"the model after step {step} could not be exported: {reasons}; training goes on")
        return not reasons

    def _export(self, step: int) -> None:
        """Write adapter and model, as far as they are wanted; an error of the first does not keep the second back.

        The ranks take part in both.
        """
        fault: Exception | None = None
        if self._config.lora.rank:
            try:
                export_adapter(self._model, self._run_dir.adapter(step), is_writer=self._is_writer)
            except _DISK_FAULTS as error:
                fault = error
        if self._config.lora.exports_model:
            self._export_model(step)
        if fault:
            raise fault

    def _export_model(self, step: int) -> None:
        export_model(
            self._model,
            self._run_dir.export(step),
            source=self._config.load_from,
            tokenizer_dir=self._config.tokenizer_dir,
            chat_template=self._config.chat_template,
            is_writer=self._is_writer,
        )
        if self._is_writer:
            self._mark(self._run_dir.export(step))

    def _mark(self, export: Path) -> None:
        try:
            mark_verified(self._run_dir, export)
        except OSError as error:
            self._log.warning(f"{export} is whole, but that could not be noted: {error}")
