"""The verdict on a model directory."""

import os
import shlex
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from xtuner.errors import ModelError
from xtuner.hub.findings import Finding, HubError, Severity, fail, info, shown, shown_names, shown_path
from xtuner.hub.judge_config import (
    Config,
    architecture_of,
    first_int,
    judge_special_ids,
    judge_vocab_size,
    read_config,
    text_config,
)
from xtuner.hub.judge_tokenizer import TokenizerInfo, judge_tokenizer
from xtuner.hub.judge_weights import Weights, explain_no_weights, judge_weights
from xtuner.hub.near_miss import Diversion, explain_parent, judge_path
from xtuner.hub.regular_file import read_json_object

_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class ModelSummary:
    """A model in numbers, parameters counted from the weight headers; what config.json does not say is None."""

    architecture: str
    model_type: str
    num_parameters: int
    dtype: str
    size_bytes: int
    num_layers: int | None
    hidden_size: int | None
    num_heads: int | None
    num_kv_heads: int | None
    vocab_size: int | None
    context_length: int | None
    tied_embeddings: bool
    tokenizer: str | None
    has_chat_template: bool
    has_generation_config: bool
    weight_files: tuple[str, ...]


@dataclass(frozen=True)
class ModelReport:
    """All findings on a path, worst first, and a summary when there is a whole model.

    `candidates` are directories that may have been meant instead, `suggestion` is the one that must have been.
    """

    path: Path
    findings: tuple[Finding, ...]
    summary: ModelSummary | None = None
    suggestion: Path | None = None
    candidates: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model can be trained."""
        return self.num_fails == 0

    @property
    def num_fails(self) -> int:
        """How many findings stand in the way of training."""
        return sum(finding.severity is Severity.FAIL for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; the keys are stable."""
        return {
            "path": shown_path(self.path),
            "ok": self.ok,
            "findings": [{**asdict(finding), "severity": finding.severity.value} for finding in self.findings],
            "summary": asdict(self.summary) if self.summary else None,
            "suggestion": shown_path(self.suggestion) if self.suggestion else None,
            "candidates": [shown_path(path) for path in self.candidates],
        }


def require_model(
    path: str | os.PathLike[str], *, needs_chat_template: bool = True, needs_tokenizer: bool = True
) -> ModelReport:
    """The report on a path that must hold a trainable model.

    Raises:
        ModelError: it does not; message and hint are those of the first FAIL.
    """
    report = inspect_model(path, needs_chat_template=needs_chat_template, needs_tokenizer=needs_tokenizer)
    if not report.ok:
        first, num_more = report.findings[0], report.num_fails - 1
        check = f"xtuner check-model {shlex.quote(shown_path(path))}"
        more = f" (and {num_more} more: {check} lists all)" if num_more else ""
        raise ModelError(first.message + more, hint=first.hint)
    return report


def inspect_model(
    path: str | os.PathLike[str], *, needs_chat_template: bool = True, needs_tokenizer: bool = True
) -> ModelReport:
    """Look at everything a training run would trip over.

    Reads JSON files and weight headers only: nothing is executed, unpickled or fetched, and only regular files
    are opened. Never raises for what it finds.
    """
    directory = Path(path)
    try:
        diversion = judge_path(os.fspath(path)) or _judge_listing(directory)
        if diversion:
            return ModelReport(
                directory, (diversion.finding,), suggestion=diversion.suggestion, candidates=diversion.candidates
            )
        return _judge_directory(directory, needs_chat_template, needs_tokenizer)
    except OSError as error:  # it changed under our eyes, or the disk fails
        message = f"{shown_path(error.filename or path)} cannot be read: {error.strerror}"
        return ModelReport(directory, (fail("UNREADABLE", message, "check the directory and try again"),))


def _judge_directory(directory: Path, needs_chat_template: bool, needs_tokenizer: bool) -> ModelReport:
    names = sorted(os.listdir(directory))
    if "config.json" in names:
        config, findings = read_config(directory)
    else:
        config, findings = {}, [_no_config(directory)]
    weights = judge_weights(directory, names)
    findings += weights.findings
    num_rows = weights.num_embedding_rows
    if num_rows is not None and config:
        findings += [*judge_vocab_size(config, num_rows), *judge_special_ids(directory, config, num_rows)]
    tokenizer = judge_tokenizer(
        directory,
        # A shard that is missing may hold the rows that seem to be missing.
        num_rows if weights.is_complete else None,
        needs_tokenizer=needs_tokenizer,
        needs_chat_template=needs_chat_template,
    )
    findings += [*tokenizer.findings, *_judge_links(directory, names, findings)]
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    summary = _summarise(directory, config, weights, tokenizer) if config and weights.is_complete else None
    return ModelReport(directory, tuple(findings), summary)


def _no_config(directory: Path) -> Finding:
    message = f"{shown_path(directory)} has no config.json, so it is no model directory"
    return fail("NO_CONFIG", message, "check the path, or download the model again")


def _judge_listing(directory: Path) -> Diversion | None:
    """A directory that its list of files already gives away."""
    names = os.listdir(directory)
    has_weights = any(name.endswith(".safetensors") and not name.startswith("adapter_") for name in names)
    if has_weights or "model.safetensors.index.json" in names:
        return None
    if "adapter_config.json" in names:
        return Diversion(_adapter_only(directory))
    if "config.json" in names:
        return None
    without = explain_no_weights(directory, names)
    if without.code != "NO_WEIGHTS":
        return Diversion(without) if without.code == "GGUF_ONLY" else None
    return explain_parent(directory) or Diversion(_no_config(directory))


def _adapter_only(directory: Path) -> Finding:
    try:
        base = read_json_object(directory / "adapter_config.json").get("base_model_name_or_path")
    except HubError:
        base = None
    name = shown(base) if isinstance(base, str) and base else ""
    message = f"{shown_path(directory)} holds an adapter (LoRA){f' of {name}' if name else ''}, not a model"
    hint = f"train its base model{f', {name}' if name else ''}, or merge the adapter into it first"
    return fail("ADAPTER_ONLY", message, hint)


def _judge_links(directory: Path, names: list[str], findings: list[Finding]) -> list[Finding]:
    """Links that lead nowhere, beyond those that already stopped something."""
    links = [name for name in names if os.path.islink(directory / name) and not os.path.exists(directory / name)]
    told = " ".join(finding.message for finding in findings if finding.code == "DANGLING_LINK")
    rest = [name for name in links if shown_path(directory / name) not in told]
    if not rest:
        return []
    return [
        info("DANGLING_LINK", f"files that training does not need are links that lead nowhere: {shown_names(rest)}")
    ]


def _summarise(directory: Path, config: Config, weights: Weights, tokenizer: TokenizerInfo) -> ModelSummary:
    text = text_config(config)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    # config.json leaves out what is an architecture's default; a head that is not stored is a tied one.
    is_tied = tied if isinstance(tied, bool) else weights.head_name is None
    doubled = {weights.head_name} if is_tied else set()
    sizes: dict[str, int] = {}
    for tensor in weights.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.end - tensor.begin
    return ModelSummary(
        architecture=architecture_of(config),
        model_type=shown(config["model_type"]),
        num_parameters=sum(
            prod(tensor.shape)
            for name, tensor in weights.tensors.items()
            if tensor.dtype in _FLOATS and name not in doubled
        ),
        dtype=max(sizes, key=lambda dtype: sizes[dtype], default="none"),
        size_bytes=sum(os.stat(path).st_size for path in weights.files),
        num_layers=first_int(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden_size=first_int(text, "hidden_size", "n_embd", "d_model"),
        num_heads=first_int(text, "num_attention_heads", "n_head", "n_heads"),
        num_kv_heads=first_int(text, "num_key_value_heads", "num_kv_heads"),
        vocab_size=first_int(text, "vocab_size"),
        context_length=first_int(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        tied_embeddings=is_tied,
        tokenizer=tokenizer.kind,
        has_chat_template=tokenizer.has_chat_template,
        has_generation_config=os.path.isfile(directory / "generation_config.json"),
        weight_files=tuple(shown(path.name) for path in weights.files),
    )
