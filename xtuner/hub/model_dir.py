"""The verdict on a model directory."""

import os
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtuner.errors import ModelError
from xtuner.hub.cache_layout import Snapshot
from xtuner.hub.chat_family import chat_family
from xtuner.hub.findings import Finding, HubError, Severity, fail, info, shown, shown_names, shown_path
from xtuner.hub.judge_code import judge_code
from xtuner.hub.judge_config import (
    Config,
    architecture_of,
    first_int,
    judge_vocab_size,
    num_layers_of,
    read_config,
    text_config,
)
from xtuner.hub.judge_layers import judge_layers
from xtuner.hub.judge_special_tokens import judge_special_tokens
from xtuner.hub.judge_tokenizer import TokenizerInfo, judge_tokenizer
from xtuner.hub.judge_weights import Weights, explain_no_weights, judge_weights
from xtuner.hub.near_miss import Diversion, explain_parent, judge_path
from xtuner.hub.regular_file import read_json_object
from xtuner.hub.safetensors_header import BITS, FLOAT_DTYPES
from xtuner.hub.unwritten import judge_unwritten

if TYPE_CHECKING:
    from xtuner.hub.judge_bytes import OnProgress

_LICENCES = ("license", "licence", "copying", "notice")


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
    chat_template_family: str | None
    has_generation_config: bool
    license_file: str | None
    weight_files: tuple[str, ...]


@dataclass(frozen=True)
class ModelReport:
    """All findings on a path, worst first, and a summary when there is a whole model.

    `candidates` are directories that may have been meant instead, `suggestion` is the one that must have been;
    `snapshots` tells more of those that are in a Hub cache.
    """

    path: Path
    findings: tuple[Finding, ...]
    summary: ModelSummary | None = None
    suggestion: Path | None = None
    candidates: tuple[Path, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()

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
            "snapshots": [snapshot.to_json() for snapshot in self.snapshots],
        }


class ModelRefused(ModelError):
    """A path that holds no trainable model; `report` has all findings, and what may have been meant."""

    def __init__(self, report: ModelReport) -> None:
        first, num_more = report.findings[0], report.num_fails - 1
        check = f"xtuner check-model {shlex.quote(shown_path(report.path))}"
        more = f" (and {num_more} more: {check} lists all)" if num_more else ""
        super().__init__(first.message + more, hint=first.hint)
        self.report = report


@dataclass(frozen=True)
class _Demands:
    """What the caller of `inspect_model` asks for."""

    needs_chat_template: bool
    needs_tokenizer: bool
    trust_remote_code: bool = False
    is_deep: bool = False
    on_progress: "OnProgress | None" = None


def require_model(
    path: str | os.PathLike[str], *, needs_chat_template: bool = True, needs_tokenizer: bool = True
) -> ModelReport:
    """The report on a path that must hold a trainable model.

    Raises:
        ModelRefused: it does not; message and hint are those of the first FAIL.
    """
    report = inspect_model(path, needs_chat_template=needs_chat_template, needs_tokenizer=needs_tokenizer)
    if not report.ok:
        raise ModelRefused(report)
    return report


def inspect_model(
    path: str | os.PathLike[str],
    *,
    needs_chat_template: bool = True,
    needs_tokenizer: bool = True,
    trust_remote_code: bool = False,
    is_deep: bool = False,
    on_progress: "OnProgress | None" = None,
) -> ModelReport:
    """Look at everything a training run would trip over.

    Reads JSON files, weight headers and a few KiB of each weight file; with `is_deep` all of the weights, which takes
    as long as hashing them, while `on_progress` is called now and then. Nothing is executed, unpickled or fetched, and
    only regular files are opened; `trust_remote_code` merely makes a request for code a warning. Never raises for what
    it finds.
    """
    demands = _Demands(needs_chat_template, needs_tokenizer, trust_remote_code, is_deep, on_progress)
    directory = Path(path)
    try:
        diversion = judge_path(os.fspath(path)) or _judge_listing(directory)
        if diversion:
            return _report_diversion(directory, diversion)
        return _judge_directory(directory, demands)
    except HubError as error:  # it changed under our eyes
        return ModelReport(directory, (error.finding(),))
    except OSError as error:  # the same, or the disk fails
        message = f"{shown_path(error.filename or path)} cannot be read: {error.strerror}"
        return ModelReport(directory, (fail("UNREADABLE", message, "check the directory and try again"),))


def _report_diversion(directory: Path, diversion: Diversion) -> ModelReport:
    return ModelReport(
        directory,
        (diversion.finding,),
        suggestion=diversion.suggestion,
        candidates=diversion.candidates,
        snapshots=diversion.snapshots,
    )


def _judge_directory(directory: Path, demands: _Demands) -> ModelReport:
    names = sorted(os.listdir(directory))
    if "config.json" in names:
        config, findings = read_config(directory)
    else:
        config, findings = {}, [_no_config(directory)]
    if config:
        findings += judge_code(directory, names, config, trust_remote_code=demands.trust_remote_code)
    weights = judge_weights(directory, names)
    findings += weights.findings
    num_rows = weights.num_embedding_rows
    tokenizer = judge_tokenizer(
        directory,
        # A shard that is missing may hold the rows that seem to be missing.
        num_rows if weights.is_complete else None,
        needs_tokenizer=demands.needs_tokenizer,
        needs_chat_template=demands.needs_chat_template,
    )
    if config:
        findings += judge_vocab_size(config, num_rows) if num_rows is not None else []
        findings += judge_layers(config, weights.tensors) if weights.is_complete else []
        findings += judge_special_tokens(directory, config, num_rows, tokenizer)
    findings += [*tokenizer.findings, *_judge_links(directory, names, findings)]
    findings += _judge_data(directory, names, weights, demands)
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    summary = _summarise(directory, names, config, weights, tokenizer) if config and weights.is_complete else None
    return ModelReport(directory, tuple(findings), summary)


def _judge_data(directory: Path, names: list[str], weights: Weights, demands: _Demands) -> Iterable[Finding]:
    if not demands.is_deep:
        return judge_unwritten(weights.headers)
    from xtuner.hub.judge_bytes import judge_bytes  # threads and hashes, of no use to a look at the headers

    return judge_bytes(directory, names, weights.headers, demands.on_progress)


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


def _summarise(
    directory: Path, names: list[str], config: Config, weights: Weights, tokenizer: TokenizerInfo
) -> ModelSummary:
    text = text_config(config)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    # config.json leaves out what is an architecture's default; a head that is not stored is a tied one.
    head_name = weights.head_name
    is_tied = tied if isinstance(tied, bool) else head_name is None
    like = Counter(map(itemgetter(0, 1), weights.tensors.values()))  # a mixture has 100,000 of a few shapes
    num_elements: Counter[str] = Counter()
    for (dtype, shape), count in like.items():
        num_elements[dtype] += count * prod(shape)
    num_parameters = sum(count for dtype, count in num_elements.items() if dtype in FLOAT_DTYPES)
    if is_tied and head_name is not None and weights.tensors[head_name].dtype in FLOAT_DTYPES:
        num_parameters -= prod(weights.tensors[head_name].shape)
    return ModelSummary(
        architecture=architecture_of(config),
        model_type=shown(config["model_type"]),
        num_parameters=num_parameters,
        dtype=max(num_elements, key=lambda dtype: num_elements[dtype] * BITS[dtype], default="none"),
        size_bytes=sum(os.stat(path).st_size for path in weights.files),
        num_layers=num_layers_of(text),
        hidden_size=first_int(text, "hidden_size", "n_embd", "d_model"),
        num_heads=first_int(text, "num_attention_heads", "n_head", "n_heads"),
        num_kv_heads=first_int(text, "num_key_value_heads", "num_kv_heads"),
        vocab_size=first_int(text, "vocab_size"),
        context_length=first_int(text, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        tied_embeddings=is_tied,
        tokenizer=tokenizer.kind,
        has_chat_template=tokenizer.chat_template is not None,
        chat_template_family=chat_family(tokenizer.chat_template) if tokenizer.chat_template else None,
        has_generation_config="generation_config.json" in names,
        license_file=next((shown(name) for name in names if name.lower().startswith(_LICENCES)), None),
        weight_files=tuple(shown(path.name) for path in weights.files),
    )
