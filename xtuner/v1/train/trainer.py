"""`Trainer`: from a config to an exported model, on this rank."""

import time
from contextlib import suppress
from pathlib import Path

from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from xtuner.data.prepared import PreparedData
from xtuner.data.report import report_lines
from xtuner.errors import StoppedAndSaved, StoppedNotSaved, TrainingFailed, XTunerError
from xtuner.preflight import check_inputs, prepare_evaluation_data, prepare_training_data
from xtuner.run.checkpoints import Checkpoint
from xtuner.run.failure import first_failure, is_broken_connection, read_failures
from xtuner.run.faults import point
from xtuner.run.index import rebuild_index
from xtuner.v1.config import TrainerConfig
from xtuner.v1.datasets.batches import Batches
from xtuner.v1.engine.distributed import (
    Ranks,
    join_process_group,
    join_sequence_group,
    join_tensor_group,
    leave_process_group,
    require_same_everywhere,
    wait_for_all,
)
from xtuner.v1.engine.engine import StepOutcome, TrainEngine
from xtuner.v1.engine.flops import ModelFlops
from xtuner.v1.engine.isolation import check_isolation
from xtuner.v1.engine.memory import keep_freed_memory
from xtuner.v1.engine.oom import answer_out_of_memory
from xtuner.v1.engine.replicas import check_replicas
from xtuner.v1.model.attention import require_known_attention, use_attention
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.initialize import initialize_buffers, initialize_weights
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.lora import add_adapters, describe_adapters, initialize_adapters, store_frozen_as
from xtuner.v1.model.shard import compute_dtype, shard_model
from xtuner.v1.model.tensor_parallel import require_plan
from xtuner.v1.optim.schedule import learning_rate
from xtuner.v1.train.checkpoints import Checkpoints, data_facts
from xtuner.v1.train.data_log import pad_multiple, plan_lines, progress_log
from xtuner.v1.train.evaluate import Evaluation
from xtuner.v1.train.exporter import Exporter
from xtuner.v1.train.meter import Meter
from xtuner.v1.train.nonfinite import NonfiniteSteps
from xtuner.v1.train.optimizer import describe_optimizer, optimizer_of
from xtuner.v1.train.rank_log import RankLog
from xtuner.v1.train.run_start import start_beat, start_run
from xtuner.v1.train.signals import die_with_parent, raise_on_stop_signals
from xtuner.v1.train.trackers import Trackers
from xtuner.v1.train.watchdog import COMPUTING, EXPORTING, FETCHING, RECORDING, SAVING, Watchdog

# A run that fails waits this long for the save it has begun; torchrun leaves the other ranks 30 s.
_LAST_SAVE_S = 20.0


class Trainer:
    """One fine-tuning run, seen from one rank.

    Everything that can be known is checked in the constructor before the process group is made; `fit` trains.

    Raises:
        XTunerError: see `xtuner.errors`; the subclass says whether options, model, data or machine are at fault.
    """

    def __init__(self, config: TrainerConfig) -> None:
        die_with_parent()
        self.config = config
        self.step = 0
        self.ranks = Ranks.from_environment(sp_size=config.sp_size, tp_size=config.tp_size)
        check_inputs(config, self.ranks.world_size)
        self.model = _build_model(config)
        data = prepare_training_data(config, progress_log(self.ranks))
        eval_data = prepare_evaluation_data(config, progress_log(self.ranks))

        raise_on_stop_signals()
        mesh = join_process_group(self.ranks, config.fsdp_config.hsdp_sharding_size)
        fingerprint = data.fingerprint()
        start = start_run(config, self.ranks, fingerprint)
        self.run_dir = start.run_dir
        self._log = RankLog(self.run_dir, self.ranks.rank)
        point("start")
        self._batches = Batches(
            data,
            self.ranks.data_share,
            sequences_per_step=config.sequences_per_step(self.ranks.world_size),
            seed=config.seed,
            pad_multiple=pad_multiple(config),
        )
        self.total_steps = config.total_step or (config.epoch_num or 1) * self._batches.steps_per_epoch()
        self._beat = start_beat(self.run_dir, self.total_steps) if self.ranks.is_first else None
        self._watchdog = Watchdog(self.run_dir, self.ranks.rank, config.hang_timeout_s, on_hang=self._set_failed)
        require_same_everywhere(fingerprint, "the prepared data")
        require_same_everywhere(eval_data.fingerprint() if eval_data else "", "the prepared evaluation data")
        self._attention = _choose_attention(self.model, mesh, config)
        self._log_start(data, mesh, start.remarks)
        model_flops = ModelFlops.of_model(self.model)  # while it is whole: tensor parallel cuts it
        with answer_out_of_memory(self.model, config, mesh.device_type, step=0):
            self._engine = _build_engine(self.model, mesh, config, self.ranks)
        if self._engine.device.type == "cpu":
            keep_freed_memory()
        self._meter = Meter(self._engine.device, model_flops, num_sharing=config.tp_size)
        is_first = self.ranks.is_first
        self._exporter = Exporter(self.model, config, self.run_dir, self._log, is_writer=is_first)
        self._nonfinite = NonfiniteSteps(config, self._log, self.ranks.rank, self._batches.rows_of)
        self._trackers = Trackers(config.report_to if is_first else (), config, self.run_dir, self._log)
        self._evaluation = Evaluation(
            self._engine,
            eval_data,
            config,
            ranks=self.ranks,
            run_dir=self.run_dir,
            log=self._log,
            trackers=self._trackers,
            exporter=self._exporter,
            steps_per_epoch=self._batches.steps_per_epoch(),
            total_steps=self.total_steps,
            watchdog=self._watchdog,
            set_status=self._set_status,
            wants_stop=lambda: self._checkpoints.is_stopping,
        )
        self._checkpoints = Checkpoints(
            self._engine,
            config,
            self.run_dir,
            self._log,
            is_first=is_first,
            facts=data_facts(config, self.ranks.world_size, fingerprint),
            progress=self._progress,
        )
        if start.checkpoint:
            self._go_on_from(start.checkpoint)

    def fit(self) -> Path:
        """Train all steps, export the model, leave the process group, and return the exported directory."""
        self._set_status(state="running")
        if self.step == 0:
            self._evaluation.before_training()
        steps = range(self.step + 1, self.total_steps + 1)
        if self.step and self._evaluation.is_due and self._evaluation.ends_run_after(self.step):
            steps = range(0)
        for step in steps:
            self._watchdog.reach(FETCHING, step)
            point("step")
            self._meter.begin()
            batch = self._batches.fetch(step)
            self._meter.batch_ready()
            self._watchdog.reach(COMPUTING)
            lr = self._learning_rate(step)
            self.step = step
            with answer_out_of_memory(self.model, self.config, self._engine.device.type, step=step, batch=batch):
                outcome = self._engine.train_step(batch, lr, self._checkpoints.wishes)
            self._watchdog.reach(RECORDING)
            self._nonfinite.judge(step, outcome)
            values = self._meter.measure(batch, outcome, lr)
            self._log.step(step, self.total_steps, values)
            self._trackers.step(step, values)
            self._set_status(step=step, step_at=time.time())
            if self._evaluation.ends_run_after(step):
                break
            self._save_after(step, outcome)
        self._watchdog.reach(EXPORTING)
        self._set_status(state="exporting")
        exported = self._exporter.export_latest(self.step)
        self._checkpoints.wait()
        wait_for_all()  # nobody leaves while the first rank still writes
        self._watchdog.stop()
        self._set_status(state="finished", exit_code=0, message=self._evaluation.why_ended_early)
        self._close()
        return exported

    def _save_after(self, step: int, outcome: StepOutcome) -> None:
        """Export and save if it is time, and leave if a signal asks for it.

        Raises:
            StoppedAndSaved: the state after `step` is on disk.
            StoppedNotSaved: it could not be written.
        """
        self._watchdog.reach(SAVING)
        save_wished, stop_wished = outcome.wishes
        stop_wished |= self._evaluation.is_due
        if step == self.total_steps and not self._evaluation.is_due:  # the export comes at once
            return
        self._exporter.after_step(step)
        self._checkpoints.after_step(step, is_wanted=save_wished or stop_wished)
        if not stop_wished:
            return
        self._checkpoints.wait()
        reason = self._checkpoints.stop_reason
        if self._checkpoints.saved_step != step:
            raise StoppedNotSaved(
                f"{reason}; the state after step {step} could not be saved",
                hint=f"the log of rank 0 says why; checkpoints: {self.run_dir.checkpoints}",
            )
        raise StoppedAndSaved(
            f"{reason} after step {step} of {self.total_steps}; the state is saved",
            hint=f"go on with the same command and --resume {self.run_dir.path}",
        )

    def _progress(self) -> dict[str, object]:
        """What a checkpoint remembers besides the state of the engine, for `_go_on_from`."""
        return {
            "meter": self._meter.progress(),
            "evaluation": self._evaluation.progress(),
            "num_skipped": self._nonfinite.num_skipped,
        }

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        progress = self._checkpoints.restore(checkpoint)
        self.step = checkpoint.step
        if "meter" in progress:
            self._meter.go_on_from(progress["meter"])
        if "evaluation" in progress:
            self._evaluation.go_on_from(progress["evaluation"])
        self._nonfinite.num_skipped = int(progress.get("num_skipped", 0))
        self._log.resumed(checkpoint.step)
        self._set_status(step=checkpoint.step)

    def report_end(self, error: Exception) -> None:
        """Write into log and status that `error` ended the run; called on the rank that met it."""
        self._watchdog.stop()
        is_stop = isinstance(error, StoppedAndSaved | StoppedNotSaved)
        if not is_stop:
            with suppress(Exception):  # a rank that is gone, or hangs: the error itself is still to be told
                self._checkpoints.wait(_LAST_SAVE_S)
        exit_code = error.exit_code if isinstance(error, XTunerError) else TrainingFailed.exit_code
        self._set_status(state="stopped" if is_stop else "failed", exit_code=exit_code, message=self._cause(error))
        with suppress(OSError):  # the disk may be what failed; the error itself is still to be told
            self._log.error(f"step {self.step}: {type(error).__name__}: {error}")
        self._refresh_index()

    def _cause(self, error: Exception) -> str:
        """What ended the run: where this rank has only lost its connection, what the peer says that failed before."""
        first = first_failure(read_failures(self.run_dir.failures)) if is_broken_connection(str(error)) else None
        return first.sentence if first and not first.is_consequence else str(error)

    def _close(self) -> None:
        self._evaluation.close()
        self._trackers.close()
        if self._beat:
            self._beat.stop()
        self._refresh_index()
        self._log.close()
        leave_process_group()

    def _learning_rate(self, step: int) -> float:
        config = self.config
        return learning_rate(
            step,
            self.total_steps,
            lr=config.lr,
            lr_min=config.lr_min,
            warmup_ratio=config.warmup_ratio,
            scheduler_type=config.scheduler_type,
        )

    def _log_start(self, data: PreparedData, mesh: DeviceMesh, remarks: tuple[str, ...]) -> None:
        if not self.ranks.is_first:
            return
        config = self.config
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        dtype = str(compute_dtype(config.fsdp_config, mesh.device_type)).removeprefix("torch.")
        self._log.info(f"run directory: {self.run_dir.path}")
        for remark in remarks:
            self._log.warning(remark)
        self._log.info(
            f"model: {type(self.model).__name__}, {num_parameters:,} parameters; compute in {dtype}, "
            f"{'trained ' if config.lora.rank else ''}parameters and gradient reduction in float32"
        )
        if config.lora.rank:
            self._log.info(describe_adapters(self.model))
        self._log.info(describe_optimizer(self.model, config))
        self._log.info(f"attention: {self._attention}")
        vocab_size = self.model.config.get_text_config().vocab_size
        for line in report_lines(data, config.row_limit, vocab_size):
            self._log.info(line)
        for line in plan_lines(data, config, self.ranks.world_size, self.total_steps):
            self._log.info(line)

    def _set_status(self, **changes: object) -> None:
        if self._beat:
            self._beat.update(**changes)

    def _set_failed(self, message: str) -> None:
        self._set_status(state="failed", exit_code=TrainingFailed.exit_code, message=message)

    def _refresh_index(self) -> None:
        """The index can always be rebuilt: a full disk here must not fail a run whose model is exported."""
        if self.ranks.is_first:
            with suppress(OSError):
                rebuild_index(self.run_dir.work_dir)


def _build_model(config: TrainerConfig) -> PreTrainedModel:
    """The model on the meta device, with its adapters; refused if the ranks cannot share it as `config` says."""
    path = config.load_from or config.model_cfg
    assert path is not None, "TrainerConfig.check guarantees a model"
    model = build_meta_model(read_model_config(path))
    if config.load_from:
        add_adapters(model, config.lora, config.load_from)
    config.check_num_heads(model.config.get_text_config().num_attention_heads)
    require_plan(model, config.tp_size)
    return model


def _choose_attention(model: PreTrainedModel, mesh: DeviceMesh, config: TrainerConfig) -> str:
    """Set the model's attention kernel and say which it is."""
    require_known_attention(model, config.row_limit)
    return use_attention(model, config.attention, mesh.device_type, compute_dtype(config.fsdp_config, mesh.device_type))


def _build_engine(model: PreTrainedModel, mesh: DeviceMesh, config: TrainerConfig, ranks: Ranks) -> TrainEngine:
    """Shard the meta model, fill it from disk or at random, and put an optimizer on it."""
    if config.lora.rank and config.load_from:
        store_frozen_as(model, compute_dtype(config.fsdp_config, mesh.device_type), config.load_from)
    tensor_group = join_tensor_group(mesh.device_type, ranks)
    shard_model(model, mesh, config.fsdp_config, tensor_group)
    if config.load_from:
        load_weights(model, config.load_from)
    else:
        initialize_weights(model, config.seed)
    initialize_buffers(model)
    if config.lora.rank:
        initialize_adapters(model, config.seed, dropout_stream=ranks.rank // ranks.tp_size)
    engine = TrainEngine(
        model,
        optimizer_of(model, config),
        mesh=mesh,
        sequence_group=join_sequence_group(mesh.device_type, ranks),
        max_grad_norm=config.max_grad_norm,
        loss_chunk_size=config.loss_chunk_size,
        z_loss=config.z_loss,
    )
    check_isolation(model, engine.device)
    if tensor_group:
        check_replicas(model, tensor_group, engine.device)
    return engine
