"""A checkpoint to a Hugging Face directory, on a CPU, without the devices it was trained on."""

import os
from pathlib import Path

import torch.distributed as dist

from xtuner.errors import EnvironmentFault, ModelError, UsageError
from xtuner.run.atomic import read_json
from xtuner.run.checkpoints import Checkpoint, checkpoint_at, fault_of
from xtuner.run.layout import RunDir
from xtuner.v1.checkpoint.restore import restore_parameters
from xtuner.v1.config import FSDPConfig, TrainerConfig
from xtuner.v1.engine.distributed import leave_process_group, mesh_of_ranks
from xtuner.v1.model.build import build_meta_model, read_model_config
from xtuner.v1.model.export import export_model
from xtuner.v1.model.export_lora import export_adapter
from xtuner.v1.model.initialize import initialize_buffers
from xtuner.v1.model.load import load_weights
from xtuner.v1.model.lora import add_adapters
from xtuner.v1.model.shard import shard_model


def export_checkpoint(path: Path, to: Path, *, adapter_only: bool = False) -> None:
    """Write the model of a checkpoint to `to`, as the run itself would have exported it.

    Args:
        path: the directory of a checkpoint inside its run.
        to: does not exist.
        adapter_only: the LoRA adapter instead of the merged model.

    Raises:
        UsageError: there is no checkpoint at `path`, something at `to`, or no adapter.
        ModelError: the checkpoint is broken, or the model it trained is gone.
        EnvironmentFault: `to` cannot be written, or the checkpoint belongs to another user.
    """
    checkpoint = _require_checkpoint(path)
    if os.path.lexists(to):
        raise UsageError(f"{to} exists", hint="pass a path that does not, --to NEW_DIR")
    config = _config_of(RunDir(checkpoint.path.parent.parent))
    if adapter_only and not config.lora.rank:
        raise UsageError(f"{path} is of a run without LoRA: it has no adapter", hint="leave out --adapter")
    if config.tp_size > 1:
        raise UsageError(
            f"{path} was saved with --tp-size {config.tp_size}: its matrices lie in cuts",
            hint="resume the run and let it end: its export is whole",
        )
    # One process alone needs no address.
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        _export(checkpoint, config, to, adapter_only=adapter_only)
    except OSError as error:
        raise EnvironmentFault(
            f"{to} cannot be written: {error.strerror or error}", hint="pass another --to, with room"
        ) from None
    finally:
        leave_process_group()


def _require_checkpoint(path: Path) -> Checkpoint:
    absolute = Path(os.path.abspath(path))  # of a link like `latest`, where it leads
    checkpoint = checkpoint_at(absolute.resolve())
    if checkpoint is None:
        raise UsageError(
            f"{path} is no checkpoint", hint="pass a directory like WORK_DIR/RUN/checkpoints/step-00000100"
        )
    fault = fault_of(checkpoint)
    if fault:
        raise ModelError(f"{path} cannot be used: {fault}", hint="xtuner runs WORK_DIR --json lists the others")
    return checkpoint


def _config_of(run_dir: RunDir) -> TrainerConfig:
    """The options of the run, with the paths as they were meant where it was started."""
    try:
        config = TrainerConfig(**read_json(run_dir.config_json))
        cwd = Path(str(read_json(run_dir.run_json).get("cwd") or "."))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the records of {run_dir.path} cannot be read: {error}",
            hint="config.json and run.json of the run say which model a checkpoint is of",
        ) from None
    names = ("load_from", "model_cfg", "tokenizer_path", "chat_template")
    paths = {name: cwd / value for name in names if (value := getattr(config, name)) is not None}
    return config.model_copy(update=paths)


def _export(checkpoint: Checkpoint, config: TrainerConfig, to: Path, *, adapter_only: bool) -> None:
    source = config.load_from or config.model_cfg
    assert source is not None, "the run had a model"
    model = build_meta_model(read_model_config(source))
    if config.load_from:
        add_adapters(model, config.lora, config.load_from)
    shard_model(model, mesh_of_ranks("cpu", 1), FSDPConfig())
    if config.load_from:
        load_weights(model, config.load_from)
    initialize_buffers(model)
    restore_parameters(model, checkpoint)
    if adapter_only:
        export_adapter(model, to, is_writer=True)
        return
    export_model(
        model,
        to,
        source=config.load_from,
        tokenizer_dir=config.tokenizer_dir,
        chat_template=config.chat_template,
        is_writer=True,
    )
