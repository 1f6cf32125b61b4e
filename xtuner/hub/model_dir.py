"""The verdict on a model directory."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from xtuner.errors import ModelError
from xtuner.hub.cache_layout import CacheLayout, recognise_cache
from xtuner.hub.findings import Finding, Severity
from xtuner.hub.safetensors_header import SafetensorsHeader, read_header
from xtuner.hub.weights import INDEX, read_index, weight_files

_MAX_JSON_BYTES = 10 * 2**20
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SHOWN = 5


@dataclass(frozen=True)
class ModelSummary:
    """A model in numbers; what config.json does not say is None."""

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
    has_tokenizer: bool
    has_chat_template: bool
    weight_files: tuple[str, ...]


@dataclass(frozen=True)
class ModelReport:
    """All findings on a path, worst first; a summary when there is a model; the path meant instead, if known."""

    path: Path
    findings: tuple[Finding, ...]
    summary: ModelSummary | None = None
    suggestion: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether the model can be trained."""
        return not any(finding.severity is Severity.FAIL for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        findings = [{**asdict(finding), "severity": finding.severity.value} for finding in self.findings]
        summary = asdict(self.summary) if self.summary else None
        return {
            "path": str(self.path),
            "ok": self.ok,
            "findings": findings,
            "summary": summary,
            "suggestion": str(self.suggestion) if self.suggestion else None,
        }


def require_model(
    path: str | os.PathLike[str], *, needs_tokenizer: bool = True, needs_chat_template: bool = True
) -> ModelReport:
    """The report on a path that must hold a trainable model.

    Raises:
        ModelError: it does not; message and hint are those of the worst finding.
    """
    report = inspect_model(path, needs_tokenizer=needs_tokenizer, needs_chat_template=needs_chat_template)
    if not report.ok:
        first = report.findings[0]
        num_more = sum(finding.severity is Severity.FAIL for finding in report.findings) - 1
        more = f" (and {num_more} more: xtuner check-model {shlex.quote(str(path))})" if num_more else ""
        raise ModelError(first.message + more, hint=first.hint)
    return report


def inspect_model(
    path: str | os.PathLike[str], *, needs_tokenizer: bool = True, needs_chat_template: bool = True
) -> ModelReport:
    """Look at everything a training run would trip over; reads JSON files and weight headers only."""
    directory = Path(path)
    try:
        problem = _judge_path(str(path), directory)
    except PermissionError as error:
        problem = _fail("UNREADABLE", f"{path} cannot be read: {error.strerror}", "check its permissions")
    if problem:
        cache = recognise_cache(directory) if problem.code == "HUB_CACHE" else None
        return ModelReport(directory, (problem,), suggestion=cache.snapshots[0] if cache and cache.is_certain else None)
    config, findings = _read_config(directory)
    headers, weight_findings = _read_weights(directory)
    findings += [*weight_findings, *_judge_config(config), *_judge_dtypes(headers)]
    findings += _judge_tokenizer(directory, needs_tokenizer, needs_chat_template)
    order = list(Severity)
    findings.sort(key=lambda finding: order.index(finding.severity))
    summary = _summarise(directory, config, headers) if config and headers else None
    return ModelReport(directory, tuple(findings), summary)


def _fail(code: str, message: str, hint: str) -> Finding:
    return Finding(Severity.FAIL, code, message, hint)


def _judge_path(text: str, path: Path) -> Finding | None:
    """What is wrong with the path itself."""
    if not path.exists():
        return _fail("PATH_MISSING", f"there is no model directory {text}", _near_miss(text))
    if not path.is_dir():
        return _fail("NOT_A_DIRECTORY", f"{text} is a file, not a model directory", f"pass {path.parent}")
    if (path / "config.json").exists():
        return None
    cache = recognise_cache(path)
    return _explain_cache(text, cache) if cache else None


def _near_miss(text: str) -> str:
    if text != text.strip() and Path(text.strip()).is_dir():
        return f"remove the blanks around it: {text.strip()}"
    if text.startswith("~") and Path(text).expanduser().is_dir():
        return f"the shell did not expand ~: {Path(text).expanduser()}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"if this is a model of the Hub, download it first: hf download {text} --local-dir {text.split('/')[1]}"
    return "check the path; it must be a local directory with config.json and safetensors files"


def _explain_cache(text: str, cache: CacheLayout) -> Finding:
    message = f"{text} is {cache.what}, not a model directory"
    if not cache.snapshots:
        return _fail("HUB_CACHE", message, "it holds no snapshot: download the model again")
    if cache.is_certain:
        return _fail("HUB_CACHE", message, f"use its snapshot: {cache.snapshots[0]}")
    choices = "".join(f"\n  {snapshot}" for snapshot in cache.snapshots[:_SHOWN])
    return _fail("HUB_CACHE", message, f"use one of its {len(cache.snapshots)} snapshots:{choices}")


def _read_config(directory: Path) -> tuple[dict[str, Any], list[Finding]]:
    path = directory / "config.json"
    if not path.is_file():
        return {}, [_explain_missing_config(directory)]
    if path.stat().st_size > _MAX_JSON_BYTES:
        return {}, [_fail("BAD_CONFIG", f"{path} is larger than 10 MiB", "download the file again")]
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [_fail("UNREADABLE", f"{path} cannot be read: {error.strerror}", "check its permissions")]
    except (ValueError, RecursionError) as error:
        return {}, [_fail("BAD_CONFIG", f"{path} is not JSON: {error}", "download the file again")]
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return {}, [_fail("BAD_CONFIG", f"{path} names no model_type", "is this the config of a language model?")]
    return config, []


def _explain_missing_config(directory: Path) -> Finding:
    if (directory / "adapter_config.json").is_file():
        return _fail(
            "ADAPTER_ONLY",
            f"{directory} holds an adapter, not a model",
            f"train its base model{_base_of_adapter(directory)}, or merge the adapter into it first",
        )
    inside = [child for child in sorted(directory.iterdir()) if (child / "config.json").is_file()]
    hint = f"did you mean {inside[0]}?" if len(inside) == 1 else "download the model again, or check the path"
    return _fail("NO_CONFIG", f"{directory} has no config.json", hint)


def _base_of_adapter(directory: Path) -> str:
    try:
        base = json.loads((directory / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
        return f" {str(base)[:200]}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _read_weights(directory: Path) -> tuple[dict[Path, SafetensorsHeader], list[Finding]]:
    findings: list[Finding] = []
    unfinished = sorted(path.name for path in directory.glob("*.incomplete"))
    if unfinished:
        message = f"a download did not end: {', '.join(unfinished[:_SHOWN])}"
        findings.append(Finding(Severity.WARN, "DOWNLOAD_UNFINISHED", message, "run the download again"))
    try:
        files = weight_files(directory)
    except ModelError as error:
        return {}, [*findings, _fail("BAD_INDEX", error.message, error.hint)]
    if not files:
        return {}, [*findings, _explain_missing_weights(directory)]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        message = f"{len(missing)} of {len(files)} weight files are missing: {', '.join(missing[:_SHOWN])}"
        is_link = any(os.path.islink(directory / name) for name in missing)
        hint = "their blobs were removed from the cache: download the model again" if is_link else "download them again"
        findings.append(_fail("SHARD_MISSING", message, hint))
    headers: dict[Path, SafetensorsHeader] = {}
    for path in files:
        if path.exists():
            try:
                headers[path] = read_header(path)
            except ModelError as error:
                findings.append(_fail("BAD_SHARD", error.message, error.hint))
    return headers, [*findings, *_compare_with_index(directory, headers)]


def _compare_with_index(directory: Path, headers: dict[Path, SafetensorsHeader]) -> Iterator[Finding]:
    if not (directory / INDEX).is_file():
        return
    index = read_index(directory)
    astray = [
        tensor
        for tensor, name in index.items()
        if directory / name in headers and tensor not in headers[directory / name].tensors
    ]
    if astray:
        message = f"{len(astray)} tensors are not in the file that {INDEX} names: {', '.join(astray[:_SHOWN])}"
        yield _fail("TENSOR_MISSING", message, "index and weight files come from different downloads; download again")
    extra = sorted({path.name for path in directory.glob("*.safetensors")} - set(index.values()))
    if extra:
        message = f"not named by the index, will not be read: {', '.join(extra[:_SHOWN])}"
        yield Finding(Severity.INFO, "NOT_IN_INDEX", message)


def _explain_missing_weights(directory: Path) -> Finding:
    if any(directory.glob("*.gguf")):
        return _fail("GGUF_ONLY", f"{directory} holds GGUF files, which cannot be trained", "get the original model")
    if any(directory.glob("*.bin")) or any(directory.glob("*.pt")) or any(directory.glob("*.pth")):
        return _fail(
            "PICKLE_ONLY",
            f"{directory} holds pickle weights, which can run code when loaded",
            "get a safetensors revision, or convert a copy you trust with save_pretrained of transformers",
        )
    return _fail("NO_WEIGHTS", f"{directory} has no safetensors weights", "download the model again")


def _judge_config(config: dict[str, Any]) -> Iterator[Finding]:
    if config.get("auto_map"):
        yield _fail(
            "REMOTE_CODE",
            "the model needs Python code of its own (auto_map in config.json), which is never run",
            "use a revision that transformers supports itself",
        )
    if config.get("quantization_config"):
        method = str(config["quantization_config"].get("quant_method", "unknown"))[:40]
        yield _fail("QUANTIZED", f"the weights are quantised ({method})", "train the unquantised model")
    architectures = config.get("architectures") or []
    is_decoder = any(str(name).endswith(("ForCausalLM", "ForConditionalGeneration")) for name in architectures)
    if config.get("is_encoder_decoder") or (architectures and not is_decoder):
        message = f"{', '.join(map(str, architectures))[:80]} may not be a decoder-only language model"
        yield Finding(Severity.WARN, "NOT_A_DECODER", message, "architectures ending in ForCausalLM can be trained")


def _judge_dtypes(headers: dict[Path, SafetensorsHeader]) -> Iterator[Finding]:
    dtypes = {tensor.dtype for header in headers.values() for tensor in header.tensors.values()}
    odd = sorted(dtype for dtype in dtypes if dtype.startswith(("F8", "F4", "F6", "I8", "U8")))
    if odd:
        yield _fail("QUANTIZED", f"there are weights of dtype {', '.join(odd)}", "train the unquantised model")


def _judge_tokenizer(directory: Path, needs_tokenizer: bool, needs_chat_template: bool) -> Iterator[Finding]:
    if needs_tokenizer and not (directory / "tokenizer.json").is_file():
        yield _fail(
            "NO_TOKENIZER",
            f"{directory} has no tokenizer.json",
            "download the tokenizer files, or pass --tokenizer-path DIR",
        )
    if needs_chat_template and not _has_chat_template(directory):
        yield _fail(
            "NO_CHAT_TEMPLATE",
            f"{directory} has no chat template, so chats cannot be shown to the model",
            "train the chat variant, or put its chat_template.jinja into the directory",
        )


def _has_chat_template(directory: Path) -> bool:
    if (directory / "chat_template.jinja").is_file():
        return True
    try:
        return bool(json.loads((directory / "tokenizer_config.json").read_text("utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _summarise(directory: Path, config: dict[str, Any], headers: dict[Path, SafetensorsHeader]) -> ModelSummary:
    tensors = [tensor for header in headers.values() for tensor in header.tensors.values()]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.end - tensor.begin
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    return ModelSummary(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        model_type=config["model_type"],
        num_parameters=sum(prod(tensor.shape) for tensor in tensors if tensor.dtype in _FLOATS),
        dtype=max(sizes, key=lambda dtype: sizes[dtype], default="none"),
        size_bytes=sum(path.stat().st_size for path in headers),
        num_layers=text.get("num_hidden_layers"),
        hidden_size=text.get("hidden_size"),
        num_heads=text.get("num_attention_heads"),
        num_kv_heads=text.get("num_key_value_heads"),
        vocab_size=text.get("vocab_size"),
        context_length=text.get("max_position_embeddings"),
        tied_embeddings=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        has_tokenizer=(directory / "tokenizer.json").is_file(),
        has_chat_template=_has_chat_template(directory),
        weight_files=tuple(path.name for path in headers),
    )
