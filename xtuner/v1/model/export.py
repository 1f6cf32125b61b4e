"""Sharded parameters to a Hugging Face directory, one layer in memory at a time.

Names, dtypes and the tied flag are those of the model the training started from; what training did not touch is
copied from there. The directory appears under its final name only when it is complete.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from xtuner.errors import TrainingFailed
from xtuner.hub.weights import weight_map
from xtuner.run.atomic import sync_directory, write_json
from xtuner.run.faults import point
from xtuner.v1.model.export_check import check_weights
from xtuner.v1.model.lora import merged_tensors
from xtuner.v1.model.shard import whole

MAX_SHARD_BYTES = 5 * 10**9
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"}
_COPIED_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".tiktoken"}


def export_model(
    model: PreTrainedModel,
    directory: Path,
    *,
    source: Path | None,
    tokenizer_dir: Path,
    is_writer: bool,
    chat_template: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `model` to `directory`; every rank must call it, the one with `is_writer` writes.

    Args:
        model: the sharded model.
        directory: the final name; it must not exist.
        source: the model directory the weights came from; None after random initialisation.
        tokenizer_dir: where tokenizer and chat template are copied from.
        is_writer: true on exactly one rank.
        chat_template: the template that was trained with, where it is another than the tokenizer's own.
        max_shard_bytes: a weight file is closed before it grows beyond this.

    Raises, on the writer alone, after which nothing of the export is left and the ranks are still in step:
        TrainingFailed: a weight is not finite.
        EnvironmentFault: what was written cannot be read back.
        OSError, SafetensorError: the disk is full, or fails.
    """
    layers = _full_layers(model, keep=is_writer)
    if not is_writer:
        _pass_by(layers)
        return
    try:
        source_files = weight_map(source) if source else {}
        writer = _ShardWriter(begin_directory(directory), max_shard_bytes)
        for tensors in layers:
            for name, tensor in _as_source(model, merged_tensors(model, tensors), source_files).items():
                writer.add(name, tensor)
        _add_untouched(writer, model, source_files)
        writer.finish()
        check_weights(writer.directory, writer.written)
        _write_small_files(model, writer.directory, source, tokenizer_dir)
        if chat_template:  # it wins over one inside tokenizer_config.json
            shutil.copyfile(chat_template, writer.directory / "chat_template.jinja")
        commit_directory(writer.directory, directory)
    except Exception:
        _pass_by(layers)
        discard_directory(directory)
        raise


def _pass_by(layers: Iterator[dict[str, torch.Tensor]]) -> None:
    """Take part in what is left of the gathering, which is collective."""
    for _ in layers:
        pass


def _full_layers(model: PreTrainedModel, *, keep: bool) -> Iterator[dict[str, torch.Tensor]]:
    """The whole tensors of one layer after the other, on the CPU; empty where `keep` is false."""

    def layer_of(item: tuple[str, torch.Tensor]) -> str:
        match = re.match(r".*?\.\d+\.", item[0])
        return match.group() if match else item[0]

    on_disk = set(model.state_dict())
    persistent = [(name, buffer) for name, buffer in model.named_buffers() if name in on_disk]
    for _, items in groupby([*model.named_parameters(), *persistent], layer_of):
        layer: dict[str, torch.Tensor] = {}
        for name, tensor in items:
            # Gathering is collective: every rank takes part, only the writer keeps the result.
            full = whole(tensor).detach()
            if keep:
                layer[name] = full.cpu()
        yield layer


def _as_source(
    model: PreTrainedModel, tensors: dict[str, torch.Tensor], source_files: dict[str, Path]
) -> dict[str, torch.Tensor]:
    """Rename, split and cast to what the source directory holds."""
    reverted = revert_weight_conversion(model, tensors)
    dtypes = _source_dtypes(source_files, list(reverted)) if source_files else {}
    default = model.config.dtype if isinstance(model.config.dtype, torch.dtype) else torch.float32
    return {name: tensor.to(dtypes.get(name, default)).contiguous() for name, tensor in reverted.items()}


def _source_dtypes(source_files: dict[str, Path], names: list[str]) -> dict[str, torch.dtype]:
    dtypes: dict[str, torch.dtype] = {}
    for path in {source_files[name] for name in names if name in source_files}:
        with safe_open(path, framework="pt") as file:
            for name in names:
                if source_files.get(name) == path:
                    dtypes[name] = file.get_slice(name)[:0].dtype if file.get_slice(name).get_shape() else torch.float32
    return dtypes


def _add_untouched(writer: "_ShardWriter", model: PreTrainedModel, source_files: dict[str, Path]) -> None:
    """What the source holds and the model has no parameter for: a tied head stored twice, other modalities."""
    tied = getattr(model, "all_tied_weights_keys", {}) or {}
    for name in sorted(set(source_files) - set(writer.locations)):
        twin = tied.get(name)
        if twin in writer.locations:
            writer.add(name, writer.read(twin))
        else:
            with safe_open(source_files[name], framework="pt") as file:
                writer.add(name, file.get_tensor(name))


class _ShardWriter:
    """Collects tensors into safetensors files of bounded size."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._open: dict[str, torch.Tensor] = {}
        self._open_bytes = 0
        self._num_files = 0
        self.locations: dict[str, int] = {}  # tensor name -> number of its file
        self.written: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        self.total_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TrainingFailed(
                f"{name} holds NaN or infinity: the model was not exported",
                hint="the last checkpoint and the exports before are as they were; lower --lr",
            )
        size = tensor.numel() * tensor.element_size()
        self.written[name] = tensor.dtype, tuple(tensor.shape)
        if self._open and self._open_bytes + size > self._max_bytes:
            self._close_file()
        # A tensor may share storage with another (a split of one matrix); safetensors wants its own.
        self._open[name] = tensor.clone() if tensor.untyped_storage().nbytes() != size else tensor
        self._open_bytes += size
        self.total_bytes += size
        self.locations[name] = self._num_files

    def read(self, name: str) -> torch.Tensor:
        if name in self._open:
            return self._open[name].clone()
        with safe_open(self._temporary(self.locations[name]), framework="pt") as file:
            return file.get_tensor(name)

    def finish(self) -> None:
        """Write the last file, give all files their final names and write the index when there are several."""
        self._close_file()
        if self._num_files == 1:
            self._temporary(0).rename(self.directory / "model.safetensors")
            return
        names = [f"model-{i + 1:05d}-of-{self._num_files:05d}.safetensors" for i in range(self._num_files)]
        for number, name in enumerate(names):
            self._temporary(number).rename(self.directory / name)
        write_json(
            self.directory / "model.safetensors.index.json",
            {
                "metadata": {"total_size": self.total_bytes},
                "weight_map": {name: names[number] for name, number in sorted(self.locations.items())},
            },
        )

    def _close_file(self) -> None:
        path = self._temporary(self._num_files)
        save_file(self._open, path, metadata={"format": "pt"})
        share_file(path)
        self._num_files += 1
        self._open, self._open_bytes = {}, 0

    def _temporary(self, number: int) -> Path:
        return self.directory / f"weights-{number:05d}.safetensors"


def share_file(path: Path) -> None:
    """Give `path` the mode the umask asks for: safetensors writes 0600 (safetensors#782)."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _write_small_files(model: PreTrainedModel, directory: Path, source: Path | None, tokenizer_dir: Path) -> None:
    """Config, generation config, tokenizer and template, byte for byte where there is a source."""
    if source is None:
        model.config.save_pretrained(directory)
    for origin in [tokenizer_dir, *([source] if source else [])]:
        for path in sorted(origin.iterdir()):
            is_weights = path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json")
            is_wanted = path.suffix in _COPIED_SUFFIXES or path.name.upper().startswith(("LICENSE", "NOTICE"))
            is_model_config = path.name in ("config.json", "generation_config.json") and origin != source
            if path.is_file() and is_wanted and not is_weights and not is_model_config:
                shutil.copyfile(path, directory / path.name)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert config.get("model_type") == model.config.model_type, "the exported config belongs to this model"


def begin_directory(directory: Path) -> Path:
    """An empty directory beside `directory`, to be filled and given to `commit_directory`, or `discard_directory`."""
    temporary = _unfinished(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    point("export.mkdir")
    return temporary


def discard_directory(directory: Path) -> None:
    """Remove what was begun for `directory`."""
    shutil.rmtree(_unfinished(directory), ignore_errors=True)


def _unfinished(directory: Path) -> Path:
    return directory.with_name(f".tmp-{directory.name}")


def commit_directory(temporary: Path, directory: Path) -> None:
    """Make every byte durable, then rename: the rename is what makes the export exist."""
    for path in [*temporary.iterdir(), temporary]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    point("export.rename.pre")
    if directory.exists():  # of an attempt that ended between its export and its end; this one is of the same step
        old = directory.with_name(f".old-{directory.name}")
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        point("export.swap")
        temporary.rename(directory)
        sync_directory(directory.parent)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(directory)
    sync_directory(directory.parent)
    point("export.rename.post")
