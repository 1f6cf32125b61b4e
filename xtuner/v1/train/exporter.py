"""What a run leaves behind: exported models and adapters, and the links to the latest and the best of them."""

from pathlib import Path

from transformers import PreTrainedModel

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
from xtuner.v1.model.export import export_model
from xtuner.v1.model.export_lora import export_adapter
from xtuner.v1.train.rank_log import RankLog


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
        if self._is_writer:
            if self._config.lora.rank:
                point_latest_adapter(self._run_dir, step)
                self._log.info(f"exported the adapter to {self._run_dir.adapter(step)}")
            if self._config.lora.exports_model:
                point_latest(self._run_dir, step)
                self._log.info(f"exported to {self._run_dir.export(step)}")
            self._remove_old()
        return self._run_dir.export(step) if self._config.lora.exports_model else self._run_dir.adapter(step)

    def after_step(self, step: int) -> None:
        """Export, if it is time."""
        if self._config.hf_interval and step % self._config.hf_interval == 0:
            self.export_latest(step)

    def export_best(self, step: int) -> None:
        """Export the model as it is after `step`, let `hf-best` lead there, and remove what was the best before.

        At every moment the link leads to a whole export.
        """
        self._export(step)
        if self._is_writer:
            point_best(self._run_dir, step)
            if self.best_step is not None:
                self._remove(self.best_step)
        self.best_step = step

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

    def _export(self, step: int) -> None:
        if self._config.lora.rank:
            export_adapter(self._model, self._run_dir.adapter(step), is_writer=self._is_writer)
        if self._config.lora.exports_model:
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
